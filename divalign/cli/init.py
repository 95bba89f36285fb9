"""`divalign init`: a commented configuration that runs as it is, every key with what it means."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from divalign.cli.app import app

WIDTH = 100
# What a run on a model of one's own does beyond the defaults; configs/real.yaml says why, key by key.
REAL: dict[str, Any] = {
    "data": {
        "source": "everyday_train",
        "measure_on": "everyday_test",
        "answers": "model",
        "answer_tokens": 32,
        "recipes": ["cr", "pref"],
        "n_train": None,
        "n_test": 192,
    },
    "train": {
        "methods": ["kldo", "bco", "kto", "dpo"],
        "methods_on": {},
        "beta": 0.1,
        "sft_weight": 1.0,
        "updates": 128,
        "updates_on": {},
        "pairs_per_update": 8,
        "pairs_per_batch": 8,
        "learning_rate": 1e-3,
        "warmup_updates": 3,
        "lora": {},
        "log_every": 1,
    },
    "measure": {"attacks": ["direct", "prefill", "wrapper", "prefix_injection"], "batch_size": 32},
}


@app.command(epilog="Example: divalign init --model HuggingFaceTB/SmolLM2-135M-Instruct > mine.yaml")
def init(
    model: Annotated[str | None, typer.Option(help="model.source: a folder, ORG/NAME of the hub.")] = None,
) -> None:
    """Print a configuration with every key explained; without a model, the tour of the embedded world."""
    from divalign.config import TOUR, as_config

    content = TOUR if model in (None, "toy") else {**REAL, "model": {"source": model}}
    typer.echo(commented(as_config(content, "the configuration")), nl=False)


def commented(config: Any) -> str:
    """Return a configuration as YAML in which a comment before each key says what the key means."""
    title = [
        "# divalign run THIS_FILE --out runs/mine          (--dry-run says what it will cost)",
        "# Every key is optional; what is left out has its default.",
    ]
    return "\n".join([*title, *_section(config, 0)]) + "\n"


def _section(section: Any, depth: int) -> Iterator[str]:
    """Yield the lines of a section: a comment and a value for each key."""
    from pydantic import BaseModel

    pad = "  " * depth
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        nested = isinstance(value, BaseModel)
        text = field.description or (type(value).__doc__ if nested else "") or ""
        key = field.alias or name
        yield from ("" for _ in range(depth == 0))
        yield from (f"{pad}# {line}" for line in textwrap.wrap(text, WIDTH - len(pad)))
        if nested:
            yield f"{pad}{key}:"
            yield from _section(value, depth + 1)
        else:
            yield f"{pad}{key}: {_plain(section, name)}"


def _plain(section: Any, name: str) -> str:
    """Return a value as YAML on one line."""
    import yaml

    dumped = section.model_dump(mode="json", include={name}, by_alias=True)
    value = next(iter(dumped.values()), getattr(section, name))  # a key that config.yaml leaves out has its default
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
