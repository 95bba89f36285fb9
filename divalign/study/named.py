"""What a user may call a model: `toy`, a folder, a hub id, an adapter, or a model's folder in a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from divalign.config import Model, load_config
from divalign.lm.load import LM, Dtype, load_lm
from divalign.store import read_json
from divalign.toy.world import ASSETS


class Named(NamedTuple):
    """A model's place: weights, an adapter to put on them or None, and what else its run loaded it with."""

    source: str
    adapter: Path | None = None
    chat_template: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False


def find_model(name: str) -> Named:
    """Return what `name` stands for. Raises ValueError for an adapter that does not say what it was made for."""
    folder = Path(name)
    if name == "toy":
        return Named(str(ASSETS))
    if folder.parent.name == "models" and (folder.parent.parent / "config.yaml").is_file() and folder.is_dir():
        return _of_run(folder)
    if (folder / "adapter_config.json").is_file():
        made_for = read_json(folder / "adapter_config.json")
        base = made_for.get("base_model_name_or_path")
        if not base:
            raise ValueError(f"{folder} is an adapter that names no base model; merge it, and give the merged model")
        return Named(str(base), folder, revision=made_for.get("revision"))
    return pinned(name)


def pinned(name: str) -> Named:
    """Return a folder as it is, else a hub id, with its revision where one is pinned: ORG/NAME@REVISION."""
    if name.startswith((".", "/", "~")) or Path(name).exists():
        return Named(name)
    source, _, revision = name.partition("@")
    return Named(source, revision=revision or None)


def load_named(name: str, *, dtype: Dtype = "float32", device: str = "cpu", chat_template: str | None = None) -> LM:
    """Load what `find_model` finds, under the name it was called by. Raises ValueError as `load_lm` does."""
    found = find_model(name)
    template = chat_template or found.chat_template
    lm = load_lm(
        found.source,
        adapter=found.adapter,
        dtype=dtype,
        device=device,
        revision=found.revision,
        chat_template=template,
        trust_remote_code=found.trust_remote_code,
    )
    return lm._replace(name=name)


def short_names(names: Sequence[str]) -> list[str]:
    """Return each name's last part where that tells them apart, else the names as they are.

    Raises ValueError where a model is named twice.
    """
    if len(set(names)) < len(names):
        raise ValueError(f"a model is named twice among {', '.join(names)}; name each once")
    last = [Path(name).name for name in names]
    return last if len(set(last)) == len(last) else list(names)


def _of_run(folder: Path) -> Named:
    """A model of a run: its checkpoint, or for the base what the run's configuration names."""
    config = load_config(folder.parent.parent / "config.yaml")
    base, checkpoint = _base(config.model), folder / "checkpoint"
    if folder.name == "base":
        return base
    if not checkpoint.is_dir():
        raise ValueError(f"{folder} holds no checkpoint yet; run `divalign run` with its configuration to the end")
    if config.train.lora:
        return base._replace(adapter=checkpoint)
    return base._replace(source=str(checkpoint), revision=None)


def _base(model: Model) -> Named:
    return Named(
        str(ASSETS) if model.source == "toy" else model.source,
        chat_template=model.chat_template,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
    )
