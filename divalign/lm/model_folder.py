"""What a model must be before transformers reads it: safetensors of its own folder, and settings of bounded size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from divalign.limits import refuse_large_settings
from divalign.lm.adapter_folder import SETTINGS, WEIGHTS, check_adapter
from divalign.store import read_json

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
WEIGHTS_SETTING = "transformers_weights"  # of config.json: the file that is read in place of model.safetensors


def check_model(source: str, revision: str | None = None, *, is_base: bool = False) -> None:
    """Raise ValueError where transformers would read other weights of a model than its own safetensors.

    Of a hub id, the files that say what is read are fetched first. `is_base` is for the base of an adapter that
    transformers finds at `source` by itself.
    """
    folder = Path(source)
    looks_local = source.startswith((".", "/", "~")) or folder.exists()
    if looks_local:
        _check_folder(folder, source)
    else:
        fetched = _fetched(source, revision)
        if fetched is None:
            return  # transformers says what is missing
        folder = fetched
    _check_config(folder / CONFIG)
    for index in folder.glob("*.safetensors.index.json"):
        _check_index(index)
    if (folder / SETTINGS).is_file():
        base = check_adapter(folder).get("base_model_name_or_path")
        if base and not (looks_local and (folder / CONFIG).is_file()):
            if is_base:
                raise ValueError(f"{source!r} is an adapter, and the base of one; merge it into its own base first")
            check_model(base, revision, is_base=True)


def _check_folder(folder: Path, source: str) -> None:
    """Tell apart, before transformers does it in a page of text, a missing folder and one without weights."""
    if not folder.is_dir():
        raise ValueError(
            f"no model folder at {source!r}; give a folder with config.json and *.safetensors, or a hub id"
        )
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"the model folder {source!r} holds no *.safetensors weights; save the model with save_pretrained "
            "(pickled weights, *.bin or *.pt, are not read: they can run code)"
        )
    refuse_large_settings(folder)


def _fetched(source: str, revision: str | None) -> Path | None:
    """Return the folder of the hub's cache with what says which weights are read; None where there is nothing."""
    folder = None
    for name in (CONFIG, INDEX, SETTINGS, WEIGHTS):
        if name == WEIGHTS and not (folder and (folder / SETTINGS).is_file()):
            continue
        try:
            folder = Path(hf_hub_download(source, name, revision=folder.name if folder else revision)).parent
        except (OSError, ValueError):  # not in the repository, or not in the cache while offline
            continue
    if folder is not None:
        refuse_large_settings(folder)
    return folder


def _check_config(path: Path) -> None:
    """Raise ValueError where the configuration names weights of its own choice that are no safetensors beside it."""
    if not path.is_file():
        return
    for key, value in _entries(_read(path)):
        if key == "attribute_map" and isinstance(value, dict) and WEIGHTS_SETTING in value:
            raise ValueError(f"{path} gives {WEIGHTS_SETTING} another name by attribute_map; take it out")
        if key == WEIGHTS_SETTING and value is not None:
            _refuse_foreign(value, path, (".safetensors", ".safetensors.index.json"))


def _entries(content: Any) -> list[tuple[str, Any]]:
    """Return every key of an object and of the objects in it, with its value."""
    entries, pending = [], [content]
    while pending:
        part = pending.pop()
        entries += list(part.items()) if isinstance(part, dict) else []
        pending += part.values() if isinstance(part, dict) else part if isinstance(part, list) else []
    return entries


def _check_index(path: Path) -> None:
    """Raise ValueError where the index of a model in several files names others than safetensors beside it."""
    content = _read(path)
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict):
        raise ValueError(f"{path} has no object weight_map; save the model with save_pretrained")
    for name in shards.values():
        _refuse_foreign(name, path, (".safetensors",))


def _refuse_foreign(name: Any, path: Path, endings: tuple[str, ...]) -> None:
    if not isinstance(name, str) or not name.endswith(endings) or "/" in name or "\\" in name:
        raise ValueError(
            f"{path} names {name!r:.200} as weights, expected the name of a *.safetensors file in the same folder "
            "(pickled weights, *.bin or *.pt, are not read: they can run code)"
        )


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
