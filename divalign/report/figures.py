"""From models to pictures: which panels a section has, what stands in each, and the legend."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from divalign.core.stats import Estimate
from divalign.draw.axis import Axis, linear, logarithmic, shares
from divalign.draw.numbers import significant
from divalign.draw.panels import Figure, Key, Panel, swatch
from divalign.draw.plots import Curve, Dot, curves_picture, dots_picture
from divalign.draw.rows import Mark, MarkRow, rows_picture
from divalign.draw.svg import symbol
from divalign.report.compare import Get, by_method, label, measured_models
from divalign.report.facts import ModelFacts
from divalign.report.legend import bar_keys, base_key, recipe_keys, tone
from divalign.report.quantities import (
    ASR,
    D_B,
    OVER_REFUSAL,
    PROBE,
    SEPARATION,
    aligned_of,
    asr,
    attacks,
    base_of,
    over_refusal,
    separation,
    shape_of,
    upper_bounds,
)
from divalign.report.words import attack_words, divergence_words, missing, spelled

REWARDS = {"rewards/chosen": "chosen", "rewards/rejected": "rejected", "rewards/margins": "margin"}


def attack_bars(models: Sequence[ModelFacts]) -> Figure:
    """Draw the attack success rate of every model: one panel an attack, held-out topics apart."""
    held_out = any(model.held_out for model in models)
    panels = []
    for attack in attacks(models):
        description = f"Attack success rate, {attack_words(attack)}, as in the table."
        rows = [_bars(model, asr(attack), tone(model.data, models), held_out=held_out) for model in models]
        panels.append(
            Panel(attack_words(attack), "", rows_picture(rows, shares(ASR.form), description=description, bars=True))
        )
    return Figure([[panel] for panel in panels], bar_keys(models, held_out=held_out))


def _bars(model: ModelFacts, get: Get, colour: str, *, held_out: bool) -> MarkRow:
    name = label(model)
    bars = [_mark(get(model.in_distribution), colour, 0, f"{name}, topics of the training data", shares(ASR.form))]
    if held_out:
        rate = get(model.held_out) if model.held_out else None
        bars.append(_mark(rate, colour, 0, f"{name}, held-out topics", shares(ASR.form))._replace(light=True))
    return MarkRow(name, tuple(bars))


def _mark(estimate: Estimate | None, colour: str, shape: int, name: str, axis: Axis) -> Mark:
    return Mark(estimate, colour, shape, f"{name}: {spelled(estimate, axis.form)}", missing(estimate))


def side_by_side(models: Sequence[ModelFacts]) -> Figure:
    """Draw every method's models on the data recipes against each other, and against the base."""
    columns = [
        (SEPARATION[D_B].label, separation(D_B), SEPARATION[D_B].direction, _distance_axis(models)),
        (SEPARATION[PROBE].label, separation(PROBE), SEPARATION[PROBE].direction, _auc_axis(models)),
        *((f"ASR, {attack_words(attack)}", asr(attack), ASR.direction, shares(ASR.form)) for attack in attacks(models)),
        (OVER_REFUSAL.label, over_refusal, OVER_REFUSAL.direction, shares(OVER_REFUSAL.form)),
    ]
    panels = [
        _against_base(title, note, models, get, axis)
        for title, get, note, axis in columns
        if measured_models(aligned_of(models), get)
    ]
    return Figure([[panel] for panel in panels], [*recipe_keys(models), *base_key(models, "reference", "M7 0V14")])


def divergences(models: Sequence[ModelFacts]) -> Figure:
    """Draw every divergence estimate with its interval, and the upper bound of those that have one."""
    bounds, panels = upper_bounds(models), []
    for name, upper in bounds.items():
        estimates = [model.divergence[name] for model in models if name in model.divergence]
        ends = [end for end in (upper, *(end for estimate in estimates for end in estimate[:3])) if end]
        axis = linear([0.0, *(ends or [1.0])])
        title = divergence_words(name, upper)
        panels.append(_rows_by_method(title, "", models, _divergence_of(name), axis, reference=upper))
    bounded = any(bound is not None for bound in bounds.values())
    keys = [Key("upper bound: disjoint supports", swatch("reference", "M7 0V14"))] if bounded else []
    return Figure([[panel] for panel in panels], [*recipe_keys(models), *keys])


def curves(models: Sequence[ModelFacts]) -> Figure:
    """Draw the rewards of chosen and rejected responses over training; one method's panels share their scale."""
    groups = []
    for group in by_method([model for model in models if _rewards(model)]):
        rewards = [_rewards(model) for model in group]
        y = linear([0.0, *(value for series in rewards for curve in series for _, value in curve.points)])
        panels = []
        for model, series in zip(group, rewards, strict=True):
            x = linear([0.0, *(step for curve in series for step, _ in curve.points)])
            ends = ", ".join(f"{curve.kind} {significant(curve.points[-1][1])}" for curve in series)
            description = f"Rewards of {label(model)} over training, at the end: {ends}."
            picture = curves_picture(series, x, y, x_label="step", description=description)
            panels.append(Panel(label(model), f"at the end: {ends}", picture))
        groups.append(panels)
    keys = [Key(kind, swatch(f"curve {kind}", "M0 7H14")) for kind in REWARDS.values()]
    return Figure(groups, keys)


def separation_against_attacks(models: Sequence[ModelFacts]) -> Figure:
    """Draw the attack success rate against D_B, one panel an attack: what the verdict is about."""
    return _attacks_against(models, separation(D_B), SEPARATION[D_B].label, _distance_axis(models))


def frontier(models: Sequence[ModelFacts]) -> Figure:
    """Draw safety against over-refusal, one panel an attack: a model is better the nearer it lies to the lower left."""
    return _attacks_against(models, over_refusal, OVER_REFUSAL.label, shares(OVER_REFUSAL.form))


def _attacks_against(models: Sequence[ModelFacts], get: Get, name: str, axis: Axis) -> Figure:
    """Draw one panel an attack that was run on at least two models."""
    across = {
        model.name: estimate for model, _ in measured_models(models, get) if (estimate := get(model.in_distribution))
    }
    rates, panels = shares(ASR.form), []
    for attack in attacks(models):
        dots = [
            Dot(
                across[model.name],
                rate,
                tone(model.data, models),
                shape_of(model.data, models),
                f"{label(model)}: {spelled(rate, rates.form)} at {spelled(across[model.name], axis.form)}",
            )
            for model in models
            if model.name in across and (rate := model.in_distribution.asr.get(attack)) is not None
        ]
        words = attack_words(attack)
        description = f"Success rate of the {words} attack against {name}, {len(dots)} models, as in the table."
        if len(dots) > 1:
            panels.append(Panel(words, "", dots_picture(dots, axis, rates, x_label=name, description=description)))
    keys = [*recipe_keys(models), *base_key(models, "mark tone-base", symbol(shape_of(None, models), 7.0, 7.0))]
    return Figure([[panel] for panel in panels], keys)


def _against_base(title: str, note: str, models: Sequence[ModelFacts], get: Get, axis: Axis) -> Panel:
    base = base_of(models)
    before = get(base.in_distribution) if base else None
    reference = before.value if before else None
    return _rows_by_method(title, note, models, lambda model: get(model.in_distribution), axis, reference=reference)


def _rows_by_method(
    title: str,
    note: str,
    models: Sequence[ModelFacts],
    get: Callable[[ModelFacts], Estimate | None],
    axis: Axis,
    *,
    reference: float | None,
) -> Panel:
    rows = [
        MarkRow(
            group[0].title,
            tuple(
                _mark(get(model), tone(model.data, models), shape_of(model.data, models), label(model), axis)
                for model in group
            ),
        )
        for group in by_method(aligned_of(models))
    ]
    description = f"{title} by method and data, as in the table."
    return Panel(title, note, rows_picture(rows, axis, description=description, reference=reference))


def _divergence_of(name: str) -> Callable[[ModelFacts], Estimate | None]:
    return lambda model: model.divergence.get(name)


def _rewards(model: ModelFacts) -> list[Curve]:
    series = {
        kind: tuple((row["step"] or 0.0, value) for row in model.metrics if (value := row.get(key)) is not None)
        for key, kind in REWARDS.items()
    }
    return [Curve(kind, points) for kind, points in series.items() if points]


def _distance_axis(models: Sequence[ModelFacts]) -> Axis:
    estimates = [model.in_distribution.separation.get(D_B) for model in models]
    return logarithmic(end for estimate in estimates if estimate for end in estimate[:3] if end is not None)


def _auc_axis(models: Sequence[ModelFacts]) -> Axis:
    estimates = [model.in_distribution.separation.get(PROBE) for model in models]
    ends = [end for estimate in estimates if estimate for end in estimate[:3] if end is not None]
    return linear([0.5, 1.0, *ends], about=5, form=SEPARATION[PROBE].form)
