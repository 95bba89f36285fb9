"""The models of a run, each with the key that names everything it depends on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from divalign import __version__
from divalign.config import Config
from divalign.core.losses import find_method
from divalign.data.examples import Request, Row
from divalign.data.recipes import find_recipe
from divalign.store import digest, folder_digest
from divalign.study.corpus import Corpus
from divalign.toy.world import ASSETS


class Aligned(NamedTuple):
    """A model to be trained: its folder's name, what is done to it, its rows and updates, and the key of the result."""

    name: str
    method: str
    recipe: str
    seed: int
    rows: list[Row]
    updates: int
    key: str


def model_source(config: Config) -> str:
    return str(ASSETS) if config.model.source == "toy" else config.model.source


def base_key(config: Config) -> str:
    """Return the content key of the base model as it will be loaded, without loading it."""
    source = Path(model_source(config))
    weights = folder_digest(source) if source.is_dir() else str(source)
    template = config.model.chat_template
    text = Path(template).read_text(encoding="utf-8") if template and Path(template).is_file() else template
    return digest("base", __version__, weights, config.model.model_dump(mode="json", exclude={"source"}), text)


def plan(config: Config, corpora: dict[int, Corpus]) -> list[Aligned]:
    """Return every (seed, recipe, method) of the run, with its training rows.

    Raises ValueError for an unknown method or recipe, before anything is trained.
    """
    base, settings = (
        base_key(config),
        config.train.model_dump(mode="json", exclude={"methods", "methods_on", "seeds", "updates_on"}),
    )
    for recipe in (*config.train.methods_on, *config.train.updates_on):
        find_recipe(recipe)
    several = len(config.train.seeds) > 1
    models = []
    for seed in config.train.seeds:
        for recipe in config.data.recipes:
            rows = training_rows(corpora[seed].train, recipe)
            data = digest(rows)
            for method in config.train.methods_on.get(recipe, config.train.methods):
                updates = config.train.updates_on.get(recipe, config.train.updates)
                told = {**settings, "updates": updates}
                key = digest("train", __version__, base, data, find_method(method).name, seed, told)
                name = file_name(f"{recipe}-{method}" + (f"-seed{seed}" if several else ""))
                models.append(Aligned(name, method, recipe, seed, rows, updates, key))
    return models


def file_name(text: str) -> str:
    """Return `text` with an underscore for every sign that a file's name had better not have."""
    return re.sub(r"[^\w.,()-]", "_", text)


def training_rows(requests: Sequence[Request], recipe: str) -> list[Row]:
    """Return a recipe's rows.

    Raises ValueError where no recipe has that name.
    """
    return [*map(find_recipe(recipe), requests)]
