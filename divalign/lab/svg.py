"""A chart as one SVG file: points or lines, linear or logarithmic axes, no library and no script."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

from divalign.lab.findings import Chart

_WIDTH, _HEIGHT = 720, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 20, 56, 90
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999", "#7f3c8d")
_INK = "#333333"


class Axis(NamedTuple):
    """Where values lie on the page, and which of them are marked."""

    place: Callable[[float], float]
    ticks: list[tuple[float, str]]


def svg(chart: Chart, title: str) -> str:
    """Return the chart as SVG text. Values that a logarithmic axis cannot show are left out."""
    names = _names(chart)
    points = {label: _points(chart, names, *xy) for label, xy in chart.series.items()}
    every = [point for series in points.values() for point in series]
    if not every:
        raise ValueError(f"the chart {title!r} has no point to show; are all values 0 on a logarithmic axis?")
    x = _axis([point[0] for point in every], _LEFT, _WIDTH - _RIGHT, log=chart.log_x, names=names)
    y = _axis([point[1] for point in every], _HEIGHT - _BOTTOM, _TOP, log=chart.log_y)
    parts = [*_frame(chart, x, y, title, turned=bool(names)), *_diagonal(chart, x, y, every)]
    for index, series in enumerate(points.values()):
        parts += _series([(x.place(a), y.place(b)) for a, b in series], index, lines=chart.lines)
        if len(points) > 1:
            parts += _legend(list(points), index)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"]) + "\n"


def _names(chart: Chart) -> list[str]:
    """The categories, if x holds names: each stands at its number."""
    names = [value for xs, _ in chart.series.values() for value in xs if isinstance(value, str)]
    return list(dict.fromkeys(names))


def _points(chart: Chart, names: list[str], xs: Sequence[Any], ys: Sequence[float]) -> list[tuple[float, float]]:
    numbers = [float(names.index(value)) if names else float(value) for value in xs]
    return [
        (a, b) for a, b in zip(numbers, ys, strict=True) if (a > 0 or not chart.log_x) and (b > 0 or not chart.log_y)
    ]


def _axis(
    values: list[float], start: float | int, end: float | int, *, log: bool, names: list[str] | None = None
) -> Axis:
    scaled = [math.log10(value) for value in values] if log else values
    low, high = min(scaled), max(scaled)
    margin = 0.05 * (high - low) or 0.5
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        number = math.log10(value) if log else value
        return start + (number - low) / (high - low) * (end - start)

    if names:
        return Axis(place, [(float(index), name) for index, name in enumerate(names)])
    return Axis(place, _decades(low, high) if log else _round_numbers(low, high))


def _decades(low: float, high: float) -> list[tuple[float, str]]:
    step = max(1, round((high - low) / 6))
    found = [(10.0**power, f"1e{power}") for power in range(math.ceil(low), math.floor(high) + 1, step)]
    return found if len(found) > 1 else [(10**edge, f"{10**edge:.2g}") for edge in (low, (low + high) / 2, high)]


def _round_numbers(low: float, high: float) -> list[tuple[float, str]]:
    rough = (high - low) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return [
        (float(step * index), f"{step * index:.6g}")
        for index in range(math.ceil(low / step), math.floor(high / step) + 1)
    ]


def _frame(chart: Chart, x: Axis, y: Axis, title: str, *, turned: bool) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [
        f"<title>{escape(title)}</title>",
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="{_INK}"/>',
        _text(_LEFT, 20, title, size=15),
        _text((_LEFT + right) / 2, _HEIGHT - 10, chart.x_label, anchor="middle"),
        _text(18, (_TOP + bottom) / 2, chart.y_label, anchor="middle", turn=-90),
    ]
    for value, label in x.ticks:
        at = x.place(value)
        parts.append(f'<path d="M{at:.1f} {bottom}v5" stroke="{_INK}"/>')
        parts.append(_text(at, bottom + 18, label, anchor="end" if turned else "middle", turn=-30 if turned else 0))
    for value, label in y.ticks:
        at = y.place(value)
        parts.append(f'<path d="M{_LEFT} {at:.1f}H{right}" stroke="#dddddd"/>')
        parts.append(_text(_LEFT - 8, at + 4, label, anchor="end"))
    return parts


def _diagonal(chart: Chart, x: Axis, y: Axis, points: list[tuple[float, float]]) -> list[str]:
    """The line on which both coordinates are equal, as far as both axes reach."""
    if not chart.diagonal:
        return []
    low = max(min(point[0] for point in points), min(point[1] for point in points))
    high = min(max(point[0] for point in points), max(point[1] for point in points))
    ends = [f"{x.place(value):.1f} {y.place(value):.1f}" for value in (low, high)]
    return [f'<path d="M{ends[0]}L{ends[1]}" stroke="#888888" stroke-dasharray="5 4"/>']


def _series(places: list[tuple[float, float]], index: int, *, lines: bool) -> list[str]:
    colour = _COLOURS[index % len(_COLOURS)]
    dots = [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}" fill-opacity="0.75"/>' for a, b in places]
    if not lines:
        return dots
    path = "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
    return [f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>', *dots]


def _legend(labels: Sequence[str], index: int) -> list[str]:
    """Return one entry of the legend; each has room by the length of its label."""
    room = [len(label) + 4.0 for label in labels]
    at = _LEFT + (_WIDTH - _LEFT - _RIGHT) * sum(room[:index]) / sum(room)
    colour = _COLOURS[index % len(_COLOURS)]
    return [f'<circle cx="{at + 5:.1f}" cy="38" r="4" fill="{colour}"/>', _text(at + 13, 42, labels[index], size=11)]


def _text(x: float | int, y: float | int, text: str, *, anchor: str = "start", size: int = 12, turn: int = 0) -> str:
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{_INK}"'
    return f"<text {place}{turned}>{escape(text)}</text>"
