"""A sweep on small models of the same architectures, with random weights: does the whole pipeline work on each.

Numbers of such a sweep mean nothing. The data are the embedded world's, the trainings a few updates long; methods,
variants, adapters, recipes, attacks and positions are the sweep's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from divalign.lm.architectures import write_random_model
from divalign.sections import with_value
from divalign.study.sweep_config import Sweep
from divalign.toy.world import ASSETS

# What is small whatever the sweep says.
SMALL: dict[str, Any] = {
    "data.source": "toy",
    "data.folder": None,
    "data.download": False,
    "data.measure_on": None,
    "data.n_train": 16,
    "data.n_test": 20,
    "data.n_held_out": 20,
    "model.device": "cpu",
    "model.chat_template": None,
    "model.revision": None,
    "train.epochs": None,
    "train.updates": 2,
    "train.updates_on": {},
    "train.warmup_updates": 1,
    "train.pairs_per_update": 4,
    "train.pairs_per_batch": 4,
    "train.seeds": [0],
    "measure.max_new_tokens": 4,
    "measure.gcg": None,
}


def with_random_weights(sweep: Sweep, folder: Path) -> Sweep:
    """Return the sweep with small random models, written to `folder`, in place of its base models.

    Raises ValueError for a base whose dimensions are not known.
    """
    run = sweep.run
    for key, value in SMALL.items():
        run = with_value(run, key, value)
    source = run["model"].get("source", "toy")
    if source != "toy":
        run = with_value(run, "model.source", _small(source, folder))
    grid = {axis: {name: _step(values, folder) for name, values in steps.items()} for axis, steps in sweep.grid.items()}
    controls = {name: _step(values, folder) for name, values in sweep.controls.items()}
    return sweep.model_copy(update={"run": run, "grid": grid, "controls": controls, "draws": 100})


def _step(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a step without what is small anyway, and with a small base."""
    changes = {key: value for key, value in values.items() if key not in SMALL}
    if "model.source" in changes:
        changes["model.source"] = _small(changes["model.source"], folder)
    return changes


def _small(source: str, folder: Path) -> str:
    name = re.sub(r"[^\w.-]", "--", source)
    return str(write_random_model(source, folder / name, tokenizer=ASSETS))
