"""The picture of hidden states: every prompt a mark in the plane of the first two principal components."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np
from markupsafe import Markup

from divalign.report.facts import Point
from divalign.report.svg import drawing, node

WIDTH, HEIGHT, MARGIN = 260.0, 196.0, 14.0
Place = Callable[[float, float], tuple[float, float]]


class Spot(NamedTuple):
    """Where a prompt's mark lies in its picture, for the pointer to find, and what to read there."""

    x: float
    y: float
    prompt: str
    kind: str


class Plane(NamedTuple):
    picture: Markup
    spots: tuple[Spot, ...]


def plane_picture(points: Sequence[Point], *, index: int, says: str) -> Plane:
    """Draw the prompts, and for each class the covariance ellipses at 1 and 2 standard deviations.

    One unit is as long across as upwards, or distances in the picture would lie. Prompts on held-out
    topics are crosses; the ellipses are those of the others, as is the separation in the table. The two ellipses of a
    Gaussian hold 39 % and 86 % of its points.
    """
    place, scale = _square(points)
    spots = tuple(Spot(*place(point.x, point.y), point.prompt, kind(point)) for point in points)
    children: list[Element] = [node("rect", x=0.5, y=0.5, width=WIDTH - 1, height=HEIGHT - 1, rx=4, class_="frame")]
    for tone, harmful in (("safe", False), ("harmful", True)):
        of_class = [(point, spot) for point, spot in zip(points, spots, strict=True) if point.harmful == harmful]
        children.append(_dots([spot for point, spot in of_class if not point.held_out], tone))
        children.append(_crosses([spot for point, spot in of_class if point.held_out], tone))
        children += _ellipses([point for point, _ in of_class if not point.held_out], place, scale, tone)
    picture = drawing(WIDTH, HEIGHT, says, children, class_="plane", data_plane=str(index))
    return Plane(picture, spots)


def kind(point: Point) -> str:
    return f"{'harmful' if point.harmful else 'safe'}{', topic held out of alignment' if point.held_out else ''}"


def spoken(points: Sequence[Point]) -> str:
    """Return where the classes lie, in words."""
    said = []
    for tone, harmful in (("safe", False), ("harmful", True)):
        cloud = [(point.x, point.y) for point in points if point.harmful == harmful]
        if cloud:
            x, y = np.mean(cloud, axis=0)
            said.append(f"{len(cloud)} {tone} prompts around ({x:.3g}, {y:.3g})")
    return "; ".join(said) or "no prompts"


def _square(points: Sequence[Point]) -> tuple[Place, float]:
    """Return the map from the plane to the picture, one scale for both axes, and that scale."""
    xs, ys = [point.x for point in points], [point.y for point in points]
    rooms = ((WIDTH, max(xs) - min(xs)), (HEIGHT, max(ys) - min(ys)))
    scale = min(((room - 2 * MARGIN) / span for room, span in rooms if span > 0), default=1.0)
    middle_x, middle_y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    return lambda x, y: (WIDTH / 2 + (x - middle_x) * scale, HEIGHT / 2 - (y - middle_y) * scale), scale


def _dots(spots: Sequence[Spot], tone: str) -> Element:
    """Draw all dots as one path of zero-length strokes with round ends: a tenth of the bytes of a circle each."""
    return node("path", d="".join(f"M{spot.x:.1f} {spot.y:.1f}h0" for spot in spots), class_=f"dots {tone}")


def _crosses(spots: Sequence[Spot], tone: str) -> Element:
    strokes = (f"M{spot.x - 2.6:.1f} {spot.y - 2.6:.1f}l5.2 5.2m0 -5.2l-5.2 5.2" for spot in spots)
    return node("path", d="".join(strokes), class_=f"crosses {tone}")


def _ellipses(points: Sequence[Point], place: Place, scale: float, tone: str) -> list[Element]:
    """Draw nothing for fewer than three points, which have no covariance worth a line."""
    if len(points) < 3:
        return []
    cloud = np.array([(point.x, point.y) for point in points])
    variances, axes = np.linalg.eigh(np.cov(cloud.T))
    minor, major = np.sqrt(np.maximum(variances, 0.0)) * scale
    x, y = place(*cloud.mean(axis=0))
    turn = f"rotate({-math.degrees(math.atan2(axes[1, 1], axes[0, 1])):.1f} {x:.1f} {y:.1f})"
    return [
        node("ellipse", cx=x, cy=y, rx=sigmas * major, ry=sigmas * minor, transform=turn, class_=f"ellipse {tone}")
        for sigmas in (1, 2)
    ]
