"""The pictures with a scale on both sides: curves over training, and models by separation and attack success."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
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
SIZE, APART = 3.6, 8.0  # of a symbol in a crowd, and from one's middle to the next one's
CAP = 2.5
INSET = 14.0  # room at the edges for symbols that stand around a place there
Place = tuple[float, float]


class Curve(NamedTuple):
    """A series over training steps; `kind` is its CSS class."""

    kind: str
    points: tuple[tuple[float, float], ...]


class Dot(NamedTuple):
    """A model: `x` goes across, `y` upwards."""

    x: Estimate
    y: Estimate
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
    """Draw each model as a symbol with the intervals of both its estimates, which cross at its place.

    Symbols that would hide each other stand around their place, see `around`.
    """
    known = [dot for dot in dots if dot.x.value is not None and dot.y.value is not None]
    places = [(_across(x, dot.x.value or 0.0, INSET), _up(y, dot.y.value or 0.0, INSET)) for dot in known]
    lines = [
        node("path", d=path, class_="whisker")
        for dot, place in zip(known, places, strict=True)
        if (path := _intervals(dot, place, x, y))
    ]
    marks = [
        node(
            "g",
            node("title", f"{dot.says}: {spelled(dot.y, y.form)} at {spelled(dot.x, x.form)}"),
            node("path", d=symbol(dot.shape, *place, size=SIZE), class_=f"mark {dot.tone}"),
        )
        for dot, place in zip(known, around(places), strict=True)
    ]
    return drawing(WIDTH, HEIGHT, says, [*_frame(x, y, x_label, inset=INSET), *lines, *marks])


def around(places: Sequence[Place], *, apart: float = APART) -> list[Place]:
    """Return where to draw symbols: those that would touch stand on a ring around their common middle, side by side.

    What touches directly or through others makes a ring, and so does what a ring would touch; a symbol that is alone
    keeps its place. The middle stays free for the lines that cross there.
    """
    groups = [[index] for index in range(len(places))]
    while True:
        rings = [_ring([places[index] for index in group], apart) for group in groups]
        pair = next((p for p in combinations(range(len(groups)), 2) if _touch(*(rings[n] for n in p), apart)), None)
        if pair is None:
            shown = {
                i: at for group, ring in zip(groups, rings, strict=True) for i, at in zip(group, ring, strict=True)
            }
            return [shown[index] for index in range(len(places))]
        first, second = pair
        groups = [g for n, g in enumerate(groups) if n not in pair] + [sorted(groups[first] + groups[second])]


def _ring(places: Sequence[Place], apart: float) -> list[Place]:
    """Return places side by side on a circle around the middle of `places`; a single one as it is.

    The farthest from the middle keeps its direction, and the others follow around the circle as they lie.
    """
    if len(places) == 1:
        return list(places)
    x, y = (sum(place[axis] for place in places) / len(places) for axis in (0, 1))
    reach = apart / (2 * math.sin(math.pi / len(places)))
    angles = [math.atan2(place[1] - y, place[0] - x) for place in places]
    start = angles[max(range(len(places)), key=lambda index: math.dist(places[index], (x, y)))]
    order = sorted(range(len(places)), key=lambda index: (angles[index] - start) % (2 * math.pi))
    turns = {index: start + 2 * math.pi * number / len(places) for number, index in enumerate(order)}
    return [(x + reach * math.cos(turns[n]), y + reach * math.sin(turns[n])) for n in range(len(places))]


def _touch(first: Sequence[Place], second: Sequence[Place], apart: float) -> bool:
    return any(math.dist(a, b) < apart * (1 - 1e-9) for a in first for b in second)


def _intervals(dot: Dot, place: Place, x: Axis, y: Axis) -> str:
    """Return the path of both intervals, with caps, as one of them may lie along a line of the grid."""
    path = ""
    if dot.x.low is not None and dot.x.high is not None:
        low, high = (_across(x, end, INSET) for end in (dot.x.low, dot.x.high))
        path += f"M{low:.1f} {place[1] - CAP:.1f}v{2 * CAP}m0 {-CAP}H{high:.1f}m0 {-CAP}v{2 * CAP}"
    if dot.y.low is not None and dot.y.high is not None:
        low, high = (_up(y, end, INSET) for end in (dot.y.low, dot.y.high))
        path += f"M{place[0] - CAP:.1f} {low:.1f}h{2 * CAP}m{-CAP} 0V{high:.1f}m{-CAP} 0h{2 * CAP}"
    return path


def _frame(x: Axis, y: Axis, x_label: str, *, inset: float = 0.0) -> list[Element]:
    children = []
    for tick in y.ticks:
        place, kind = _up(y, tick.value, inset), "zero" if tick.value == 0 else "grid"
        children.append(node("line", x1=LEFT, x2=RIGHT, y1=place, y2=place, class_=kind))
        children.append(text(LEFT - 9, place + 4, tick.label, "tick end"))
    for tick in x.ticks:
        children.append(text(_across(x, tick.value, inset), BOTTOM + 17, tick.label, "tick middle"))
    return [*children, text((LEFT + RIGHT) / 2, BOTTOM + 33, x_label, "tick quiet middle")]


def _across(axis: Axis, value: float, inset: float = 0.0) -> float:
    return axis.at(value, LEFT + inset, RIGHT - inset)


def _up(axis: Axis, value: float, inset: float = 0.0) -> float:
    return axis.at(value, BOTTOM - inset, TOP + inset)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    stride = -(-len(points) // MOST_POINTS)
    return [*points[:-1:stride], points[-1]]
