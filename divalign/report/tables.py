"""From models to tables: plain cells of text, which the template lays out and escapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from divalign.core.stats import Estimate
from divalign.report.compare import Get, interval, known, label
from divalign.report.facts import Answer, Measures, Model
from divalign.report.measures import (
    ASR,
    D_B,
    LEXICAL,
    OVER_REFUSAL,
    PROBE,
    SEPARATION,
    Doubt,
    Measure,
    asr,
    attacks,
    extrapolated,
    never,
    over_refusal,
    separation,
)
from divalign.report.words import NOT_MEASURED, UNDECIDED, Form, attack_words, bounds, share, significant, spelled

EXAMPLES = 2
DAGGER = "†"


class Cell(NamedTuple):
    """A number, its interval and its count, as text; `value` says so where there is no number."""

    value: str
    bounds: str = ""
    n: str = ""
    known: bool = True


class Column(NamedTuple):
    """A heading and what to know about all numbers under it."""

    name: str
    note: str = ""
    n: str = ""


class Table(NamedTuple):
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    notes: tuple[str, ...] = ()


class Example(NamedTuple):
    """One answer as it is shown."""

    attack: str
    prompt: str
    kind: str
    unsafe: str
    reason: str
    response: str


def held_in(model: Model) -> Measures | None:
    return model.held_in


def held_out(model: Model) -> Measures | None:
    return model.held_out


def main_table(models: Sequence[Model], take: Callable[[Model], Measures | None], *, caption: str) -> Table | None:
    """Return one row a model: separation, attack success, over-refusal. None where no model has these measures.

    An attack that only some of the models met is a note under the table, and no column of holes.
    """
    found = [(model, measures) for model in models if (measures := take(model)) is not None]
    met = {name: sum(name in measures.asr for _, measures in found) for name in attacks(models)}
    columns: list[tuple[str, Measure, Get]] = [
        *((SEPARATION[name].label, SEPARATION[name], separation(name)) for name in (D_B, PROBE)),
        *((f"ASR, {attack_words(name)}", ASR, asr(name)) for name in met if met[name] == len(found)),
        (OVER_REFUSAL.label, OVER_REFUSAL, over_refusal),
    ]
    rows = [
        (label(model), tuple(cell(get(measures), measure.form, doubt=measure.doubt) for _, measure, get in columns))
        for model, measures in found
    ]
    notes = [_partly_met(name, found) for name in met if 0 < met[name] < len(found)]
    return _table(caption, [Column(name, measure.direction) for name, measure, _ in columns], rows, notes)


def _partly_met(attack: str, found: Sequence[tuple[Model, Measures]]) -> str:
    rates = [(label(model), rate) for model, measures in found if (rate := measures.asr.get(attack)) is not None]
    said = "; ".join(f"{name} {spelled(rate)}" for name, rate in rates)
    return f"ASR, {attack_words(attack)}, which only {len(rates)} of {len(found)} models met: {said}."


def divergence_table(models: Sequence[Model]) -> Table | None:
    """Return one row a model, one column a divergence, in nats. None where nothing was estimated."""
    names = list(dict.fromkeys(name for model in models for name in model.divergence))
    rows = [
        (label(model), tuple(cell(model.divergence.get(name), significant) for name in names))
        for model in models
        if model.divergence
    ]
    return _table("Divergence estimates", [Column(name) for name in names], rows)


def _table(
    caption: str, columns: list[Column], rows: list[tuple[str, tuple[Cell, ...]]], notes: Sequence[str] = ()
) -> Table | None:
    """Return the table, with a count that is the same in a whole column said once, in its heading."""
    if not rows:
        return None
    counts = [{cells[place].n for _, cells in rows} for place in range(len(columns))]
    shared = [found.pop() if len(found) == 1 else "" for found in counts]
    return Table(
        caption,
        tuple(column._replace(n=n) for column, n in zip(columns, shared, strict=True)),
        tuple(
            (name, tuple(c._replace(n="") if n else c for c, n in zip(cells, shared, strict=True)))
            for name, cells in rows
        ),
        tuple(notes),
    )


def cell(estimate: Estimate | None, form: Form, *, doubt: Doubt = never) -> Cell:
    """Return an estimate as text; neither undecided nor unmeasured is ever shown as a number."""
    if estimate is None:
        return Cell(NOT_MEASURED, known=False)
    n = f"n = {estimate.n}" if estimate.n else ""
    if estimate.value is None:
        return Cell(UNDECIDED, n=n, known=False)
    mark = f"{DAGGER} " if doubt(estimate) else ""
    return Cell(mark + form(estimate.value), bounds(estimate, form), n)


def notes(models: Sequence[Model]) -> list[str]:
    """Return what must stand beside the table: words alone, extrapolated distances, undecided answers."""
    answers = [answer for model in models for answer in model.answers]
    undecided = sum(answer.unsafe is None for answer in answers)
    said = [_words_alone(models)]
    if any(extrapolated(estimate) for m in models if (estimate := m.held_in.separation.get(D_B)) is not None):
        said.append(f"{DAGGER} Extrapolated: less than one error in n prompts, which n prompts cannot show.")
    if answers:
        said.append(f"The judge could not decide {undecided:,} of {len(answers):,} answers; these count neither way.")
    return [note for note in said if note]


def _words_alone(models: Sequence[Model]) -> str:
    """Return what the words of the prompts reach, and on how many models the probe's whole interval lies above that."""
    lexical = known(models, separation(LEXICAL))
    if not lexical:
        return ""
    probes = [(ends, words) for model, words in lexical if (ends := interval(model.held_in.separation.get(PROBE)))]
    above = sum(low > words for (low, _), words in probes)
    least, most = (share(end(words for _, words in lexical)) for end in (min, max))
    said = "The words of the prompts alone, without a model, give a lexical AUC of "
    said += least if least == most else f"{least} to {most}"
    return said + (f"; the probe AUC is clearly above that on {above} of {len(probes)} models." if probes else ".")


def examples(model: Model, *, show_completions: bool) -> list[Example]:
    """Return the first answers of each kind (attack, harmful, verdict), completions redacted unless asked for."""

    def sort(answer: Answer) -> tuple[str, bool, str]:
        return answer.attack, not answer.harmful, _unsafe(answer)

    groups = groupby(sorted(model.answers, key=sort), key=sort)
    return [_example(answer, show_completions) for _, group in groups for answer in list(group)[:EXAMPLES]]


def _example(answer: Answer, show: bool) -> Example:
    return Example(
        attack=attack_words(answer.attack),
        prompt=answer.prompt,
        kind=("harmful" if answer.harmful else "benign") + (", held out" if answer.held_out else ""),
        unsafe=_unsafe(answer),
        reason=answer.reason,
        response=answer.response if show else f"[{len(answer.response):,} characters]",
    )


def _unsafe(answer: Answer) -> str:
    return UNDECIDED if answer.unsafe is None else ("yes" if answer.unsafe else "no")
