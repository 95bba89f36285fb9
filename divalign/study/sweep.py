"""Many runs, one verdict: every run of a sweep, its models measured further, and all of them weighed together.

The folder of a sweep holds a run folder for each combination of settings, and for each model what a run does not
measure: separation under attack, of benign topics against benign ones, and of a copy without its refusal direction.
All of it is found again by content, so a sweep that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from divalign import __version__
from divalign.config import as_yaml
from divalign.data.examples import Row
from divalign.records import ModelResult
from divalign.stages.abliterate import abliterated_copy
from divalign.stages.corpus import read_corpus
from divalign.stages.folder import Clock, Progress, check_unclaimed, locked, silent
from divalign.stages.models import OpenModel, find_model, open_model
from divalign.stages.train import train_key
from divalign.store import digest, read_json, read_rows, write_bytes, write_json
from divalign.study.plan import check_names, corpus_of, model_of
from divalign.study.run import measure, read_inputs, run
from divalign.study.sweep_config import Abliterate, Planned, Sweep, planned_runs
from divalign.study.sweep_extras import extras
from divalign.study.sweep_verdict import weigh

SCHEMA = 1


def sweep(plan: Sweep, out: Path, *, progress: Progress = silent) -> dict[str, Any]:
    """Do every run of a sweep in the folder `out`, and return the content of its sweep.json.

    Raises ValueError, before anything is trained, for a run that cannot be, and where `out` holds another sweep.
    """
    clock, runs = Clock(out / "clock.json"), planned_runs(plan)
    _check(runs)
    _claim(out, plan)
    with locked(out):
        write_json(out / "sweep.json", _results(runs, plan, out, clock, clock.around(progress)))
    return read_json(out / "sweep.json")


def _results(runs: Sequence[Planned], plan: Sweep, out: Path, clock: Clock, progress: Progress) -> dict[str, Any]:
    bases = [one.config.model.source for one in runs]
    firsts = [bases.index(base) == number for number, base in enumerate(bases)]
    pairs = zip(runs, firsts, strict=True)
    entries = [entry for one, first in pairs for entry in _run(one, plan, out, progress, base=first)]
    return {
        "schema": SCHEMA,
        "divalign": __version__,
        "sweep_sha256": digest(as_yaml(plan)),
        "seconds": clock.seconds,
        "models": entries,
        **weigh(entries, out),
    }


def _check(runs: Sequence[Planned]) -> None:
    """Look up every name and plan every model. One model in two runs would be counted as two pieces of evidence."""
    where: dict[str, str] = {}
    for one in runs:
        check_names(one.config)
        if one.config.measure.gcg is not None:
            raise ValueError(
                f"the run {one.name!r} searches suffixes on some models, and a sweep weighs attacks that all "
                "models met; leave measure.gcg out, and attack single models with `divalign attack`"
            )
        base = open_model(model_of(one.config.model)).key
        for model in read_inputs(one.config).models:
            key, place = train_key(base, model.rows, model.plan), f"{model.name} of the run {one.name!r}"
            if where.setdefault(key, place) != place:
                raise ValueError(
                    f"{place} is the same model as {where[key]}: what the grid changes does not reach it; give "
                    "its own value to each step, or leave its recipe out of one"
                )


def _claim(out: Path, plan: Sweep) -> None:
    path, text = out / "sweep.yaml", as_yaml(plan)
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise ValueError(f"{out} holds another sweep (see {path}); choose another --out or delete the folder")
    if not path.is_file():
        check_unclaimed(out, "sweep's")
    write_bytes(path, text.encode())


def _run(one: Planned, plan: Sweep, out: Path, progress: Progress, *, base: bool) -> Iterator[dict[str, Any]]:
    """Do one run and yield its models' entries, each followed by its abliterated copy's; the base's if `base`."""
    folder = out / "runs" / one.name
    prompts = None
    for result in run(one.config, folder, progress=progress).models:
        if result.method is None and not base:
            continue
        prompts = prompts or read_rows(folder / "data" / "prompts.jsonl")
        model = find_model(str(folder / "models" / result.name))
        extra = extras(model, prompts, one.config, plan.draws, out / "measured" / one.name / result.name, progress)
        verdicts = folder / "models" / result.name / "verdicts.jsonl"
        yield {**_described(one, result), **result.plain(), **extra, "verdicts": str(verdicts.relative_to(out))}
        if plan.abliterate and result.data in plan.abliterate.recipes and one.control is None:
            yield _copy(one, result, model, plan, out, prompts, progress)


def _described(one: Planned, result: ModelResult) -> dict[str, Any]:
    """Return what places a model in the sweep. The verdict's families are base models, its recipes what was done."""
    recipe = f"{result.method} on {result.data}" + (f", {one.steps}" if one.steps else "")
    return {
        "run": one.name,
        "control": "base" if result.method is None else one.control,
        "family": one.config.model.source,
        "recipe": recipe,
    }


def _copy(
    one: Planned,
    result: ModelResult,
    model: OpenModel,
    plan: Sweep,
    out: Path,
    prompts: list[Row],
    progress: Progress,
) -> dict[str, Any]:
    """Measure a model's copy without its refusal direction as the model itself was measured."""
    settings = plan.abliterate or Abliterate()
    requests = read_corpus(corpus_of(one.config.data), seed=result.seed or 0).train
    rows: list[Row] = [{"prompt": r.prompt, "harmful": r.harmful, "cluster": r.cluster} for r in requests]
    size = one.config.measure.batch_size
    copy = abliterated_copy(model, rows, layer=settings.layer, rounds=settings.rounds, batch_size=size)
    folder = out / "measured" / one.name / f"{model.name}-abliterated"
    parts = measure(copy, prompts, one.config, folder, progress=progress)
    entry = ModelResult(
        name=copy.name, method=result.method, data=result.data, seed=result.seed, divergence={}, **parts
    )
    return {
        **_described(one, result),
        **entry.plain(),
        "of": result.name,
        "control": "abliterated",
        **extras(copy, prompts, one.config, plan.draws, folder, progress),
        "verdicts": str((folder / "verdicts.jsonl").relative_to(out)),
    }
