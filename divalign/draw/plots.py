"""The pictures with a scale on both sides: curves, and symbols with the intervals of both coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from markupsafe import Markup

from divalign.draw.axis import Axis
from divalign.draw.crowd import Place, around
from divalign.draw.numbers import Interval
from divalign.draw.svg import drawing, node, symbol, text

MOST_POINTS = 200
SIZE = 3.6  # of a symbol in a crowd
CAP = 2.5
INSET = 14.0  # room at the edges for symbols that are placed around a place there


class Box(NamedTuple):
    """A picture's size and where its axes lie; numbers stay `inset` away from the axes' ends."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    inset: float = 0.0

    def place(self, x: Axis, y: Axis, across: float, up: float) -> Place:
        """Return where a pair of numbers lies."""
        return self.across(x, across), self.up(y, up)

    def across(self, axis: Axis, value: float) -> float:
        return axis.at(value, self.left + self.inset, self.right - self.inset)

    def up(self, axis: Axis, value: float) -> float:
        return axis.at(value, self.bottom - self.inset, self.top + self.inset)


PANEL = Box(260.0, 190.0, 46.0, 242.0, 10.0, 152.0)
LARGE = Box(420.0, 330.0, 52.0, 408.0, 10.0, 288.0, inset=INSET)


class Curve(NamedTuple):
    """A series; `kind` is its CSS class, `title` what a pointer on it reads, `key` names what it belongs to."""

    kind: str
    points: tuple[tuple[float, float], ...]
    title: str = ""
    key: str = ""


class Dot(NamedTuple):
    """A symbol with two coordinates: `x` goes across, `y` upwards.

    `title` is what a pointer on it reads, `key` names what it belongs to.
    """

    x: Interval
    y: Interval
    tone: str
    shape: int
    title: str
    key: str = ""


def curves_picture(curves: Sequence[Curve], x: Axis, y: Axis, *, x_label: str, description: str) -> Markup:
    """Draw series as lines; a long one is thinned to every k-th point and its last."""
    lines = [_curve(curve, PANEL, x, y) for curve in curves]
    return drawing(PANEL.width, PANEL.height, description, [*frame(PANEL, x, y, x_label), *lines])


def _curve(curve: Curve, box: Box, x: Axis, y: Axis) -> Element:
    line = node("path", d=path_of(curve.points, box, x, y), class_=f"curve {curve.kind}", data_model=curve.key or None)
    if curve.title:
        line.append(node("title", curve.title))
    return line


def path_of(points: Sequence[Place], box: Box, x: Axis, y: Axis) -> str:
    """Return the path through points."""
    places = (box.place(x, y, *point) for point in _thinned(points))
    return "M" + "L".join(f"{across:.1f} {up:.1f}" for across, up in places)


def dots_picture(
    dots: Sequence[Dot],
    x: Axis,
    y: Axis,
    *,
    x_label: str,
    description: str,
    box: Box | None = None,
    curves: Sequence[Curve] = (),
) -> Markup:
    """Draw symbols, each with the intervals of both its coordinates, which cross at its place, over `curves`.

    A dot without one of its values is left out. Symbols that would hide each other are placed around their place, see
    `around`.
    """
    box = box or PANEL._replace(inset=INSET)
    placed = [
        (dot, box.place(x, y, dot.x.value, dot.y.value))
        for dot in dots
        if dot.x.value is not None and dot.y.value is not None
    ]
    under = [*frame(box, x, y, x_label), *(_curve(curve, box, x, y) for curve in curves)]
    lines = [
        node("path", d=path, class_="whisker", data_model=dot.key or None)
        for dot, place in placed
        if (path := _intervals(dot, place, box, x, y))
    ]
    marks = [
        node(
            "g",
            node("title", dot.title),
            node("path", d=symbol(dot.shape, *place, size=SIZE), class_=f"mark {dot.tone}"),
            class_="point",
            data_model=dot.key or None,
        )
        for (dot, _), place in zip(placed, around([place for _, place in placed]), strict=True)
    ]
    return drawing(box.width, box.height, description, [*under, *lines, *marks], class_="walk")


def frame(box: Box, x: Axis, y: Axis, x_label: str) -> list[Element]:
    """Return the horizontal grid, the ticks of both axes and the label of the horizontal one."""
    children = []
    for tick in y.ticks:
        place, kind = box.up(y, tick.value), "zero" if tick.value == 0 else "grid"
        children.append(node("line", x1=box.left, x2=box.right, y1=place, y2=place, class_=kind))
        children.append(text(box.left - 9, place + 4, tick.label, "tick end"))
    for tick in x.ticks:
        children.append(text(box.across(x, tick.value), box.bottom + 17, tick.label, "tick middle"))
    return [*children, text((box.left + box.right) / 2, box.bottom + 33, x_label, "tick quiet middle")]


def _intervals(dot: Dot, place: Place, box: Box, x: Axis, y: Axis) -> str:
    """Return the path of both intervals, with caps, as one of them may lie along a line of the grid."""
    path = ""
    if dot.x.low is not None and dot.x.high is not None:
        low, high = (box.across(x, end) for end in (dot.x.low, dot.x.high))
        path += f"M{low:.1f} {place[1] - CAP:.1f}v{2 * CAP}m0 {-CAP}H{high:.1f}m0 {-CAP}v{2 * CAP}"
    if dot.y.low is not None and dot.y.high is not None:
        low, high = (box.up(y, end) for end in (dot.y.low, dot.y.high))
        path += f"M{place[0] - CAP:.1f} {low:.1f}h{2 * CAP}m{-CAP} 0V{high:.1f}m{-CAP} 0h{2 * CAP}"
    return path


def _thinned(points: Sequence[Place]) -> list[Place]:
    stride = -(-len(points) // MOST_POINTS)
    return [*points[:-1:stride], points[-1]]
