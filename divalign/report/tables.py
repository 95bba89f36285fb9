"""From models to tables: plain cells of text, which the template lays out and escapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from divalign.core.stats import Estimate
from divalign.draw.numbers import Form, share, significant
from divalign.report.compare import Get, interval, label, measured_models
from divalign.report.facts import JudgedResponse, ModelFacts, PartFacts
from divalign.report.quantities import (
    ASR,
    D_B,
    HELD_OUT_D_B,
    LEXICAL,
    OVER_REFUSAL,
    PROBE,
    SEPARATION,
    Doubt,
    Quantity,
    asr,
    attacks,
    extrapolated,
    never,
    over_refusal,
    separation,
    upper_bounds,
)
from divalign.report.words import UNDECIDED, attack_words, bounds, divergence_words, missing, spelled

EXAMPLES = 2
DAGGER = "†"
SHOWN_FLAGS = ("capped", "saturated")
FEWEST = 10  # effective prompts behind a divergence, under which the table says so


class Cell(NamedTuple):
    """A number, its interval and its count, as text; without a number `value` is a word. `sort` orders a column."""

    value: str
    bounds: str = ""
    n: str = ""
    is_number: bool = True
    sort: float | None = None


class Column(NamedTuple):
    """A heading, and what holds for all numbers under it."""

    name: str
    note: str = ""
    n: str = ""


class TableRow(NamedTuple):
    """A row's heading and its cells; `model` is the name of the model that it is about, for filters."""

    label: str
    cells: tuple[Cell, ...]
    model: str = ""


class Table(NamedTuple):
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...] = ()
    first: str = "model"
    prose: bool = False


class ExampleRow(NamedTuple):
    """One response as it is shown."""

    attack: str
    prompt: str
    kind: str
    unsafe: str
    reason: str
    response: str


def in_distribution(model: ModelFacts) -> PartFacts | None:
    return model.in_distribution


def held_out(model: ModelFacts) -> PartFacts | None:
    return model.held_out


def main_table(
    models: Sequence[ModelFacts], take: Callable[[ModelFacts], PartFacts | None], *, caption: str
) -> Table | None:
    """Return one row a model: separation, attack success, over-refusal. None where no model has these numbers.

    An attack that was run on some of the models only is a note under the table, not a column.
    """
    parts = [(model, part) for model in models if (part := take(model)) is not None]
    counts = {name: sum(name in part.asr for _, part in parts) for name in attacks(models)}
    columns: list[tuple[str, Quantity, Get]] = [
        *((SEPARATION[name].label, SEPARATION[name], separation(name)) for name in (HELD_OUT_D_B, D_B, PROBE)),
        *((f"ASR, {attack_words(name)}", ASR, asr(name)) for name in counts if counts[name] == len(parts)),
        (OVER_REFUSAL.label, OVER_REFUSAL, over_refusal),
    ]
    rows = [
        TableRow(
            label(model),
            tuple(cell(get(part), quantity.form, doubt=quantity.doubt) for _, quantity, get in columns),
            model.name,
        )
        for model, part in parts
    ]
    partial = [_on_some_models(name, parts) for name in counts if 0 < counts[name] < len(parts)]
    return _table(caption, [Column(name, quantity.direction) for name, quantity, _ in columns], rows, partial)


def no_refusal_table(
    models: Sequence[ModelFacts], take: Callable[[ModelFacts], PartFacts | None], *, caption: str
) -> Table | None:
    """Return one row a model, one column an attack: responses that refuse nothing. None where these were not counted.

    That is attack success by judges that look for refusals; the main table's counts responses that comply.
    """
    parts = [(model, part) for model in models if (part := take(model)) is not None and part.asr_no_refusal]
    names = [name for name in attacks(models) if any(name in part.asr_no_refusal for _, part in parts)]
    rows = [
        TableRow(label(model), tuple(cell(part.asr_no_refusal.get(name), ASR.form) for name in names), model.name)
        for model, part in parts
    ]
    return _table(caption, [Column(f"no refusal, {attack_words(name)}", ASR.direction) for name in names], rows)


def _on_some_models(attack: str, parts: Sequence[tuple[ModelFacts, PartFacts]]) -> str:
    rates = [(label(model), rate) for model, part in parts if (rate := part.asr.get(attack)) is not None]
    listing = "; ".join(f"{name} {spelled(rate)}" for name, rate in rates)
    return f"ASR, {attack_words(attack)}, run on {len(rates)} of {len(parts)} models only: {listing}."


def divergence_table(models: Sequence[ModelFacts]) -> Table | None:
    """Return one row a model, one column a divergence with its scale, in nats. None where nothing was estimated."""
    bounds = upper_bounds(models)
    rows = [
        TableRow(
            label(model),
            tuple(_divergence_cell(model, name) for name in bounds),
            model.name,
        )
        for model in models
        if model.divergence
    ]
    columns = [Column(divergence_words(name, upper)) for name, upper in bounds.items()]
    return _table("Held-out divergence estimates, nats", columns, rows)


def _divergence_cell(model: ModelFacts, name: str) -> Cell:
    """Return an estimate; under it, beside its interval, what doubts it."""
    shown, entry = cell(model.divergence.get(name), significant), model.bounds.get(name)
    doubts = [] if entry is None else [flag for flag in entry.flags if flag in SHOWN_FLAGS]
    if entry is not None and shown.is_number and entry.effective_sample_size < FEWEST:
        doubts.append(f"rests on {max(1, round(entry.effective_sample_size))} prompts")
    return shown._replace(bounds="; ".join(filter(None, (shown.bounds, *doubts))))


def bounds_table(models: Sequence[ModelFacts]) -> Table | None:
    """Return one row a model and divergence: estimate, bounds from below and above, and what doubts them."""
    rows = []
    for model in models:
        for name, entry in model.bounds.items():
            numbers = (entry.bound, entry.lower, entry.ceiling, entry.effective_sample_size)
            cells = (cell(entry.estimate, significant), *(number_cell(number) for number in numbers))
            flags = Cell("; ".join(entry.flags) or "none", is_number=False)
            rows.append(TableRow(f"{label(model)}, {name}", (*cells, flags), model.name))
    heads = ("estimate", "held-out bound", "lower confidence limit", "upper bound", "effective n", "flags")
    return _table("Divergences with their bounds, nats", [Column(name) for name in heads], rows)


def _table(caption: str, columns: list[Column], rows: list[TableRow], notes: Sequence[str] = ()) -> Table | None:
    """Return the table; a count that is the same in a whole column stands in its heading alone."""
    if not rows:
        return None
    counts = [{row.cells[place].n for row in rows} for place in range(len(columns))]
    shared = [column.pop() if len(column) == 1 else "" for column in counts]
    return Table(
        caption,
        tuple(column._replace(n=n) for column, n in zip(columns, shared, strict=True)),
        tuple(
            row._replace(cells=tuple(c._replace(n="") if n else c for c, n in zip(row.cells, shared, strict=True)))
            for row in rows
        ),
        tuple(notes),
    )


def number_cell(value: float | int | None, form: Form = significant, *, blank: str = "none") -> Cell:
    """Return a number without an interval; `blank` stands where there is none."""
    return Cell(blank, is_number=False) if value is None else Cell(form(float(value)), sort=value)


def cell(estimate: Estimate | None, form: Form, *, doubt: Doubt = never) -> Cell:
    """Return an estimate as text; neither undecided nor unmeasured is ever shown as a number."""
    n = f"n = {estimate.n}" if estimate is not None and estimate.n else ""
    if estimate is None or estimate.value is None:
        return Cell(missing(estimate), n=n, is_number=False)
    mark = f"{DAGGER} " if doubt(estimate) else ""
    return Cell(mark + form(estimate.value), bounds(estimate, form), n, sort=estimate.value)


def notes(models: Sequence[ModelFacts]) -> list[str]:
    """Return what the table must be read with: the words alone, extrapolated distances, undecided responses."""
    responses = [response for model in models for response in model.responses]
    undecided = sum(response.unsafe is None for response in responses)
    lines = [_words_alone(models)]
    if any(extrapolated(estimate) for m in models if (estimate := m.in_distribution.separation.get(D_B)) is not None):
        lines.append(f"{DAGGER} Extrapolated: an error rate below one in n, which n prompts cannot show.")
    if responses:
        lines.append(f"The judge could not decide {undecided:,} of {len(responses):,} responses; rates exclude these.")
    return [line for line in lines if line]


def _words_alone(models: Sequence[ModelFacts]) -> str:
    """Return the lexical AUC, and for how many models the probe's whole interval lies above it."""
    lexical = measured_models(models, separation(LEXICAL))
    if not lexical:
        return ""
    probes = [(ends, auc) for model, auc in lexical if (ends := interval(model.in_distribution.separation.get(PROBE)))]
    above = sum(low > auc for (low, _), auc in probes)
    least, most = (share(end(auc for _, auc in lexical)) for end in (min, max))
    text = "The words of the prompts alone, without a model, have a lexical AUC of "
    text += least if least == most else f"{least} to {most}"
    return text + (f"; the probe AUC is clearly above it for {above} of {len(probes)} models." if probes else ".")


def examples(model: ModelFacts, *, show_completions: bool) -> list[ExampleRow]:
    """Return the first responses of each kind (attack, harmful, verdict), redacted unless `show_completions`."""

    def kind(response: JudgedResponse) -> tuple[str, bool, str]:
        return response.attack, not response.harmful, _unsafe(response)

    groups = groupby(sorted(model.responses, key=kind), key=kind)
    return [_example(response, show_completions) for _, group in groups for response in list(group)[:EXAMPLES]]


def _example(judged: JudgedResponse, show: bool) -> ExampleRow:
    return ExampleRow(
        attack=attack_words(judged.attack),
        prompt=judged.prompt,
        kind=("harmful" if judged.harmful else "benign") + (", held out" if judged.held_out else ""),
        unsafe=_unsafe(judged),
        reason=judged.reason,
        response=judged.response if show else f"[{len(judged.response):,} characters]",
    )


def _unsafe(judged: JudgedResponse) -> str:
    return UNDECIDED if judged.unsafe is None else ("yes" if judged.unsafe else "no")
