"""What a sweep is: one run's configuration, a grid of values that make many of it, and controls."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from divalign.config import Config, Section, as_config, as_section, read_yaml, with_value
from divalign.study.plan import file_name


class Abliterate(Section):
    """Which trained models get a copy without their refusal direction."""

    recipes: tuple[str, ...] = Field(default=("cr",), description="models of these data recipes")
    layer: int = Field(default=-1, description="where the direction is found; 0 the embeddings, -1 the last")
    rounds: int = Field(default=4, ge=1, description="directions taken out, one after the other")


class Sweep(Section):
    """Many runs and what they say together."""

    run: dict[str, Any] = Field(default={}, description="the configuration that all runs share")
    grid: dict[str, tuple[Any, ...]] = Field(
        default={}, description="key of a run's configuration -> its values; a run for every combination"
    )
    controls: dict[str, dict[str, Any]] = Field(
        default={}, description="name -> key -> value: further runs, shown beside the verdict and kept out of it"
    )
    abliterate: Abliterate | None = None
    draws: int = Field(default=200, ge=100, description="bootstrap draws of each model's separation")


class Planned(NamedTuple):
    """One run of a sweep: its folder's name, the control it is or None, what the grid set, its configuration."""

    name: str
    control: str | None
    setting: dict[str, Any]
    config: Config


def load_sweep(path: Path) -> Sweep:
    """Read a sweep's YAML file. Raises ValueError, in one sentence, for a missing file or an unknown key."""
    return as_section(Sweep, read_yaml(path), str(path))


def planned_runs(sweep: Sweep) -> list[Planned]:
    """Return every run: the grid's combinations, then the controls. Raises ValueError as `load_config` does."""
    settings = [dict(zip(sweep.grid, values, strict=True)) for values in product(*sweep.grid.values())]
    runs = [Planned(_name(setting), None, setting, _config(sweep, setting)) for setting in settings]
    runs += [Planned(file_name(name), name, values, _config(sweep, values)) for name, values in sweep.controls.items()]
    names = [one.name for one in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"two runs of the sweep are called alike among {', '.join(names)}; rename a control")
    return runs


def _name(setting: Mapping[str, Any]) -> str:
    parts = [f"{key.split('.')[-1]} {value}" for key, value in setting.items()]
    return file_name("-".join(parts)) or "run"


def _config(sweep: Sweep, setting: Mapping[str, Any]) -> Config:
    content: dict[str, Any] = dict(sweep.run)
    for key, value in setting.items():
        content = with_value(content, key, value)
    return as_config(content, "the sweep")
