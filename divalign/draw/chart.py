"""A chart as one SVG file that needs no style sheet: points or lines, linear or logarithmic axes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

from divalign.draw.axis import Axis, categories, linear, logarithmic
from divalign.draw.crowd import Place
from divalign.draw.plots import Box, frame, path_of
from divalign.draw.svg import drawing, node, symbol, text

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999", "#7f3c8d")
STYLE = (
    "text{font:12px sans-serif;fill:#333}.tick{font-size:11px}.title{font-size:15px}.middle{text-anchor:middle}"
    ".end{text-anchor:end}.grid{stroke:#ddd}.zero{stroke:#888}.diagonal{stroke:#888;stroke-dasharray:5 4}"
    ".curve{fill:none;stroke-width:2}.mark{fill-opacity:.75}"
)
BOX = Box(720.0, 400.0, 80.0, 700.0, 56.0, 350.0, inset=6.0)
ROOM_FOR_NAMES = 40.0


@dataclass(frozen=True)
class Chart:
    """Points by series, for a figure: `series` maps a label to its x and y values; x may be names.

    `diagonal` draws the line of equal coordinates, `alike` gives both axes the same ends.
    """

    x_label: str
    y_label: str
    series: Mapping[str, tuple[Sequence[Any], Sequence[float]]]
    log_x: bool = False
    log_y: bool = False
    lines: bool = False
    diagonal: bool = False
    alike: bool = False


def chart_svg(chart: Chart, title: str) -> str:
    """Return the chart as SVG text. Values that a logarithmic axis cannot show are left out.

    Raises ValueError where none is left.
    """
    names = list(dict.fromkeys(x for xs, _ in chart.series.values() for x in xs if isinstance(x, str)))
    series = {label: _points(chart, names, *xy) for label, xy in chart.series.items()}
    points = [point for values in series.values() for point in values]
    if not points:
        raise ValueError(f"the chart {title!r} has no point to show; are all values 0 on a logarithmic axis?")
    across, upwards = zip(*points, strict=True)
    every = (*across, *upwards)
    x = categories(names) if names else _axis(every if chart.alike else across, log=chart.log_x)
    y = _axis(every if chart.alike else upwards, log=chart.log_y)
    children = [node("style", STYLE), node("rect", width="100%", height="100%", fill="white")]
    children += _labels(chart, x, y, title, turned=bool(names))
    ends = [(x.low, y.low), (x.high, y.high)] if chart.alike else points
    children += _diagonal(x, y, ends) if chart.diagonal else []
    for index, values in enumerate(series.values()):
        children += _series(values, x, y, index, lines=chart.lines)
    children += _legend(list(series)) if len(series) > 1 else []
    height = BOX.height + (ROOM_FOR_NAMES if names else 0.0)
    return drawing(BOX.width, height, title, children, xmlns="http://www.w3.org/2000/svg") + "\n"


def _points(chart: Chart, names: list[str], xs: Sequence[Any], ys: Sequence[float]) -> list[Place]:
    numbers = [float(names.index(x)) if names else float(x) for x in xs]
    return [
        (x, float(y))
        for x, y in zip(numbers, ys, strict=True)
        if (x > 0 or not chart.log_x) and (y > 0 or not chart.log_y)
    ]


def _axis(values: Iterable[float], *, log: bool) -> Axis:
    return logarithmic(values) if log else linear(values, about=5)


def _labels(chart: Chart, x: Axis, y: Axis, title: str, *, turned: bool) -> list[Element]:
    shown = x._replace(ticks=()) if turned else x
    places = [(BOX.across(x, tick.value), tick.label) for tick in x.ticks] if turned else []
    return [
        *frame(BOX, shown, y, "" if turned else chart.x_label),
        *(text(across, BOX.bottom + 17, label, "tick end", turn=-30) for across, label in places),
        *(
            [text((BOX.left + BOX.right) / 2, BOX.height + ROOM_FOR_NAMES - 8, chart.x_label, "middle")]
            if turned
            else []
        ),
        text(BOX.left, 20.0, title, "title"),
        text(18.0, (BOX.top + BOX.bottom) / 2, chart.y_label, "middle", turn=-90),
    ]


def _diagonal(x: Axis, y: Axis, points: Sequence[Place]) -> list[Element]:
    """Return the line on which both coordinates are equal, as far as the points reach on both axes."""
    low, high = (end(point[0] for point in points) for end in (min, max))
    low, high = max(low, min(point[1] for point in points)), min(high, max(point[1] for point in points))
    return [node("path", d=path_of([(low, low), (high, high)], BOX, x, y), class_="diagonal")]


def _series(points: Sequence[Place], x: Axis, y: Axis, index: int, *, lines: bool) -> list[Element]:
    colour = COLOURS[index % len(COLOURS)]
    marks = [
        node("path", d=symbol(index, *BOX.place(x, y, *point), size=3.5), class_="mark", fill=colour)
        for point in points
    ]
    if not lines or not points:
        return marks
    return [node("path", d=path_of(points, BOX, x, y), class_="curve", stroke=colour), *marks]


def _legend(labels: Sequence[str]) -> list[Element]:
    """Return the legend; each entry has room by the length of its label."""
    room = [len(label) + 4.0 for label in labels]
    children = []
    for index, label in enumerate(labels):
        at = BOX.left + (BOX.right - BOX.left) * sum(room[:index]) / sum(room)
        children.append(node("path", d=symbol(index, at + 5, 38.0, size=4.0), fill=COLOURS[index % len(COLOURS)]))
        children.append(text(at + 13, 42.0, label, "tick"))
    return children
