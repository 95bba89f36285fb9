"""The picture of rates and estimates: one row a label, its marks with their intervals along one axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from markupsafe import Markup

from divalign.draw.axis import Axis
from divalign.draw.numbers import Interval
from divalign.draw.svg import drawing, node, symbol, text

WIDTH, RIGHT, TOP, LETTER = 340.0, 50.0, 8.0, 6.1
MARK_HEIGHT, GAP, LONGEST = 14.0, 10.0, 20


class Mark(NamedTuple):
    """One number to draw. `tone` is its CSS class, `shape` its symbol, `title` what a pointer on it reads.

    `blank` is written where there is no number; `key` names what the mark belongs to.
    """

    interval: Interval | None
    tone: str
    shape: int
    title: str
    blank: str = ""
    key: str = ""


class MarkRow(NamedTuple):
    """A label and the marks that belong to it."""

    label: str
    marks: tuple[Mark, ...]


def rows_picture(rows: Sequence[MarkRow], axis: Axis, *, description: str, reference: float | None = None) -> Markup:
    """Draw symbols, those of a row joined by a line, each with its interval and its number.

    A mark without a number has its `blank` written, and is never drawn at 0. `reference` is a number to compare the
    others with, drawn as a dashed line.
    """
    left = 14 + LETTER * max((len(_short(row.label)) for row in rows), default=0)
    end = WIDTH - RIGHT
    heights = [GAP + MARK_HEIGHT * len(row.marks) for row in rows]
    bottom = TOP + sum(heights)
    children: list[Element | None] = [*_grid(axis, left, end, bottom)]
    if reference is not None:
        x = axis.at(reference, left, end)
        children.append(node("line", x1=x, x2=x, y1=TOP, y2=bottom, class_="reference"))
    y = TOP
    for row, height in zip(rows, heights, strict=True):
        children += _row(row, y, height, axis, left, end)
        y += height
    return drawing(WIDTH, bottom + 24, description, children)


def _grid(axis: Axis, left: float, end: float, bottom: float) -> list[Element]:
    children = []
    for tick in axis.ticks:
        x = axis.at(tick.value, left, end)
        children.append(node("line", x1=x, x2=x, y1=TOP, y2=bottom, class_="grid"))
        children.append(text(x, bottom + 15, tick.label, "tick middle"))
    return children


def _row(row: MarkRow, y: float, height: float, axis: Axis, left: float, end: float) -> list[Element | None]:
    places = [y + GAP / 2 + MARK_HEIGHT * (index + 0.5) for index in range(len(row.marks))]
    children: list[Element | None] = [
        text(left - 8, y + height / 2 + 4, _short(row.label), "label end", title=row.label),
        _joined(row, places, axis, left, end),
    ]
    for mark, place in zip(row.marks, places, strict=True):
        children += _mark(mark, place, axis, left, end)
    return children


def _mark(mark: Mark, y: float, axis: Axis, left: float, end: float) -> list[Element | None]:
    interval = mark.interval
    if interval is None or interval.value is None:
        return [text(left + 5, y + 3.5, mark.blank, "tick quiet")]
    x = axis.at(interval.value, left, end)
    shape = node("path", d=symbol(mark.shape, x, y), class_=f"mark {mark.tone}")
    number = text(end + 8, y + 3.5, axis.form(interval.value), "value")
    whisker = _whisker(interval, y, axis, left, end)
    return [node("g", node("title", mark.title), shape, whisker, number, data_model=mark.key or None)]


def _whisker(interval: Interval, y: float, axis: Axis, left: float, end: float) -> Element | None:
    if interval.low is None or interval.high is None:
        return None
    low, high = axis.at(interval.low, left, end), axis.at(interval.high, left, end)
    return node("path", d=f"M{low:.1f} {y - 3:.1f}v6m0 -3H{high:.1f}m0 -3v6", class_="whisker")


def _joined(row: MarkRow, places: Sequence[float], axis: Axis, left: float, end: float) -> Element | None:
    at = [
        (axis.at(mark.interval.value, left, end), y)
        for mark, y in zip(row.marks, places, strict=True)
        if mark.interval is not None and mark.interval.value is not None
    ]
    return node("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in at), class_="join") if len(at) > 1 else None


def _short(label: str) -> str:
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
