"""The page of the paper's evidence: its points, its statistics and what our test concludes from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from divalign.core.stats import Estimate, Tested
from divalign.draw.axis import linear, logarithmic, shares
from divalign.draw.numbers import Form, percent, significant
from divalign.draw.panels import Figure, Key, Panel, swatch
from divalign.draw.plots import Dot, dots_picture
from divalign.draw.svg import symbol
from divalign.report.shell import PageSection, small_page
from divalign.report.tables import Cell, Column, Table, TableRow, cell
from divalign.report.words import bounds, p_value, spelled


class PaperPoint(NamedTuple):
    """One of the paper's models: base, method, Bhattacharyya distance, and GCG successes of so many."""

    base: str
    method: str
    distance: float
    successes: int
    trials: int


class Statistic(NamedTuple):
    """One number that can be computed from the points: what it is, the number, and what it says in words."""

    name: str
    symbol: str
    tested: Tested
    says: str


class Conclusion(NamedTuple):
    """What our test concludes, as a sentence; `name` says what its units are."""

    name: str
    words: str


TITLE = "Does separation predict safety? The paper's 20 points"
SOURCE = (
    "Bhattacharyya distances D_B of five base models after four methods, on training prompts, and successful GCG "
    "attacks of 100 AdvBench prompts each. Source: arXiv 2502.00657, section 5.2.3, and the scatter plot in its "
    "repository; distances are read off the drawing."
)
FIGURE = (
    "Left as published: attack success in standard deviations of its own base model. Right as measured. Standardising "
    "takes out that bases differ; it also hides that a distance on one base says nothing about another."
)


def paper_page(
    points: Sequence[PaperPoint],
    standardised: Sequence[float],
    statistics: Sequence[Statistic],
    conclusions: Sequence[Conclusion],
    short: str,
) -> str:
    """Return the page as text. `standardised` are the points' success rates as z-scores within their base model."""
    parts = [
        PageSection(
            "What our test concludes",
            [short, *(f"{conclusion.name}: {conclusion.words}" for conclusion in conclusions)],
        ),
        PageSection("What can be computed from them", tables=[_statistics(statistics)]),
        PageSection("The points", (FIGURE,), _figure(points, standardised), (_points(points),)),
    ]
    return small_page(TITLE, (SOURCE,), parts)


def _statistics(statistics: Sequence[Statistic]) -> Table:
    rows = [
        TableRow(
            statistic.name,
            (
                _value(statistic),
                Cell(p_value(statistic.tested.p_value)),
                Cell(statistic.says),
            ),
        )
        for statistic in statistics
    ]
    heads = Column("value"), Column("p"), Column("says")
    return Table("Correlations of distance with attack success", heads, tuple(rows), first="what")


def _value(statistic: Statistic) -> Cell:
    estimate = statistic.tested.estimate
    if estimate.value is None:
        return cell(estimate, significant)
    return Cell(f"{statistic.symbol} = {significant(estimate.value)}", bounds(estimate, significant))


def _points(points: Sequence[PaperPoint]) -> Table:
    methods = list(dict.fromkeys(point.method for point in points))
    rows = []
    for base in dict.fromkeys(point.base for point in points):
        by_method = {point.method: point for point in points if point.base == base}
        rows.append(TableRow(base, tuple(Cell(_written(by_method[method])) for method in methods)))
    return Table("Distance and attack success", tuple(Column(method) for method in methods), tuple(rows), first="base")


def _written(point: PaperPoint) -> str:
    return f"{point.distance:.2f}, {percent(point.successes / point.trials)}"


def _dot(point: PaperPoint, height: float, shape: int, form: Form) -> Dot:
    x, y = Estimate(point.distance, None, None, 0), Estimate(height, None, None, point.trials)
    title = f"{point.base} {point.method}: {spelled(y, form)} at {spelled(x, significant)}"
    return Dot(x, y, f"tone-{shape % 4}", shape, title)


def _figure(points: Sequence[PaperPoint], standardised: Sequence[float]) -> Figure:
    methods = list(dict.fromkeys(point.method for point in points))
    rates = [point.successes / point.trials for point in points]
    panels = []
    for title, heights, axis in (
        ("as published", standardised, linear(standardised)),
        ("as measured", rates, shares(percent)),
    ):
        dots = [
            _dot(point, height, methods.index(point.method), axis.form)
            for point, height in zip(points, heights, strict=True)
        ]
        axes = logarithmic([point.distance for point in points]), axis
        description = f"Attack success against D_B, {title}: {len(points)} models, as in the table."
        panels.append(Panel(title, "", dots_picture(dots, *axes, x_label="distance", description=description)))
    keys = [
        Key(method, swatch(f"mark tone-{number % 4}", symbol(number, 7.0, 7.0)))
        for number, method in enumerate(methods)
    ]
    return Figure([[panel] for panel in panels], keys)
