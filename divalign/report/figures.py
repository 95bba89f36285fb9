"""From models to pictures: which panels a section has, what stands in each, and the legend."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from divalign.core.stats import Estimate
from divalign.draw.axis import Axis, linear, logarithmic, shares
from divalign.draw.numbers import significant
from divalign.draw.panels import Figure, Key, Panel, swatch
from divalign.draw.plots import LARGE, Curve, Dot, curves_picture, dots_picture
from divalign.draw.rows import Mark, MarkRow, rows_picture
from divalign.draw.svg import symbol
from divalign.report.compare import Get, label, measured_models
from divalign.report.facts import ModelFacts
from divalign.report.legend import base_key, recipe_keys, tone
from divalign.report.quantities import (
    ASR,
    D_B,
    OVER_REFUSAL,
    SEPARATION,
    aligned_of,
    attacks,
    over_refusal,
    recipes,
    separation,
    shape_of,
    upper_bounds,
)
from divalign.report.words import attack_words, divergence_words, missing, spelled

AXES = ("step", "epoch")  # columns of a log that count, and are not measured
FIRST = ("loss", "eval_loss", "rewards/", "reward", "kl", "divergence/", "logps/", "nll/")  # the rest by name


def frontier(models: Sequence[ModelFacts]) -> Figure:
    """Draw attack success against over-refusal, one panel an attack: the lower left corner is better on both."""
    return _attacks_against(models, over_refusal, OVER_REFUSAL.label, shares(OVER_REFUSAL.form))


def separation_against_attacks(models: Sequence[ModelFacts]) -> Figure:
    """Draw the attack success rate against D_B, one panel an attack: what the verdict is about."""
    estimates = [model.in_distribution.separation.get(D_B) for model in models]
    axis = logarithmic(end for estimate in estimates if estimate for end in estimate[:3] if end is not None)
    return _attacks_against(models, separation(D_B), SEPARATION[D_B].label, axis)


def _attacks_against(models: Sequence[ModelFacts], get: Get, name: str, axis: Axis) -> Figure:
    """Draw one panel an attack that was run on at least two models."""
    across = {
        model.name: estimate for model, _ in measured_models(models, get) if (estimate := get(model.in_distribution))
    }
    panels = []
    for attack in attacks(models):
        dots = [
            _dot(model, models, across[model.name], rate, f"{name} {spelled(across[model.name], axis.form)}")
            for model in models
            if model.name in across and (rate := model.in_distribution.asr.get(attack)) is not None
        ]
        words = attack_words(attack)
        description = f"Success rate of the {words} attack against {name}, {len(dots)} models, as in the table."
        if len(dots) > 1:
            picture = dots_picture(dots, axis, shares(ASR.form), x_label=name, description=description, box=LARGE)
            panels.append(Panel(words, "", picture))
    keys = [*recipe_keys(models), *base_key(models, "mark tone-base", symbol(shape_of(None, models), 7.0, 7.0))]
    return Figure([[panel] for panel in panels], keys)


def _dot(model: ModelFacts, models: Sequence[ModelFacts], across: Estimate, rate: Estimate, x_words: str) -> Dot:
    title = f"{label(model)}: attack success {spelled(rate, ASR.form)}; {x_words}"
    return Dot(across, rate, tone(model.data, models), shape_of(model.data, models), title, model.name)


def divergences(models: Sequence[ModelFacts]) -> Figure:
    """Draw every divergence estimate with its interval, and the upper bound of those that have one."""
    bounds, panels = upper_bounds(models), []
    for name, upper in bounds.items():
        estimates = [model.divergence[name] for model in models if name in model.divergence]
        ends = [end for end in (upper, *(end for estimate in estimates for end in estimate[:3])) if end]
        axis = linear([0.0, *(ends or [1.0])])
        title = divergence_words(name, upper)
        panels.append(_rows_by_method(title, models, _divergence_of(name), axis, reference=upper))
    bounded = any(bound is not None for bound in bounds.values())
    keys = [Key("upper bound: disjoint supports", swatch("reference", "M7 0V14"))] if bounded else []
    return Figure([[panel] for panel in panels], [*recipe_keys(models), *keys])


def _rows_by_method(
    title: str,
    models: Sequence[ModelFacts],
    get: Callable[[ModelFacts], Estimate | None],
    axis: Axis,
    *,
    reference: float | None,
) -> Panel:
    rows = [
        MarkRow(group[0].title, tuple(_mark(model, models, get(model), axis) for model in group))
        for group in _by_method(aligned_of(models))
    ]
    description = f"{title} by method and data, as in the table."
    return Panel(title, "", rows_picture(rows, axis, description=description, reference=reference))


def _by_method(models: Sequence[ModelFacts]) -> list[list[ModelFacts]]:
    """Return the models grouped by method (and seed, where there are several), in order of the data recipes."""
    order = recipes(models)
    groups: dict[str, list[ModelFacts]] = {}
    for model in models:
        groups.setdefault(model.title, []).append(model)
    return [sorted(group, key=lambda m: order.index(m.data) if m.data else -1) for group in groups.values()]


def _mark(model: ModelFacts, models: Sequence[ModelFacts], estimate: Estimate | None, axis: Axis) -> Mark:
    title = f"{label(model)}: {spelled(estimate, axis.form)}"
    return Mark(
        estimate, tone(model.data, models), shape_of(model.data, models), title, missing(estimate), key=model.name
    )


def _divergence_of(name: str) -> Callable[[ModelFacts], Estimate | None]:
    return lambda model: model.divergence.get(name)


def curves(models: Sequence[ModelFacts]) -> Figure:
    """Draw every column of the training logs over steps, a line a model; a column that never varies is left out."""
    names = dict.fromkeys(name for model in models for row in model.metrics for name in row if name not in AXES)
    series = {name: [line for model in models if (line := _curve(model, models, name)).points] for name in names}
    panels = [_curves_panel(name, series[name]) for name in sorted(names, key=_rank) if _varies(series[name])]
    return Figure([[panel] for panel in panels], _line_keys(models))


def _curve(model: ModelFacts, models: Sequence[ModelFacts], name: str) -> Curve:
    points = [(row["step"] or 0.0, value) for row in model.metrics if (value := row.get(name)) is not None]
    title = f"{label(model)}: {significant(points[-1][1])} at the end" if points else ""
    return Curve(tone(model.data, models), tuple(points), title, model.name)


def _varies(lines: Sequence[Curve]) -> bool:
    return len({value for line in lines for _, value in line.points}) > 1


def _rank(name: str) -> tuple[int, str]:
    return next((place for place, start in enumerate(FIRST) if name.startswith(start)), len(FIRST)), name


def _curves_panel(name: str, lines: Sequence[Curve]) -> Panel:
    x = linear([0.0, *(step for line in lines for step, _ in line.points)])
    y = linear([value for line in lines for _, value in line.points])
    ends = sorted(line.points[-1][1] for line in lines)
    description = (
        f"{name} over training steps of {len(lines)} models; at the end {significant(ends[0])} to "
        f"{significant(ends[-1])}."
    )
    return Panel(name, "", curves_picture(lines, x, y, x_label="step", description=description))


def _line_keys(models: Sequence[ModelFacts]) -> list[Key]:
    return recipe_keys(models, lambda kind, _: swatch(f"curve {kind}", "M0 7H14"))
