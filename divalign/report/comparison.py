"""Several runs on one page: what changed, tested by prompt, each model's trend over the runs, and what was set anew."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from divalign import __version__, store
from divalign.core.stats import ALPHA, Estimate, holm
from divalign.draw.axis import categories, shares
from divalign.draw.numbers import significant
from divalign.draw.panels import Figure, Key, Panel, swatch
from divalign.draw.plots import LARGE, Curve, Dot, dots_picture
from divalign.draw.svg import symbol
from divalign.records import RateChange
from divalign.report.changes import REFUSAL, Changes, changed_rates
from divalign.report.compare import label
from divalign.report.facts import ModelFacts, RunFacts
from divalign.report.legend import TONES
from divalign.report.page import model_index
from divalign.report.quantities import ASR, attacks
from divalign.report.reading import read_run
from divalign.report.shell import interactive
from divalign.report.tables import Cell, Column, Table, TableRow
from divalign.report.words import attack_words, bounds, p_value, spelled

NAME = "comparison.html"


class NamedRun(NamedTuple):
    name: str
    folder: Path
    facts: RunFacts


class ModelChange(NamedTuple):
    """What changed in one model from one run to another; without changes, `why` there are none."""

    model: ModelFacts
    changes: Mapping[str, RateChange]
    why: str = ""


class RunChange(NamedTuple):
    """What changed from the first run to a later one; p-values by Holm over all models and rates."""

    before: str
    after: str
    models: list[ModelChange]


def write_comparison(folders: Sequence[Path], out: Path | None, changes: Changes) -> Path:
    """Write the page of several runs and return its path, which is in the last run's folder where `out` is None.

    `changes` tests two models' verdicts prompt by prompt. Raises ValueError for fewer than two runs, for a folder that
    is no run, and where no model is in two runs.
    """
    path = out or folders[-1] / NAME
    page = render_comparison(read_runs(folders), changes)
    store.write_bytes(path, page.encode("utf-8", errors="replace"))
    return path


def read_runs(folders: Sequence[Path]) -> list[NamedRun]:
    """Return the runs with names that tell them apart. Raises ValueError as `write_comparison` does."""
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise ValueError(f"got {', '.join(map(str, folders))}; expected two or more run folders, each once")
    runs = [read_run(folder) for folder in folders]
    short = [run.folder for run in runs]
    names = short if len(set(short)) == len(short) else [str(folder) for folder in folders]
    return [NamedRun(*row) for row in zip(names, folders, runs, strict=True)]


def render_comparison(runs: Sequence[NamedRun], changes: Changes) -> str:
    """Return the page as text."""
    first, *later = runs
    compared = [run_change(first, run, changes) for run in later]
    models = list({model.name: model for run in runs for model in run.facts.models}.values())
    trends = _trends(runs, models)
    if not trends.groups:
        raise ValueError(
            f"no model is in two of the runs {', '.join(run.name for run in runs)}; compare runs that share some"
        )
    return interactive(
        "comparison.html",
        data={"models": model_index(models), "texts": [], "planes": [], "layers": {}},
        title=_title(compared),
        version=__version__,
        runs=[(run.name, run.facts.version, run.facts.config_sha256[:12]) for run in runs],
        models=models,
        tables=[_table(entry) for entry in compared],
        trends=trends,
        changed=_most_changed(compared[-1]),
        settings=[(run.name, diff) for run in later if (diff := _settings(first, run))],
        first=first.name,
    )


def run_change(before: NamedRun, after: NamedRun, changes: Changes) -> RunChange:
    """Test each model that both runs have; p-values are corrected for all tests from one run to the other."""
    names = {model.name for model in before.facts.models}
    models = [
        _model_change(model, before.folder, after.folder, changes)
        for model in after.facts.models
        if model.name in names
    ]
    tests = [(number, rate) for number, entry in enumerate(models) for rate in entry.changes]
    corrected = holm([models[number].changes[rate].p_value for number, rate in tests]) if tests else []
    by_test = dict(zip(tests, corrected, strict=True))
    return RunChange(
        before.name,
        after.name,
        [
            entry._replace(
                changes={
                    rate: change.model_copy(update={"p_holm": by_test[number, rate]})
                    for rate, change in entry.changes.items()
                }
            )
            for number, entry in enumerate(models)
        ],
    )


def _model_change(model: ModelFacts, before: Path, after: Path, changes: Changes) -> ModelChange:
    try:
        rates = changed_rates(before / "models" / model.name, after / "models" / model.name, changes)
        return ModelChange(model, rates)
    except ValueError as error:
        return ModelChange(model, {}, str(error))


def _title(compared: Sequence[RunChange]) -> str:
    """Say how many models changed measurably from the first run to the last."""
    last = compared[-1]
    tested = [entry for entry in last.models if entry.changes]
    if not tested:
        return f"From {last.before} to {last.after}, no model could be tested by prompt"
    moved = [entry for entry in tested if any(_is_measurable(change) for change in entry.changes.values())]
    if not moved:
        return f"From {last.before} to {last.after}, no change of {len(tested)} models is measurable"
    return f"From {last.before} to {last.after}, {len(moved)} of {len(tested)} models changed measurably"


def _most_changed(compared: RunChange) -> str:
    """Return the label of the model with the clearest change, which the trend begins with."""
    clearest = {
        label(entry.model): min(change.p_holm for change in entry.changes.values())
        for entry in compared.models
        if entry.changes and entry.model.method is not None
    }
    return min(clearest, key=lambda name: clearest[name], default="")


def _is_measurable(change: RateChange) -> bool:
    return change.p_holm < ALPHA


def _table(compared: RunChange) -> Table:
    """Return one row a model, one column a rate: the change in points, its interval and p."""
    names = dict.fromkeys(name for entry in compared.models for name in entry.changes)
    columns = sorted(names, key=lambda name: (name == REFUSAL, name != "direct"))
    rows = [
        TableRow(label(entry.model), tuple(_cell(entry.changes.get(name)) for name in columns), entry.model.name)
        for entry in compared.models
    ]
    notes = [f"{label(entry.model)}: {entry.why}." for entry in compared.models if entry.why]
    heads = [Column(attack_words(name), "points; smaller is better") for name in columns]
    return Table(
        f"From {compared.before} to {compared.after}, the same prompts", tuple(heads), tuple(rows), tuple(notes)
    )


def _cell(change: RateChange | None) -> Cell:
    if change is None or change.change.value is None:
        return Cell("not tested", is_number=False)
    points = change.change._replace(
        **{name: _points(getattr(change.change, name)) for name in ("value", "low", "high")}
    )
    arrow = "" if not _is_measurable(change) else "▲ " if (change.change.value or 0) > 0 else "▼ "
    words = f"{p_value(change.p_holm)}, n = {points.n}"
    return Cell(arrow + significant(points.value or 0.0), bounds(points, significant), words, sort=points.value)


def _points(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _trends(runs: Sequence[NamedRun], models: Sequence[ModelFacts]) -> Figure:
    """Draw each model that is in two runs or more: its rates over the runs, in the order that they were named."""
    names = [*attacks(model for run in runs for model in run.facts.models), REFUSAL]
    groups = []
    for model in models:
        versions = [next((m for m in run.facts.models if m.name == model.name), None) for run in runs]
        if sum(version is not None for version in versions) > 1:
            groups.append([_trend(label(model), names, versions, [run.name for run in runs])])
    keys = [Key(attack_words(name), swatch(f"mark {_tone(n)}", symbol(n, 7.0, 7.0))) for n, name in enumerate(names)]
    return Figure(groups, keys)


def _trend(title: str, names: Sequence[str], versions: Sequence[ModelFacts | None], runs: Sequence[str]) -> Panel:
    dots, curves = [], []
    for number, name in enumerate(names):
        rates = [(place, rate) for place, rate in _rates(versions, name) if rate.value is not None]
        words = attack_words(name)
        dots += [
            Dot(
                Estimate(float(place), None, None, 0),
                rate,
                _tone(number),
                number,
                f"{runs[place]}, {words}: {spelled(rate)}",
            )
            for place, rate in rates
        ]
        if len(rates) > 1:
            points = tuple((float(place), rate.value or 0.0) for place, rate in rates)
            curves.append(Curve(f"{_tone(number)} faint", points))
    description = f"Attack success and over-refusal of {title} over {len(runs)} runs, {runs[0]} to {runs[-1]}."
    axes = categories(runs), shares(ASR.form)
    return Panel(title, "", dots_picture(dots, *axes, x_label="run", description=description, box=LARGE, curves=curves))


def _rates(versions: Sequence[ModelFacts | None], name: str) -> Iterator[tuple[int, Estimate]]:
    for place, model in enumerate(versions):
        if model is not None:
            part = model.in_distribution
            rate = part.over_refusal if name == REFUSAL else part.asr.get(name)
            if rate is not None:
                yield place, rate


def _tone(number: int) -> str:
    return f"tone-{number % TONES}"


def _settings(before: NamedRun, after: NamedRun) -> str:
    """Return the differing lines of two configurations, "-" before and "+" after."""
    texts = (before.facts.config.splitlines(), after.facts.config.splitlines())
    lines = difflib.unified_diff(*texts, before.name, after.name, lineterm="", n=1)
    return "\n".join(lines)
