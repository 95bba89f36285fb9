"""Separation by layer: curves over the layers of every model, and its numbers at the layer that a slider chooses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from divalign.core.stats import Estimate
from divalign.draw.axis import Axis, linear, logarithmic
from divalign.draw.numbers import Form, share, significant
from divalign.draw.panels import Figure, Panel
from divalign.draw.plots import PANEL, Curve, curves_picture
from divalign.records import LayerSeparation
from divalign.report.compare import label
from divalign.report.facts import ModelFacts
from divalign.report.legend import base_key, recipe_keys, tone
from divalign.report.tables import Cell, Column, Table, TableRow, cell
from divalign.report.words import NOT_MEASURED

POSITIONS = {"generation": "start of answer", "instruction": "end of instruction", "response": "mean over response"}
MEASURES: tuple[tuple[str, str, Form], ...] = (
    ("bhattacharyya", "D_B, held out", significant),
    ("probe_auc", "probe AUC", share),
)
FLOOR = 0.01  # nats: where a distance of 0 or less is drawn on the logarithmic axis
FEWEST = 2  # layers that are worth a slider


class LayerView(NamedTuple):
    """Curves with a group of panels a position, the table at the last layer, and what a slider puts into it.

    `data` holds for each position its layers, each layer's place across the panels, and each model's cells by layer.
    """

    figure: Figure
    table: Table
    data: dict[str, Any]
    layers: list[int]


def layer_view(models: Sequence[ModelFacts]) -> LayerView | None:
    """Return the view, or None where no model was measured at two layers or more."""
    maps = {model.name: model.layers.map for model in models if model.layers}
    numbers = sorted({entry.layer for entries in maps.values() for entry in entries})
    if len(numbers) < FEWEST:
        return None
    measured = [model for model in models if model.name in maps]
    order = [name for name in POSITIONS if any(entry.position == name for rows in maps.values() for entry in rows)]
    groups = [[_panel(measured, position, numbers, *measure) for measure in MEASURES] for position in order]
    data = {POSITIONS[position]: _data(measured, position, numbers) for position in order}
    keys = [*recipe_keys(measured), *base_key(measured, "curve tone-base", "M0 7H14")]
    return LayerView(Figure(groups, keys), _table(measured, order[0], numbers[-1]), data, numbers)


def _entries(model: ModelFacts, position: str) -> Iterator[LayerSeparation]:
    return (entry for entry in (model.layers.map if model.layers else []) if entry.position == position)


def _panel(
    models: Sequence[ModelFacts], position: str, numbers: Sequence[int], measure: str, title: str, form: Form
) -> Panel:
    lines = [line for model in models if (line := _curve(model, models, position, measure, form)).points]
    values = [value for line in lines for _, value in line.points]
    y = logarithmic(values) if measure == MEASURES[0][0] else linear([0.5, 1.0, *values], form=form)
    description = f"{title} by layer at the {POSITIONS[position]} of {len(lines)} models; the table has each layer."
    picture = curves_picture(lines, _layer_axis(numbers), y, x_label="layer", description=description)
    return Panel(POSITIONS[position], title, picture)


def _curve(model: ModelFacts, models: Sequence[ModelFacts], position: str, measure: str, form: Form) -> Curve:
    points = []
    for entry in _entries(model, position):
        estimate: Estimate = getattr(entry, measure)
        if estimate.value is not None:
            points.append((float(entry.layer), max(estimate.value, FLOOR)))
    return Curve(tone(model.data, models), tuple(sorted(points)), label(model), model.name)


def _table(models: Sequence[ModelFacts], position: str, layer: int) -> Table:
    rows = tuple(TableRow(label(model), _cells(model, position, layer), model.name) for model in models)
    heads = tuple(Column(title, note) for (_, title, _), note in zip(MEASURES, ("nats", "0.5 is chance"), strict=True))
    return Table("Separation at the chosen layer", heads, rows)


def _cells(model: ModelFacts, position: str, layer: int) -> tuple[Cell, ...]:
    entry = next((entry for entry in _entries(model, position) if entry.layer == layer), None)
    if entry is None:
        return tuple(Cell(NOT_MEASURED, is_number=False) for _ in MEASURES)
    return tuple(cell(getattr(entry, measure), form) for measure, _, form in MEASURES)


def _layer_axis(numbers: Sequence[int]) -> Axis:
    return linear(map(float, numbers))


def _data(models: Sequence[ModelFacts], position: str, numbers: Sequence[int]) -> dict[str, Any]:
    axis = _layer_axis(numbers)
    rows = {
        model.name: [[[c.value, c.bounds, c.sort] for c in _cells(model, position, number)] for number in numbers]
        for model in models
    }
    return {
        "numbers": list(numbers),
        "at": [round(PANEL.across(axis, float(number)), 1) for number in numbers],
        "rows": rows,
    }
