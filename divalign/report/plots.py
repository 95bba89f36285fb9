"""The pictures with a scale on both sides: curves over training, and models by separation and attack success."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from markupsafe import Markup

from divalign.core.stats import Estimate
from divalign.report.axis import Axis
from divalign.report.svg import drawing, node, symbol, text
from divalign.report.words import spelled

WIDTH, HEIGHT = 260.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, WIDTH - 18, 10.0, HEIGHT - 38
MOST_POINTS = 200


class Curve(NamedTuple):
    """A series over training steps; `kind` is its CSS class."""

    kind: str
    points: tuple[tuple[float, float], ...]


class Dot(NamedTuple):
    """A model at `x`, its estimate upwards."""

    x: float
    estimate: Estimate
    tone: str
    shape: int
    says: str


def curves_picture(curves: Sequence[Curve], x: Axis, y: Axis, *, x_label: str, says: str) -> Markup:
    """Draw series as lines; a long one is thinned to every k-th point and its last."""
    children = _frame(x, y, x_label)
    for curve in curves:
        places = (f"{_across(x, step):.1f} {_up(y, value):.1f}" for step, value in _thinned(curve.points))
        children.append(node("path", d="M" + "L".join(places), class_=f"curve {curve.kind}"))
    return drawing(WIDTH, HEIGHT, says, children)


def dots_picture(dots: Sequence[Dot], x: Axis, y: Axis, *, x_label: str, says: str) -> Markup:
    """Draw each model as a symbol with the interval of its estimate."""
    children = _frame(x, y, x_label)
    for dot in dots:
        across, estimate = _across(x, dot.x), dot.estimate
        if estimate.value is None:
            continue
        marks = [node("title", f"{dot.says}: {spelled(estimate, y.form)} at {x.form(dot.x)}")]
        if estimate.low is not None and estimate.high is not None:
            low, high = _up(y, estimate.low), _up(y, estimate.high)
            marks.append(node("path", d=f"M{across:.1f} {low:.1f}V{high:.1f}", class_="whisker"))
        marks.append(node("path", d=symbol(dot.shape, across, _up(y, estimate.value)), class_=f"mark {dot.tone}"))
        children.append(node("g", *marks))
    return drawing(WIDTH, HEIGHT, says, children)


def _frame(x: Axis, y: Axis, x_label: str) -> list[Element]:
    children = []
    for tick in y.ticks:
        place, kind = _up(y, tick.value), "zero" if tick.value == 0 else "grid"
        children.append(node("line", x1=LEFT, x2=RIGHT, y1=place, y2=place, class_=kind))
        children.append(text(LEFT - 9, place + 4, tick.label, "tick end"))
    for tick in x.ticks:
        children.append(text(_across(x, tick.value), BOTTOM + 17, tick.label, "tick middle"))
    return [*children, text((LEFT + RIGHT) / 2, BOTTOM + 33, x_label, "tick quiet middle")]


def _across(axis: Axis, value: float) -> float:
    return axis.at(value, LEFT, RIGHT)


def _up(axis: Axis, value: float) -> float:
    return axis.at(value, BOTTOM, TOP)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    stride = -(-len(points) // MOST_POINTS)
    return [*points[:-1:stride], points[-1]]
