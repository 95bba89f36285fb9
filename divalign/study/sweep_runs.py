"""The runs of a sweep as tasks that any executor can do: one after another, as an array of jobs, or on Ray.

A task ends with its models' entries or with a failure; a failure ends no other task. What a task has finished is found
by content hash when it is done again, in any process.
"""

from __future__ import annotations

import shlex
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from divalign.data.examples import Row
from divalign.lm.memory import release
from divalign.records import ModelResult, SweepModel
from divalign.sections import as_yaml
from divalign.stages.abliterate import abliterated_copy
from divalign.stages.corpus import read_corpus
from divalign.stages.folder import Progress
from divalign.stages.models import LoadOptions, OpenModel, find_model
from divalign.stages.sweep_measures import measure_extras
from divalign.store import read_rows, write_bytes
from divalign.study.plan import corpus_of
from divalign.study.run import measure, model_result, run
from divalign.study.sweep_config import BASE, Abliterate, PlannedRun, Sweep


class RunTask(NamedTuple):
    """One run of a sweep in the folder `out`; the base model's entry is among its results if `with_base`.

    `family` is what the base is called.
    """

    run: PlannedRun
    plan: Sweep
    out: Path
    with_base: bool
    family: str

    @property
    def folder(self) -> Path:
        """Return the run folder."""
        return self.out / "runs" / self.run.name

    @property
    def failure(self) -> Path:
        """Return the folder of what is known of the last failure."""
        return self.out / "failures" / self.run.name


class RunContext(NamedTuple):
    """What measuring a model of a run needs beside the model: the task, the prompts."""

    task: RunTask
    prompts: list[Row]
    progress: Progress


class RunFailure(NamedTuple):
    """Why a run failed, in a sentence, and how to do it alone."""

    run: str
    why: str
    command: str


Outcome = list[SweepModel] | RunFailure
Execute = Callable[[Sequence[RunTask], Progress], list[Outcome]]


class FailedRunsError(RuntimeError):
    """Some runs of a sweep failed; the others are done. Its text says which, why, and how to do them again."""

    def __init__(self, failures: Sequence[RunFailure], runs: int) -> None:
        lines = [f"  {each.run}: {each.why}\n    alone: {each.command}" for each in failures]
        head = f"{len(failures)} of {runs} runs failed; the same command tries them again and keeps what is done"
        super().__init__("\n".join([head, *lines]))
        self.failures = list(failures)


def tasks_of(runs: Sequence[PlannedRun], plan: Sweep, out: Path) -> list[RunTask]:
    """Return every run as a task; a base model is an entry of the first of its runs only."""
    families = _families(runs)
    return [
        RunTask(planned, plan, out, families.index(family) == number, family)
        for number, (planned, family) in enumerate(zip(runs, families, strict=True))
    ]


def _families(runs: Sequence[PlannedRun]) -> list[str]:
    """Return each run's base model: its source, and what else it differs in from other runs' of this source."""
    models = [planned.config.model.model_dump(include={*BASE}) for planned in runs]
    names = []
    for model in models:
        alike = [other for other in models if other["source"] == model["source"]]
        beside = [f"{key}={model[key]}" for key in BASE if any(other[key] != model[key] for other in alike)]
        names.append(", ".join([model["source"], *beside]))
    return names


def in_turn(tasks: Sequence[RunTask], progress: Progress) -> list[Outcome]:
    """Do the tasks one after another, in this process."""
    return [attempt(task, progress) for task in tasks]


def attempt(task: RunTask, progress: Progress) -> Outcome:
    """Do a task; what it raises becomes a failure, with its traceback in the sweep's folder."""
    try:
        models = list(_models(task, progress))
    except Exception as error:
        return failed(task, f"{type(error).__name__}: {error}", traceback.format_exc())
    for path in (task.failure / "traceback.txt", task.failure / "config.yaml"):
        path.unlink(missing_ok=True)
    if task.failure.is_dir():
        task.failure.rmdir()
    return models


def failed(task: RunTask, why: str, trace: str) -> RunFailure:
    """Return a failure, with the run's configuration and what is known of the failure in the sweep's folder."""
    write_bytes(task.failure / "config.yaml", as_yaml(task.run.config).encode())
    write_bytes(task.failure / "traceback.txt", trace.encode("utf-8", "replace"))
    command = shlex.join(["divalign", "run", str(task.failure / "config.yaml"), "--out", str(task.folder)])
    return RunFailure(task.run.name, " ".join(why.split()), command)


def models_of(outcomes: Sequence[Outcome]) -> list[SweepModel]:
    """Return the models of all runs, in order. Raises FailedRunsError where runs failed."""
    failures = [outcome for outcome in outcomes if isinstance(outcome, RunFailure)]
    if failures:
        raise FailedRunsError(failures, len(outcomes))
    return [model for outcome in outcomes if not isinstance(outcome, RunFailure) for model in outcome]


def _models(task: RunTask, progress: Progress) -> Iterator[SweepModel]:
    """Do one run and yield its models' entries, each followed by its abliterated copy's."""
    planned, folder, abliterate = task.run, task.folder, task.plan.abliterate
    results = run(planned.config, folder, progress=progress).models
    context = RunContext(task, read_rows(folder / "data" / "prompts.jsonl"), progress)
    for result in results:
        if result.method is None and not task.with_base:
            continue
        trusted = LoadOptions(trust_remote_code=planned.config.model.trust_remote_code)
        model = find_model(str(folder / "models" / result.name), trusted)
        control = "base" if result.method is None else planned.control
        measured = task.out / "measured" / planned.name / result.name
        verdicts = folder / "models" / result.name / "verdicts.jsonl"
        yield _entry(context, result, model, measured, verdicts, control=control)
        if abliterate and result.data in abliterate.recipes and planned.control is None:
            yield _abliterated(context, result, model)
        release()


def _entry(
    context: RunContext,
    result: ModelResult,
    model: OpenModel,
    folder: Path,
    verdicts: Path,
    *,
    control: str | None,
    of: str | None = None,
) -> SweepModel:
    """Measure a model further, into `folder`, and return its entry with its place in the sweep.

    The verdict's families are base models, its recipes what was done to them.
    """
    planned = context.task.run
    recipe = f"{result.method} on {result.data}" + (f", {planned.steps}" if planned.steps else "")
    settings = planned.config.measure
    extras = measure_extras(
        model, context.prompts, settings.attacks, folder,
        draws=context.task.plan.draws, batch_size=settings.batch_size, progress=context.progress,
    )  # fmt: skip
    return SweepModel(
        **dict(result),
        **dict(extras),
        run=planned.name,
        control=control,
        of=of,
        family=context.task.family,
        recipe=recipe,
        length=planned.steps or None,
        verdicts=str(verdicts.relative_to(context.task.out)),
    )


def _abliterated(context: RunContext, result: ModelResult, model: OpenModel) -> SweepModel:
    """Measure a model's copy without its refusal direction as the model itself was measured."""
    config, settings = context.task.run.config, context.task.plan.abliterate or Abliterate()
    requests = read_corpus(corpus_of(config.data), seed=result.seed or 0).train
    rows: list[Row] = [{"prompt": r.prompt, "harmful": r.harmful, "cluster": r.cluster} for r in requests]
    size = config.measure.batch_size
    copy = abliterated_copy(model, rows, layer=settings.layer, rounds=settings.rounds, batch_size=size)
    folder = context.task.out / "measured" / context.task.run.name / f"{model.name}-abliterated"
    parts = measure(copy, context.prompts, config, folder, progress=context.progress)
    entry = model_result(parts, name=copy.name, method=result.method, data=result.data, seed=result.seed)
    return _entry(context, entry, copy, folder, folder / "verdicts.jsonl", control="abliterated", of=result.name)
