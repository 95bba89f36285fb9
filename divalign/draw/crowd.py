"""Symbols that would hide each other, placed side by side around their common middle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

APART = 8.0  # from one symbol's middle to the next one's
ON_ONE = 14  # symbols that share one circle
Place = tuple[float, float]


def around(places: Sequence[Place], *, apart: float = APART) -> list[Place]:
    """Return where to draw symbols: those that would touch stand on rings around their common middle, side by side.

    What touches directly or through others makes a ring, and so does what a ring would touch; a symbol that is alone
    keeps its place. The middle stays free for the lines that cross there. More than `ON_ONE` symbols fill several
    rings, or one ring of sixty would reach across the picture.
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
    """Return places side by side on circles around the middle of `places`; a single one as it is.

    The farthest from the middle keeps its direction, and the others follow around the circle as they lie; of several
    circles the inner ones take those that lie nearest.
    """
    if len(places) == 1:
        return list(places)
    middle = sum(place[0] for place in places) / len(places), sum(place[1] for place in places) / len(places)
    nearest = sorted(range(len(places)), key=lambda index: math.dist(places[index], middle))
    shown: dict[int, Place] = {}
    for reach, size in _circles(len(places), apart):
        members, nearest = nearest[:size], nearest[size:]
        circle = _on_circle([places[index] for index in members], middle, reach)
        shown |= dict(zip(members, circle, strict=True))
    return [shown[index] for index in range(len(places))]


def _circles(count: int, apart: float) -> list[tuple[float, int]]:
    """Return the radius of each circle and how many symbols stand on it: one circle for few, else 6, 12, 18, ..."""
    if count <= ON_ONE:
        return [(apart / (2 * math.sin(math.pi / count)), count)]
    sizes, number = [], 1
    while count > 0:
        sizes.append((number * apart, min(count, 6 * number)))
        count, number = count - 6 * number, number + 1
    return sizes


def _on_circle(places: Sequence[Place], middle: Place, reach: float) -> list[Place]:
    """Return evenly spaced places on a circle, in the order of the angles of `places`."""
    (x, y), size = middle, len(places)
    angles = [math.atan2(place[1] - y, place[0] - x) for place in places]
    start = angles[max(range(size), key=lambda index: math.dist(places[index], middle))]
    order = sorted(range(size), key=lambda index: (angles[index] - start) % (2 * math.pi))
    turns = {index: start + 2 * math.pi * number / size for number, index in enumerate(order)}
    return [(x + reach * math.cos(turns[n]), y + reach * math.sin(turns[n])) for n in range(size)]


def _touch(first: Sequence[Place], second: Sequence[Place], apart: float) -> bool:
    return any(math.dist(a, b) < apart * (1 - 1e-9) for a in first for b in second)
