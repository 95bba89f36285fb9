"""The picture of a map: one cell for each numbered row and column, as dark as its number is large."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from markupsafe import Markup

from divalign.draw.numbers import Form
from divalign.draw.svg import drawing, node, text

WIDTH, LEFT, TOP, HEIGHT = 300.0, 34.0, 34.0, 17.0


class HeatCell(NamedTuple):
    """A number, and what a pointer on it reads; without a number, that says why."""

    value: float | None
    title: str


class HeatColumn(NamedTuple):
    """A column of the map: its two lines of heading, a cell for each numbered row, and how numbers are written.

    `low` to `high` is the range of shades; on a logarithmic scale if `log`.
    """

    heading: tuple[str, str]
    cells: Mapping[int, HeatCell]
    form: Form
    low: float
    high: float
    log: bool = False


def heat_picture(columns: Sequence[HeatColumn], *, description: str) -> Markup:
    """Draw rows upwards, the last on top, and columns side by side; each cell holds its number.

    A cell without a number is empty and framed, never pale: pale is small.
    """
    numbers = sorted({number for column in columns for number in column.cells}, reverse=True)
    width = (WIDTH - LEFT) / max(len(columns), 1)
    children: list[Element] = []
    for place, column in enumerate(columns):
        x = LEFT + place * width
        children += [text(x + width / 2, 12.0 + 13 * n, line, "tick middle") for n, line in enumerate(column.heading)]
        children += [
            _cell(column, column.cells[number], x, TOP + HEIGHT * row, width)
            for row, number in enumerate(numbers)
            if number in column.cells
        ]
    for row, number in enumerate(numbers):
        children.append(text(LEFT - 8, TOP + HEIGHT * row + 12, str(number), "tick end"))
    return drawing(WIDTH, TOP + HEIGHT * len(numbers) + 4, description, children)


def _cell(column: HeatColumn, cell: HeatCell, x: float, y: float, width: float) -> Element:
    box, title = {"x": x + 1, "y": y + 1, "width": width - 2, "height": HEIGHT - 2}, node("title", cell.title)
    if cell.value is None:
        return node("g", title, node("rect", **box, class_="frame"))
    shade = node("rect", **box, class_="heat", fill_opacity=f"{_depth(column, cell.value):.2f}")
    return node("g", title, shade, text(x + width / 2, y + 12.5, column.form(cell.value), "cell middle"))


def _depth(column: HeatColumn, value: float) -> float:
    """Return how dark a value is; at most half, so that its number stays readable on it."""
    low, high, at = column.low, column.high, min(max(value, column.low), column.high)
    if column.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return 0.05 + 0.45 * (at - low) / (high - low)
