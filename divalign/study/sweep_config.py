"""What a sweep is: one run's configuration, a grid of values that make many of it, and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from divalign.config import Config, as_config
from divalign.sections import Real, Section, as_section, overridden, read_yaml, with_value
from divalign.store import file_name

RESERVED = {"base", "abliterated"}  # in sweep.json, base models and copies without their refusal direction
BASE = ("source", "revision", "dtype", "chat_template")  # keys of `model` that make another base of it
SEEDS = "train.seeds"
ALL = "all"  # the runs that resources without a step are for


class Abliterate(Section):
    """Which trained models get a copy without their refusal direction."""

    recipes: tuple[str, ...] = Field(default=("cr",), description="models of these data recipes")
    layer: int = Field(default=-1, description="layer of the direction; 0 the embeddings, -1 the last")
    rounds: int = Field(default=4, ge=1, description="directions taken out, one by one")


class Resources(Section):
    """What a run takes of a Ray cluster."""

    cpus: Real = Field(default=1.0, gt=0, description="processor cores, which are its threads too")
    gpus: Real | None = Field(
        default=None, ge=0, description="GPUs, or a share of one; null: one where the cluster has any"
    )


class Sweep(Section):
    """Many runs and the verdicts over their models."""

    run: dict[str, Any] = Field(default={}, description="the configuration that all runs share")
    grid: dict[str, dict[str, dict[str, Any]]] = Field(
        default={},
        description="axis -> its steps by name -> key of a run's configuration -> value; a run for every combination",
    )
    controls: dict[str, dict[str, Any]] = Field(
        default={}, description="name -> key -> value: further runs, shown beside the verdict and kept out of it"
    )
    abliterate: Abliterate | None = None
    draws: int = Field(default=200, ge=100, description="bootstrap draws of each model's separation")
    # Not a part of what a sweep is: the same sweep resumes with other resources.
    resources: dict[str, Resources] = Field(
        default={}, exclude=True, description="step of the grid, control, or 'all' -> what its runs take on Ray"
    )


class PlannedRun(NamedTuple):
    """One run: its folder's name, the control it is or None, the grid's steps in words, its configuration.

    An axis that says which base model is trained is not among the words, as its steps make families of models and not
    other recipes, nor is one of seeds alone: a recipe's seeds are averaged. `resources` are those of its last
    step that has any, else those of all runs.
    """

    name: str
    control: str | None
    steps: str
    config: Config
    resources: Resources = Resources()


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep's YAML file and apply overrides such as `run.data.folder=DIR`.

    Raises ValueError, in one sentence, for a missing file, an unknown key or a value that does not fit.
    """
    return as_section(Sweep, overridden(read_yaml(path), overrides), str(path))


def planned_runs(sweep: Sweep) -> list[PlannedRun]:
    """Return every run: the grid's combinations, then the controls. Raises ValueError for what cannot be run."""
    _check_grid(sweep.grid)
    for name in sorted(RESERVED & sweep.controls.keys()):
        raise ValueError(f"a control is called {name!r}, as sweep.json calls models that are no controls; rename it")
    combinations = list(product(*(steps.items() for steps in sweep.grid.values())))
    runs = [_planned(sweep, combination) for combination in combinations]
    runs += [
        PlannedRun(file_name(name), name, "", _config(sweep, values), _resources(sweep, [name]))
        for name, values in sweep.controls.items()
    ]
    unknown = sweep.resources.keys() - {
        ALL,
        *sweep.controls,
        *(name for steps in sweep.grid.values() for name in steps),
    }
    if unknown:
        raise ValueError(f"resources are given for {sorted(unknown)}, which name no step, control, or {ALL!r}")
    names = [planned.name for planned in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"two runs of the sweep are called alike among {', '.join(names)}; rename a step or a control")
    return runs


def _check_grid(grid: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Raise ValueError for an axis without steps, of which no run would be made, and for a key that two axes set."""
    axes: dict[str, str] = {}
    for axis, steps in grid.items():
        if not steps:
            raise ValueError(f"grid.{axis} has no steps, so there is no run; give it one, or leave it out")
        for key in {key for values in steps.values() for key in values}:
            if axes.setdefault(key, axis) != axis:
                raise ValueError(f"grid.{axes[key]} and grid.{axis} both set {key}; leave it out of one")


def _planned(sweep: Sweep, steps: Sequence[tuple[str, Mapping[str, Any]]]) -> PlannedRun:
    names = [name for name, _ in steps]
    base = {f"model.{key}" for key in BASE}
    axes = [{key for values in axis.values() for key in values} for axis in sweep.grid.values()]
    words = ", ".join(name for name, keys in zip(names, axes, strict=True) if not base & keys and keys != {SEEDS})
    setting = {key: value for _, values in steps for key, value in values.items()}
    name = file_name("-".join(names)) or "run"
    return PlannedRun(name, None, words, _config(sweep, setting), _resources(sweep, names))


def _resources(sweep: Sweep, names: Sequence[str]) -> Resources:
    """Return what a run of these steps takes."""
    entries = [sweep.resources[name] for name in (ALL, *names) if name in sweep.resources]
    return entries[-1] if entries else Resources()


def _config(sweep: Sweep, setting: Mapping[str, Any]) -> Config:
    content: dict[str, Any] = dict(sweep.run)
    for key, value in setting.items():
        content = with_value(content, key, value)
    return as_config(content, "the sweep")
