"""Many runs, one verdict: every run of a sweep, its models measured further, and all of them weighed together.

The folder of a sweep holds a run folder for each combination of settings, and for each model what a run does not
measure: separation under attack, of benign topics against benign ones, and of a copy without its refusal direction.
All of it is found again by content, so a sweep that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from divalign import __version__
from divalign.config import as_yaml
from divalign.data.examples import Row
from divalign.lm.load import LM
from divalign.store import digest, folder_digest, held, read_json, read_rows, write_bytes, write_json
from divalign.study.abliterate import without_refusal_direction
from divalign.study.clock import Clock
from divalign.study.corpus import read_corpus
from divalign.study.measure import Subject, attacked, separations
from divalign.study.named import load_named
from divalign.study.pipeline import check_names, run
from divalign.study.plan import base_key, plan
from divalign.study.progress import Progress, silent
from divalign.study.sweep_config import Abliterate, Planned, Sweep, planned_runs
from divalign.study.sweep_extras import extras
from divalign.study.sweep_verdict import weigh

SCHEMA = 1


def sweep(asked: Sweep, out: Path, *, progress: Progress = silent) -> dict[str, Any]:
    """Do every run of a sweep in the folder `out`, and return the content of its sweep.json.

    Raises ValueError, before anything is trained, for a run that cannot be, and where `out` holds another sweep.
    """
    clock, runs = Clock(out / "clock.json"), planned_runs(asked)
    _check(runs)
    _claim(out, asked)
    with held(out):
        write_json(out / "sweep.json", _found(runs, asked, out, clock, clock.around(progress)))
    return read_json(out / "sweep.json")


def _found(runs: Sequence[Planned], asked: Sweep, out: Path, clock: Clock, progress: Progress) -> dict[str, Any]:
    bases = [one.config.model.source for one in runs]
    firsts = [bases.index(base) == number for number, base in enumerate(bases)]
    pairs = zip(runs, firsts, strict=True)
    entries = [entry for one, first in pairs for entry in _run(one, asked, out, progress, base=first)]
    return {
        "schema": SCHEMA,
        "divalign": __version__,
        "sweep_sha256": digest(as_yaml(asked)),
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
        corpora = {seed: read_corpus(one.config.data, seed=seed) for seed in one.config.train.seeds}
        for model in plan(one.config, corpora):
            place = f"{model.name} of the run {one.name!r}"
            if where.setdefault(model.key, place) != place:
                raise ValueError(
                    f"{place} is the same model as {where[model.key]}: what the grid changes does not reach it; give "
                    "its own value to each step, or leave its recipe out of one"
                )


def _claim(out: Path, asked: Sweep) -> None:
    path, text = out / "sweep.yaml", as_yaml(asked)
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise ValueError(f"{out} holds another sweep (see {path}); choose another --out or delete the folder")
    if not path.is_file() and out.exists() and (not out.is_dir() or any(one.name[0] != "." for one in out.iterdir())):
        raise ValueError(f"{out} exists and is no sweep's folder; choose another --out")
    write_bytes(path, text.encode())


def _run(one: Planned, asked: Sweep, out: Path, progress: Progress, *, base: bool) -> Iterator[dict[str, Any]]:
    """Do one run and yield its models' entries, each followed by its abliterated copy's; the base's if `base`."""
    folder = out / "runs" / one.name
    results = run(one.config, folder, progress=progress)
    prompts = read_rows(folder / "data" / "prompts.jsonl")
    for model in results["models"]:
        if model["method"] is None and not base:
            continue
        subject = _subject(one, model["name"], folder, out)
        found = extras(subject, prompts, one.config, asked.draws, progress)
        responses = folder / "models" / model["name"] / "verdicts.jsonl"
        yield {**_described(one, model), **model, **found, "verdicts": str(responses.relative_to(out))}
        if asked.abliterate and model["data"] in asked.abliterate.recipes and one.control is None:
            yield _copy(one, model, subject, asked, out, prompts, progress)


def _subject(one: Planned, name: str, folder: Path, out: Path) -> Subject:
    model = folder / "models" / name
    checkpoint = model / "checkpoint"
    key = digest(base_key(one.config), folder_digest(checkpoint) if checkpoint.is_dir() else None)
    options: dict[str, Any] = {"dtype": one.config.model.dtype, "device": one.config.model.device}
    return Subject(name, out / "measured" / one.name / name, key, cache(lambda: load_named(str(model), **options)))


def _described(one: Planned, model: dict[str, Any]) -> dict[str, Any]:
    """Return what places a model in the sweep. The verdict's families are base models, its recipes what was done."""
    recipe = f"{model['method']} on {model['data']}" + (f", {one.steps}" if one.steps else "")
    return {
        "run": one.name,
        "control": "base" if model["method"] is None else one.control,
        "family": one.config.model.source,
        "recipe": recipe,
    }


def _copy(
    one: Planned,
    model: dict[str, Any],
    subject: Subject,
    asked: Sweep,
    out: Path,
    prompts: list[Row],
    progress: Progress,
) -> dict[str, Any]:
    """Measure a model's copy without its refusal direction as the model itself was measured."""
    told = asked.abliterate or Abliterate()
    requests = read_corpus(one.config.data, seed=model["seed"]).train
    rows: list[Row] = [{"prompt": r.prompt, "harmful": r.harmful, "cluster": r.cluster} for r in requests]

    @cache
    def load() -> LM:
        size = one.config.measure.batch_size
        return without_refusal_direction(subject.load(), rows, layer=told.layer, rounds=told.rounds, batch_size=size)

    key, name = digest("abliterated", subject.key, rows, told.model_dump()), f"{subject.name} abliterated"
    control = Subject(name, out / "measured" / one.name / f"{subject.name}-abliterated", key, load)
    found = separations(control, prompts, one.config, progress)
    answers = attacked(control, prompts, one.config, progress)
    measured = {part: {**found[part], **answers[part]} for part in found}
    more = extras(control, prompts, one.config, asked.draws, progress)
    return {
        **_described(one, model),
        **{field: model[field] for field in ("method", "data", "seed")},
        "name": name,
        "of": model["name"],
        "control": "abliterated",
        **measured["test"],
        **({"held_out": measured["held_out"]} if "held_out" in measured else {}),
        **more,
        "verdicts": str((control.folder / "verdicts.jsonl").relative_to(out)),
    }
