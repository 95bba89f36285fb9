"""The picture of layers: one cell for each layer and measure, as dark as its number is large."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple
from xml.etree.ElementTree import Element

from markupsafe import Markup

from divalign.core.stats import Estimate
from divalign.report.svg import drawing, node, text
from divalign.report.words import Form, spelled

WIDTH, LEFT, TOP, HEIGHT = 300.0, 34.0, 34.0, 17.0


class Column(NamedTuple):
    """One measure at one position: its two lines of heading, an estimate a layer, and how numbers are written.

    `low` to `high` is the range of shades; on a logarithmic scale if `log`. `whys` says why a layer has no number.
    """

    heading: tuple[str, str]
    layers: Mapping[int, Estimate | None]
    form: Form
    low: float
    high: float
    log: bool = False
    whys: Mapping[int, str] = MappingProxyType({})


def heat_picture(columns: Sequence[Column], *, says: str) -> Markup:
    """Draw layers upwards, the last on top, and measures side by side; each cell holds its number.

    A cell without a number is empty and framed, never pale: pale is small.
    """
    layers = sorted({layer for column in columns for layer in column.layers}, reverse=True)
    width = (WIDTH - LEFT) / max(len(columns), 1)
    children: list[Element] = []
    for place, column in enumerate(columns):
        x = LEFT + place * width
        children += [text(x + width / 2, 12.0 + 13 * n, line, "tick middle") for n, line in enumerate(column.heading)]
        children += [_cell(column, layer, x, TOP + HEIGHT * row, width) for row, layer in enumerate(layers)]
    for row, layer in enumerate(layers):
        children.append(text(LEFT - 8, TOP + HEIGHT * row + 12, str(layer), "tick end"))
    return drawing(WIDTH, TOP + HEIGHT * len(layers) + 4, says, children)


def _cell(column: Column, layer: int, x: float, y: float, width: float) -> Element:
    estimate = column.layers.get(layer)
    box = {"x": x + 1, "y": y + 1, "width": width - 2, "height": HEIGHT - 2}
    if estimate is None or estimate.value is None:
        why = column.whys.get(layer) or "not measured"
        return node("g", node("title", f"layer {layer}: {why}"), node("rect", **box, class_="frame"))
    depth = _depth(column, estimate.value)
    title = node("title", f"layer {layer}, {' '.join(column.heading)}: {spelled(estimate, column.form)}")
    shade = node("rect", **box, class_="heat", fill_opacity=f"{depth:.2f}")
    return node("g", title, shade, text(x + width / 2, y + 12.5, column.form(estimate.value), "cell middle"))


def _depth(column: Column, value: float) -> float:
    """Return how dark a value is; at most half, so that its number stays readable on it."""
    low, high, at = column.low, column.high, min(max(value, column.low), column.high)
    if column.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return 0.05 + 0.45 * (at - low) / (high - low)
