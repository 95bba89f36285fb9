"""From models to pictures: which panels a section has, what stands in each, and the key to read them by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from divalign.core.stats import Estimate
from divalign.report.axis import Axis, linear, logarithmic, shares
from divalign.report.compare import Get, known, label
from divalign.report.facts import Model
from divalign.report.legend import Figure, Key, Panel, bar_keys, base_key, recipe_keys, swatch, tone
from divalign.report.measures import (
    ASR,
    CEILINGS,
    D_B,
    OVER_REFUSAL,
    PROBE,
    SEPARATION,
    aligned_of,
    asr,
    attacks,
    base_of,
    over_refusal,
    recipes,
    separation,
    shape_of,
)
from divalign.report.plane import plane_picture, spoken
from divalign.report.plots import Curve, Dot, curves_picture, dots_picture
from divalign.report.rows import Mark, Row, rows_picture
from divalign.report.svg import symbol
from divalign.report.words import attack_words, significant

REWARDS = {"rewards/chosen": "chosen", "rewards/rejected": "rejected", "rewards/margins": "margin"}


def attack_bars(models: Sequence[Model]) -> Figure:
    """Draw the attack success rate of every model: one panel an attack, held-in and held-out topics apart."""
    unseen = any(model.held_out for model in models)

    def row(model: Model, get: Get) -> Row:
        colour = tone(model.data, models)
        marks = [Mark(get(model.held_in), colour, 0, f"{label(model)}, seen topics")]
        if unseen:
            held_out = get(model.held_out) if model.held_out else None
            marks.append(Mark(held_out, colour, 0, f"{label(model)}, held-out topics", light=True))
        return Row(label(model), tuple(marks))

    panels = [
        Panel(
            attack_words(attack),
            "",
            rows_picture(
                [row(model, asr(attack)) for model in models],
                shares(ASR.form),
                says=f"Attack success rate, {attack_words(attack)}, as in the table.",
                bars=True,
            ),
        )
        for attack in attacks(models)
    ]
    return Figure([[panel] for panel in panels], bar_keys(models, unseen=unseen))


def side_by_side(models: Sequence[Model]) -> Figure:
    """Draw every method's models on the data recipes against each other, and against the base."""
    named = [
        (SEPARATION[D_B].label, separation(D_B), SEPARATION[D_B].direction, _distance_axis(models)),
        (SEPARATION[PROBE].label, separation(PROBE), SEPARATION[PROBE].direction, _auc_axis(models)),
        *((f"ASR, {attack_words(attack)}", asr(attack), ASR.direction, shares(ASR.form)) for attack in attacks(models)),
        (OVER_REFUSAL.label, over_refusal, OVER_REFUSAL.direction, shares(OVER_REFUSAL.form)),
    ]
    panels = [
        _compared(title, note, models, get, axis) for title, get, note, axis in named if known(aligned_of(models), get)
    ]
    return Figure([[panel] for panel in panels], [*recipe_keys(models), *base_key(models, "reference", "M7 0V14")])


def divergences(models: Sequence[Model]) -> Figure:
    """Draw every divergence estimate with its interval, and the ceiling of those that have one."""
    names = dict.fromkeys(name for model in models for name in model.divergence)
    panels = []
    for name in names:
        ceiling = CEILINGS.get(name)
        estimates = [model.divergence[name] for model in models if name in model.divergence]
        ends = [end for end in (ceiling, *(end for estimate in estimates for end in estimate[:3])) if end is not None]
        axis = linear([0.0, *ends]) if ends else Axis(0.0, 1.0, ())
        note = f"ceiling {significant(ceiling)}" if ceiling else ""
        panels.append(_rows_by_method(name, note, models, _divergence_of(name), axis, reference=ceiling))
    keys = [Key("ceiling", swatch("reference", "M7 0V14"))] if any(name in CEILINGS for name in names) else []
    return Figure([[panel] for panel in panels], [*recipe_keys(models), *keys])


def planes(models: Sequence[Model]) -> Figure:
    """Draw the hidden states of every model that has them; a method's models on the data recipes side by side."""
    groups, spots = [], []
    for group in _by_method([model for model in models if model.plane]):
        panels = []
        for model in group:
            distance = model.held_in.separation.get(D_B)
            value = significant(distance.value) if distance and distance.value is not None else "not known"
            says = f"Hidden states of {label(model)}: {spoken(model.plane)}; D_B {value}."
            plane = plane_picture(model.plane, index=len(spots), says=says)
            spots.append(plane.spots)
            panels.append(Panel(label(model), f"D_B {value}", plane.picture))
        groups.append(panels)
    keys = [
        Key("safe prompt", swatch("dots safe", "M7 7h0")),
        Key("harmful prompt", swatch("dots harmful", "M7 7h0")),
        Key("1 and 2 standard deviations", swatch("ellipse ink", symbol(0, 7.0, 7.0, size=5.5))),
    ]
    if any(point.held_out for model in models for point in model.plane):
        keys.append(Key("topic held out of alignment", swatch("crosses ink", "M4 4l6 6m0 -6l-6 6")))
    aside = (
        "How to read a panel: the ellipses are those of a Gaussian with the mean and covariance of a class’s dots. If "
        "the class were Gaussian, they would hold 39 % and 86 % of it. D_B is small where they overlap. Where crosses "
        "lie among the dots of their colour, the model sees a new topic, as far as this plane shows, like one it was "
        "aligned on."
    )
    return Figure(groups, keys, aside, tuple(spots))


def curves(models: Sequence[Model]) -> Figure:
    """Draw the rewards of chosen and rejected responses over training; one method's panels share their scale."""
    groups = []
    for group in _by_method([model for model in models if _rewards(model)]):
        found = [_rewards(model) for model in group]
        y = linear([0.0, *(value for curves in found for curve in curves for _, value in curve.points)])
        panels = []
        for model, drawn in zip(group, found, strict=True):
            x = linear([0.0, *(step for curve in drawn for step, _ in curve.points)])
            ends = ", ".join(f"{curve.kind} {significant(curve.points[-1][1])}" for curve in drawn)
            says = f"Rewards of {label(model)} over training, at the end: {ends}."
            picture = curves_picture(drawn, x, y, x_label="step", says=says)
            panels.append(Panel(label(model), f"at the end: {ends}", picture))
        groups.append(panels)
    keys = [Key(kind, swatch(f"curve {kind}", "M0 7H14")) for kind in REWARDS.values()]
    return Figure(groups, keys)


def separation_against_attacks(models: Sequence[Model]) -> Figure:
    """Draw the attack success rate against D_B, one panel an attack: what the verdict is about."""
    return _attacks_against(models, separation(D_B), SEPARATION[D_B].label, _distance_axis(models))


def frontier(models: Sequence[Model]) -> Figure:
    """Draw safety against over-refusal, one panel an attack: a model is better the nearer it lies to the lower left."""
    return _attacks_against(models, over_refusal, OVER_REFUSAL.label, shares(OVER_REFUSAL.form))


def _attacks_against(models: Sequence[Model], get: Get, name: str, axis: Axis) -> Figure:
    """Draw one panel an attack that at least two models met."""
    across = {model.name: estimate for model, _ in known(models, get) if (estimate := get(model.held_in))}
    panels = []
    for attack in attacks(models):
        dots = [
            Dot(across[m.name], estimate, tone(m.data, models), shape_of(m.data, models), label(m))
            for m in models
            if m.name in across and (estimate := m.held_in.asr.get(attack)) is not None
        ]
        words = attack_words(attack)
        says = f"Success rate of the {words} attack against {name}, {len(dots)} models, as in the table."
        if len(dots) > 1:
            panels.append(Panel(words, "", dots_picture(dots, axis, shares(ASR.form), x_label=name, says=says)))
    keys = [*recipe_keys(models), *base_key(models, "mark tone-base", symbol(shape_of(None, models), 7.0, 7.0))]
    return Figure([[panel] for panel in panels], keys)


def _compared(title: str, note: str, models: Sequence[Model], get: Get, axis: Axis) -> Panel:
    base = base_of(models)
    before = get(base.held_in) if base else None
    return _rows_by_method(
        title, note, models, lambda model: get(model.held_in), axis, reference=before.value if before else None
    )


def _rows_by_method(
    title: str,
    note: str,
    models: Sequence[Model],
    get: Callable[[Model], Estimate | None],
    axis: Axis,
    *,
    reference: float | None,
) -> Panel:
    rows = [
        Row(
            group[0].title,
            tuple(Mark(get(m), tone(m.data, models), shape_of(m.data, models), label(m)) for m in group),
        )
        for group in _by_method(aligned_of(models))
    ]
    return Panel(
        title, note, rows_picture(rows, axis, says=f"{title} by method and data, as in the table.", reference=reference)
    )


def _divergence_of(name: str) -> Callable[[Model], Estimate | None]:
    return lambda model: model.divergence.get(name)


def _by_method(models: Sequence[Model]) -> list[list[Model]]:
    """Return the models grouped by method (and seed, where there are several), in order of the data recipes."""
    order = recipes(models)
    groups: dict[str, list[Model]] = {}
    for model in models:
        groups.setdefault(model.title, []).append(model)
    return [sorted(group, key=lambda m: order.index(m.data) if m.data else -1) for group in groups.values()]


def _rewards(model: Model) -> list[Curve]:
    found = {
        kind: tuple((row["step"] or 0.0, value) for row in model.metrics if (value := row.get(key)) is not None)
        for key, kind in REWARDS.items()
    }
    return [Curve(kind, points) for kind, points in found.items() if points]


def _distance_axis(models: Sequence[Model]) -> Axis:
    estimates = [model.held_in.separation.get(D_B) for model in models]
    return logarithmic(end for estimate in estimates if estimate for end in estimate[:3] if end is not None)


def _auc_axis(models: Sequence[Model]) -> Axis:
    estimates = [model.held_in.separation.get(PROBE) for model in models]
    ends = [end for estimate in estimates if estimate for end in estimate[:3] if end is not None]
    return linear([0.5, 1.0, *ends], about=5, form=SEPARATION[PROBE].form)
