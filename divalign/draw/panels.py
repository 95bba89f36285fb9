"""What surrounds the pictures: panels with their captions, figures of several panels, and legends."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

from divalign.draw.plane import Spot
from divalign.draw.svg import markup, node


class Panel(NamedTuple):
    """One picture with its caption."""

    title: str
    note: str
    picture: Markup


class Key(NamedTuple):
    """One entry of a legend."""

    label: str
    picture: Markup


class Figure(NamedTuple):
    """Panels in groups that belong side by side, and their legend. `spots`: per plane, what a pointer reads there."""

    groups: list[list[Panel]]
    keys: list[Key]
    spots: tuple[tuple[Spot, ...], ...] = ()


def swatch(kind: str, path: str) -> Markup:
    """Return a path of a CSS class in a small square, hidden from screen readers: the label says it all."""
    return markup(node("svg", node("path", d=path, class_=kind), viewBox="0 0 14 14", aria_hidden="true"))
