"""Many runs, one verdict: every run of a sweep, its models measured further, and the verdicts over all of them.

The folder of a sweep holds a run folder for each combination of settings, and for each model what a run does not
measure: separation under attack, of benign topics from benign ones, and of a copy without its refusal direction.
Finished work is found by its content hash, so a sweep that was stopped resumes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from divalign import __version__
from divalign.config import as_yaml
from divalign.data.examples import Row
from divalign.limits import read_text
from divalign.records import ModelResult, SweepModel, SweepRecord
from divalign.stages.abliterate import abliterated_copy
from divalign.stages.corpus import read_corpus
from divalign.stages.folder import Clock, Progress, check_unclaimed, locked, silent
from divalign.stages.models import LoadOptions, OpenModel, find_model, open_model
from divalign.stages.sweep_measures import measure_extras
from divalign.stages.train import train_key
from divalign.store import digest, read_rows, write_bytes, write_json
from divalign.study.plan import check_names, corpus_of, model_of
from divalign.study.run import measure, model_result, read_inputs, run
from divalign.study.sweep_config import Abliterate, PlannedRun, Sweep, planned_runs
from divalign.study.sweep_verdict import weigh


class RunContext(NamedTuple):
    """What measuring a model of a sweep needs beside the model: its run, the sweep and its folder, the prompts."""

    run: PlannedRun
    plan: Sweep
    out: Path
    prompts: list[Row]
    progress: Progress


def sweep(plan: Sweep, out: Path, *, progress: Progress = silent) -> SweepRecord:
    """Do every run of a sweep in the folder `out`, and return its sweep.json.

    Raises ValueError, before anything is trained, for a run that cannot be done, and where `out` holds another sweep.
    """
    clock, runs = Clock(out / "clock.json"), planned_runs(plan)
    _check(runs)
    _claim(out, plan)
    with locked(out):
        models = _models(runs, plan, out, clock.around(progress))
        record = SweepRecord(
            divalign=__version__,
            sweep_sha256=digest(as_yaml(plan)),
            seconds=clock.seconds,
            models=models,
            **dict(weigh(models, out)),
        )
        write_json(out / "sweep.json", record.plain())
    return record


def _models(runs: Sequence[PlannedRun], plan: Sweep, out: Path, progress: Progress) -> list[SweepModel]:
    """Return every model's entry; a base model stands in the first run of it only."""
    sources = [planned.config.model.source for planned in runs]
    return [
        model
        for number, planned in enumerate(runs)
        for model in _run(planned, plan, out, progress, with_base=sources.index(sources[number]) == number)
    ]


def _check(runs: Sequence[PlannedRun]) -> None:
    """Look up every name and plan every model. One model in two runs would be counted as two pieces of evidence."""
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


def _claim(out: Path, plan: Sweep) -> None:
    path, text = out / "sweep.yaml", as_yaml(plan)
    if path.is_file() and read_text(path) != text:
        raise ValueError(f"{out} holds another sweep (see {path}); choose another --out or delete the folder")
    if not path.is_file():
        check_unclaimed(out, "sweep's")
    write_bytes(path, text.encode())


def _run(planned: PlannedRun, plan: Sweep, out: Path, progress: Progress, *, with_base: bool) -> Iterator[SweepModel]:
    """Do one run and yield its models' entries, each followed by its abliterated copy's; the base's if `with_base`."""
    folder = out / "runs" / planned.name
    results = run(planned.config, folder, progress=progress).models
    context = RunContext(planned, plan, out, read_rows(folder / "data" / "prompts.jsonl"), progress)
    for result in results:
        if result.method is None and not with_base:
            continue
        trusted = LoadOptions(trust_remote_code=planned.config.model.trust_remote_code)
        model = find_model(str(folder / "models" / result.name), trusted)
        control = "base" if result.method is None else planned.control
        measured = out / "measured" / planned.name / result.name
        verdicts = folder / "models" / result.name / "verdicts.jsonl"
        yield _entry(context, result, model, measured, verdicts, control=control)
        if plan.abliterate and result.data in plan.abliterate.recipes and planned.control is None:
            yield _abliterated(context, result, model)


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
    planned = context.run
    recipe = f"{result.method} on {result.data}" + (f", {planned.steps}" if planned.steps else "")
    settings = planned.config.measure
    extras = measure_extras(
        model, context.prompts, settings.attacks, folder,
        draws=context.plan.draws, batch_size=settings.batch_size, progress=context.progress,
    )  # fmt: skip
    return SweepModel(
        **dict(result),
        **dict(extras),
        run=planned.name,
        control=control,
        of=of,
        family=planned.config.model.source,
        recipe=recipe,
        length=planned.steps or None,
        verdicts=str(verdicts.relative_to(context.out)),
    )


def _abliterated(context: RunContext, result: ModelResult, model: OpenModel) -> SweepModel:
    """Measure a model's copy without its refusal direction as the model itself was measured."""
    config, settings = context.run.config, context.plan.abliterate or Abliterate()
    requests = read_corpus(corpus_of(config.data), seed=result.seed or 0).train
    rows: list[Row] = [{"prompt": r.prompt, "harmful": r.harmful, "cluster": r.cluster} for r in requests]
    size = config.measure.batch_size
    copy = abliterated_copy(model, rows, layer=settings.layer, rounds=settings.rounds, batch_size=size)
    folder = context.out / "measured" / context.run.name / f"{model.name}-abliterated"
    parts = measure(copy, context.prompts, config, folder, progress=context.progress)
    entry = model_result(parts, name=copy.name, method=result.method, data=result.data, seed=result.seed)
    return _entry(context, entry, copy, folder, folder / "verdicts.jsonl", control="abliterated", of=result.name)
