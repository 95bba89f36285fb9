"""The picture of a plane: every point a mark, and the ellipses of each class."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np
from markupsafe import Markup

from divalign.draw.svg import drawing, node

WIDTH, HEIGHT, MARGIN = 260.0, 196.0, 14.0
ToPicture = Callable[[float, float], tuple[float, float]]


class PlanePoint(NamedTuple):
    """A point of the plane. `tone` is its class and colour; a `cross` is drawn so, and is in no ellipse.

    A pointer on it reads `kind` and `text`.
    """

    x: float
    y: float
    tone: str
    cross: bool
    kind: str
    text: str


class Spot(NamedTuple):
    """Where a point's mark lies in its picture, and what a pointer reads there."""

    x: float
    y: float
    kind: str
    text: str


class Plane(NamedTuple):
    picture: Markup
    spots: tuple[Spot, ...]


def plane_picture(
    points: Sequence[PlanePoint], *, index: int, description: str, within: Sequence[PlanePoint] = ()
) -> Plane:
    """Draw the points, and for each tone the covariance ellipses at 1 and 2 standard deviations.

    One unit is as long across as upwards, or distances in the picture would lie. The two ellipses of a Gaussian hold
    39 % and 86 % of its points. Pictures with the same `within`, which holds all their points, have the same axes.
    """
    place, scale = _square(within or points)
    spots = tuple(Spot(*place(point.x, point.y), point.kind, point.text) for point in points)
    children: list[Element] = [node("rect", x=0.5, y=0.5, width=WIDTH - 1, height=HEIGHT - 1, rx=4, class_="frame")]
    for tone in dict.fromkeys(point.tone for point in points):
        of_tone = [(point, spot) for point, spot in zip(points, spots, strict=True) if point.tone == tone]
        children.append(_dots([spot for point, spot in of_tone if not point.cross], tone))
        children.append(_crosses([spot for point, spot in of_tone if point.cross], tone))
        children += _ellipses([point for point, _ in of_tone if not point.cross], place, scale, tone)
    picture = drawing(WIDTH, HEIGHT, description, children, class_="plane", data_plane=str(index))
    return Plane(picture, spots)


def _square(points: Sequence[PlanePoint]) -> tuple[ToPicture, float]:
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


def _ellipses(points: Sequence[PlanePoint], place: ToPicture, scale: float, tone: str) -> list[Element]:
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
