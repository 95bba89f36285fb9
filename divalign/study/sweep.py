"""Many runs, one verdict: every run of a sweep, its models measured further, and the verdicts over all of them.

The folder of a sweep holds a run folder for each combination of settings, and for each model what a run does not
measure: separation under attack, of benign topics from benign ones, and of a copy without its refusal direction.
Finished work is found by its content hash: a sweep that was stopped resumes, and the whole sweep gathers its shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from divalign import __version__
from divalign.limits import read_text, refuse_links
from divalign.lm.shape import model_shape
from divalign.records import SweepRecord
from divalign.sections import as_yaml
from divalign.stages.folder import Clock, Progress, check_unclaimed, locked, silent
from divalign.stages.hidden import check_layers
from divalign.stages.models import open_model
from divalign.stages.train import train_key
from divalign.store import digest, write_bytes, write_json
from divalign.study.plan import check_names, model_of
from divalign.study.run import read_inputs
from divalign.study.sweep_config import PlannedRun, Sweep, planned_runs
from divalign.study.sweep_runs import Execute, in_turn, models_of, tasks_of
from divalign.study.sweep_verdict import weigh


class Shard(NamedTuple):
    """A part of a sweep's runs, for an array of jobs: every `total`-th run, from the `number`-th on."""

    number: int
    total: int


def sweep(plan: Sweep, out: Path, *, execute: Execute = in_turn, progress: Progress = silent) -> SweepRecord:
    """Do every run of a sweep in the folder `out`, and return its sweep.json.

    A run that fails ends no other. Raises FailedRunsError when all others are done, and ValueError, before anything is
    trained, for a run that cannot be done, and where `out` holds another sweep.
    """
    clock, runs = Clock(out / "clock.json"), planned_runs(plan)
    _check(plan, runs)
    _claim(out, plan)
    with locked(out):
        models = models_of(execute(tasks_of(runs, plan, out), clock.around(progress)))
        record = SweepRecord(
            divalign=__version__,
            sweep_sha256=digest(as_yaml(plan)),
            seconds=clock.seconds,
            models=models,
            **dict(weigh(models, out)),
        )
        write_json(out / "sweep.json", record.plain())
    return record


def sweep_shard(
    plan: Sweep, out: Path, shard: Shard, *, execute: Execute = in_turn, progress: Progress = silent
) -> list[str]:
    """Do one shard of a sweep's runs and return their names; `sweep` gathers all shards.

    Shards may work in one folder at the same time. Raises as `sweep` does.
    """
    runs = planned_runs(plan)
    _check(plan, runs)
    _claim(out, plan)
    tasks = tasks_of(runs, plan, out)[shard.number - 1 :: shard.total]
    models_of(execute(tasks, progress))
    return [task.run.name for task in tasks]


def parse_shard(text: str) -> Shard:
    """Return the shard that "3/8" names. Raises ValueError for anything else."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"got the shard {text!r}, expected one such as 3/8: the third of eight")
    return Shard(int(number), int(count))


def _check(plan: Sweep, runs: Sequence[PlannedRun]) -> None:
    """Look up every name and plan every model. One model in two runs would be counted as two pieces of evidence."""
    _check_abliterated(plan, runs)
    places: dict[str, str] = {}
    for planned in runs:
        check_names(planned.config)
        if planned.config.measure.gcg is not None:
            raise ValueError(
                f"the run {planned.name!r} searches suffixes on some models, and a sweep compares models on attacks "
                "that were run on all of them; leave measure.gcg out, and attack single models with `divalign attack`"
            )
        base = open_model(model_of(planned.config.model)).key
        for model in read_inputs(planned.config).models:
            key, place = train_key(base, model.rows, model.plan), f"{model.name} of the run {planned.name!r}"
            if places.setdefault(key, place) != place:
                raise ValueError(
                    f"{place} is the same model as {places[key]}: what the grid changes does not reach it; give "
                    "its own value to each step, or leave its recipe out of one"
                )


def _check_abliterated(plan: Sweep, runs: Sequence[PlannedRun]) -> None:
    """Raise ValueError for copies of a recipe that no run but controls trains, and for a layer that a base has not."""
    if plan.abliterate is None:
        return
    trained = sorted({recipe for planned in runs if planned.control is None for recipe in planned.config.data.recipes})
    for recipe in sorted({*plan.abliterate.recipes}.difference(trained)):
        raise ValueError(f"abliterate.recipes has {recipe!r}, which no run trains; they train {', '.join(trained)}")
    for spec in {model_of(planned.config.model) for planned in runs}:
        options = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}
        check_layers([plan.abliterate.layer], model_shape(spec.source, **options).layers + 1)


def _claim(out: Path, plan: Sweep) -> None:
    refuse_links(out)
    path, text = out / "sweep.yaml", as_yaml(plan)
    if not path.is_file():
        try:
            check_unclaimed(out, "sweep's")
        except ValueError:
            if not path.is_file():  # else another shard has claimed the folder just now
                raise
    if path.is_file() and read_text(path) != text:
        raise ValueError(f"{out} holds another sweep (see {path}); choose another --out or delete the folder")
    write_bytes(path, text.encode())
