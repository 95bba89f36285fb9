"""The white-box searches: the loss of the target opening by step, for each prompt and in the mean."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from divalign.draw.axis import Axis, linear
from divalign.draw.numbers import significant
from divalign.draw.panels import Figure, Key, Panel, swatch
from divalign.draw.plots import Curve, curves_picture
from divalign.report.compare import label
from divalign.report.facts import ModelFacts, SearchFacts
from divalign.report.legend import tone


def search_curves(models: Sequence[ModelFacts]) -> Figure:
    """Draw the loss by step of every model that was searched; a search that has ended keeps its last loss."""
    searched = [model for model in models if model.searches]
    y = linear([0.0, *(loss for model in searched for search in model.searches for loss in search.losses)])
    panels = [_panel(model, searched, y) for model in searched]
    counts = sorted({len(model.searches) for model in searched})
    keys = [
        Key(f"mean of {' or '.join(map(str, counts))} prompts", swatch("curve ink", "M0 7H14")),
        Key("one prompt, until its search ended", swatch("curve ink faint", "M0 7H14")),
    ]
    return Figure([[panel] for panel in panels], keys if panels else [])


def mean_losses(searches: Sequence[SearchFacts]) -> list[float]:
    """Return the mean loss by step up to the last step of any search, those that have ended with their last loss."""
    longest = max(len(search.losses) for search in searches)
    return [
        sum(search.losses[min(step, len(search.losses) - 1)] for search in searches) / len(searches)
        for step in range(longest)
    ]


def _panel(model: ModelFacts, models: Sequence[ModelFacts], y: Axis) -> Panel:
    mean = mean_losses(model.searches)
    x = linear([0.0, float(max(len(mean) - 1, 1))])
    kind = tone(model.data, models)
    each = [Curve(f"{kind} faint", _points(search.losses)) for search in model.searches if len(search.losses) > 1]
    note = _ended(model.searches)
    description = (
        f"Loss of the target opening under {label(model)}, mean of {len(model.searches)} prompts: "
        f"{significant(mean[0])} before the search, {significant(mean[-1])} after {len(mean) - 1} steps; {note}."
    )
    picture = curves_picture([*each, Curve(kind, _points(mean))], x, y, x_label="step", description=description)
    return Panel(label(model), note, picture)


def _points(losses: Sequence[float]) -> tuple[tuple[float, float], ...]:
    return tuple((float(step), loss) for step, loss in enumerate(losses))


def _ended(searches: Sequence[SearchFacts]) -> str:
    taken = [len(search.losses) - 1 for search in searches if search.succeeded]
    text = f"{len(taken)} of {len(searches)} ended by success"
    return text + (f", median step {median(taken):g}, last {max(taken)}" if taken else "")
