"""The figure of hidden states: every model's prompts in the plane of their first two principal components."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from divalign.draw.numbers import significant
from divalign.draw.panels import Figure, Key, Panel, swatch
from divalign.draw.plane import PlanePoint, plane_picture
from divalign.draw.svg import symbol
from divalign.report.compare import by_method, label
from divalign.report.facts import ModelFacts, Point
from divalign.report.quantities import D_B
from divalign.report.words import missing

KEYS = (
    Key("benign prompt", swatch("dots benign", "M7 7h0")),
    Key("harmful prompt", swatch("dots harmful", "M7 7h0")),
    Key("1 and 2 standard deviations", swatch("ellipse ink", symbol(0, 7.0, 7.0, size=5.5))),
)
HELD_OUT = Key("held-out topic", swatch("crosses ink", "M4 4l6 6m0 -6l-6 6"))
ASIDE = (
    "The ellipses are those of a Gaussian with the mean and covariance of a class’s dots; it has 39 % and 86 % of its "
    "mass in them. D_B is small where they overlap. Crosses among the dots of their colour: in this plane a held-out "
    "topic looks to the model like one of its training data."
)


def planes(models: Sequence[ModelFacts]) -> Figure:
    """Draw the hidden states of every model that has them; a method's models on the data recipes side by side."""
    groups, spots = [], []
    for group in by_method([model for model in models if model.plane]):
        panels = []
        for model in group:
            distance = model.in_distribution.separation.get(D_B)
            value = missing(distance) if distance is None or distance.value is None else significant(distance.value)
            description = f"Hidden states of {label(model)}: {describe_points(model.plane)}; D_B {value}."
            plane = plane_picture(plane_points(model.plane), index=len(spots), description=description)
            spots.append(plane.spots)
            panels.append(Panel(label(model), f"D_B {value}", plane.picture))
        groups.append(panels)
    held_out = any(point.held_out for model in models for point in model.plane)
    return Figure(groups, [*KEYS, *([HELD_OUT] if held_out else [])], ASIDE, tuple(spots))


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
