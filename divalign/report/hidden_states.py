"""Hidden states before and after alignment: each model's prompts beside the base's, on the same axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from divalign.draw.numbers import significant
from divalign.draw.panels import Figure, Key, Panel, swatch
from divalign.draw.plane import Plane, PlanePoint, plane_picture
from divalign.draw.svg import symbol
from divalign.report.compare import label
from divalign.report.facts import ModelFacts, Point
from divalign.report.quantities import D_B, aligned_of, base_of
from divalign.report.words import missing, spelled

KEYS = (
    Key("benign prompt", swatch("dots benign", "M7 7h0")),
    Key("harmful prompt", swatch("dots harmful", "M7 7h0")),
    Key("1 and 2 standard deviations", swatch("ellipse ink", symbol(0, 7.0, 7.0, size=5.5))),
)
MOST_POINTS = 60_000  # in all planes together: 30 bytes each, so that a page stays under 5 MB
HELD_OUT = Key("held-out topic", swatch("crosses ink", "M4 4l6 6m0 -6l-6 6"))


def planes(models: Sequence[ModelFacts]) -> Figure:
    """Draw a pair of panels for every aligned model: the base before, the model after, on the same axes.

    Without a base each model stands alone, and so does a base without aligned models.
    """
    with_plane = [model for model in models if model.plane]
    base, aligned = base_of(with_plane), aligned_of(with_plane)
    before = [base] if base else []
    pairs = [[*before, model] for model in aligned] or [before] * bool(before)
    most = MOST_POINTS // max(1, sum(map(len, pairs)))
    groups, spots = [], []
    for whole in pairs:
        group = [model._replace(plane=thinned(model.plane, most)) for model in whole]
        shared = [point for model in group for point in plane_points(model.plane)]
        pictures = [_picture(model, shared, len(spots) + place) for place, model in enumerate(group)]
        spots += [picture.spots for picture in pictures]
        panels = zip(whole, group, pictures, strict=True)
        groups.append([Panel(label(model), _note(model, shown), plane.picture) for model, shown, plane in panels])
    held_out = any(point.held_out for model in models for point in model.plane)
    return Figure(groups, [*KEYS, *([HELD_OUT] if held_out else [])], spots=tuple(spots))


def _picture(model: ModelFacts, shared: Sequence[PlanePoint], index: int) -> Plane:
    description = f"Hidden states of {label(model)}: {describe_points(model.plane)}; {_distance(model)}."
    return plane_picture(plane_points(model.plane), index=index, description=description, within=shared)


def thinned(points: Sequence[Point], most: int) -> tuple[Point, ...]:
    """Return the points, or of each class every so many-th where there are more than `most`."""
    stride = -(-len(points) // max(most, 1))
    classes = ([point for point in points if point.harmful == harmful] for harmful in (False, True))
    return tuple(points) if stride < 2 else tuple(point for side in classes for point in side[::stride])


def _note(model: ModelFacts, shown: ModelFacts) -> str:
    """Return the distance, and how many of the prompts are drawn where these are not all."""
    count, total = len(shown.plane), len(model.plane)
    return _distance(model) + (f"; {count} of {total} prompts drawn" if count < total else "")


def _distance(model: ModelFacts) -> str:
    distance = model.in_distribution.separation.get(D_B)
    measured = distance is not None and distance.value is not None
    return f"D_B {spelled(distance, significant) if measured else missing(distance)}"


def plane_points(points: Sequence[Point]) -> list[PlanePoint]:
    """Return the points to draw, benign ones first; prompts on held-out topics are crosses, outside the ellipses."""
    return [
        PlanePoint(point.x, point.y, _tone(point), point.held_out, kind(point), point.prompt)
        for point in sorted(points, key=lambda point: point.harmful)
    ]


def kind(point: Point) -> str:
    return f"{_tone(point)}{', held-out topic' if point.held_out else ''}"


def describe_points(points: Sequence[Point]) -> str:
    """Return where the classes lie, in words."""
    parts = []
    for harmful in (False, True):
        cloud = [(point.x, point.y) for point in points if point.harmful == harmful]
        if cloud:
            x, y = np.mean(cloud, axis=0)
            parts.append(f"{len(cloud)} {'harmful' if harmful else 'benign'} prompts around ({x:.3g}, {y:.3g})")
    return "; ".join(parts) or "no prompts"


def _tone(point: Point) -> str:
    return "harmful" if point.harmful else "benign"
