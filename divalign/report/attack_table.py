"""The heat table: every model under every attack, as dark as the attack is successful."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from divalign.core.stats import Estimate
from divalign.draw.numbers import PERCENT, percent
from divalign.report.compare import label
from divalign.report.facts import ModelFacts
from divalign.report.quantities import attacks
from divalign.report.words import NOT_MEASURED, UNDECIDED, attack_words, spelled

SHADES = 10  # classes h0 to h10 of the style sheet


class Shade(NamedTuple):
    """A cell: its CSS class, the text in it, and what a pointer or a screen reader reads."""

    kind: str
    text: str
    title: str


class ShadeRow(NamedTuple):
    label: str
    model: str
    cells: tuple[Shade, ...]


class AttackTable(NamedTuple):
    columns: tuple[str, ...]
    rows: tuple[ShadeRow, ...]


def attack_table(models: Sequence[ModelFacts]) -> AttackTable | None:
    """Return models by attacks, over-refusal last; None where nothing was attacked."""
    names = attacks(models)
    if not names:
        return None
    columns = (*map(attack_words, names), "over-refusal")
    rows = []
    for model in models:
        part = model.in_distribution
        rates = [*(part.asr.get(name) for name in names), part.over_refusal]
        cells = (shade(rate, f"{label(model)}, {column}") for rate, column in zip(rates, columns, strict=True))
        rows.append(ShadeRow(label(model), model.name, tuple(cells)))
    return AttackTable(columns, tuple(rows))


def shade(rate: Estimate | None, name: str) -> Shade:
    """Return a rate's cell. One that is undecided is hatched, one that was not measured is empty: neither is pale."""
    title = f"{name}: {spelled(rate)}"
    if rate is None:
        return Shade("unmeasured", "", f"{name}: {NOT_MEASURED}")
    if rate.value is None:
        return Shade(UNDECIDED, "?", title)
    return Shade(f"h{round(SHADES * rate.value)}", percent(rate.value).removesuffix(PERCENT), title)
