"""What is measured of hidden states: one layer in full, a cell of the map, the best layer, separation under attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from divalign.core.clouds import project
from divalign.core.directions import margins
from divalign.core.layers import separation_at_best_layer
from divalign.core.separation import Separation, separation
from divalign.core.stats import Estimate
from divalign.data.examples import Row
from divalign.data.lexical import length_auc, lexical_auc
from divalign.lm.hidden import POSITIONS
from divalign.records import (
    AttackSeparation,
    BestLayer,
    FullSeparation,
    LayerSeparation,
    Margins,
    NotMeasured,
    PromptCounts,
    SeparationPart,
)
from divalign.stages.hidden import ALL_POSITIONS
from divalign.stages.under_attack import MEASURES, Transform, separation_under_attack, sides

PARTS = {"test": False, "held_out": True}


@dataclass(frozen=True)
class SeparationPlan:
    """What is measured: positions, layers (None: all; negative ones count from the last) and attacks.

    `draws` are bootstrap draws; cells of the map take a quarter of them. The last layer is measured whatever `layers`
    says; a map and a best layer exist where more than one is.
    """

    positions: Sequence[str] = POSITIONS
    layers: Sequence[int] | None = None
    attacks: Mapping[str, Transform] = field(default_factory=dict)
    draws: int = 1000
    seed: int = 0
    batch_size: int = 64
    answer_tokens: int = 32

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown position, and for none."""
        unknown = [position for position in self.positions if position not in ALL_POSITIONS]
        if unknown or not self.positions:
            raise ValueError(f"position {unknown!r}: expected some of {', '.join(ALL_POSITIONS)}")

    def chosen(self, depth: int) -> set[int]:
        """Return the numbers of the layers that a map and a best layer are among, of a model of so many layers."""
        return set(range(depth)) if self.layers is None else {layer % depth for layer in self.layers}


class Baselines(NamedTuple):
    """What the prompts' words and lengths give away without any model: AUC, 0.5 is chance."""

    lexical: Estimate
    length: Estimate


class PromptPart(NamedTuple):
    """Some of the prompts: their rows, which of them are harmful, the clusters of both classes, and baselines."""

    prompts: Sequence[Row]
    harmful: np.ndarray
    clusters: tuple[list[str], list[str]]
    baselines: Baselines

    def pair(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the states [..., prompts, width] of safe and of harmful prompts."""
        return states[..., ~self.harmful, :], states[..., self.harmful, :]


def parts_of(prompts: Sequence[Row], seed: int) -> dict[str, tuple[np.ndarray, PromptPart]]:
    """Return each part that has prompts: the places of its rows, and the part."""
    parts = {}
    for name, held_out in PARTS.items():
        places = np.flatnonzero([bool(row.get("held_out", False)) is held_out for row in prompts])
        if len(places):
            chosen = [prompts[place] for place in places.tolist()]
            harmful, clusters = sides(chosen)
            texts = [[row["prompt"] for row in chosen if bool(row["harmful"]) is side] for side in (False, True)]
            baselines = Baselines(
                lexical_auc(*texts, groups=clusters, seed=seed), length_auc(*texts, groups=clusters, seed=seed)
            )
            parts[name] = places, PromptPart(chosen, harmful, clusters, baselines)
    return parts


def measure_part(
    part: PromptPart,
    states: Mapping[str, np.ndarray],
    attacked: Mapping[str, np.ndarray],
    numbers: Sequence[int],
    chosen: set[int],
    plan: SeparationPlan,
) -> SeparationPart:
    """Return everything that a plan asks for on one part of the prompts.

    `states` holds an array [layers, prompts, width] a position, whose layers have these `numbers`; `attacked` the last
    layer's states under each attack. A map and a best layer are among the `chosen` numbers, where they are several.
    """
    several = len(chosen) > 1
    return SeparationPart(
        prompts=PromptCounts(
            safe=int((~part.harmful).sum()),
            harmful=int(part.harmful.sum()),
            clusters=len({row["cluster"] for row in part.prompts}),
        ),
        lexical_auc=part.baselines.lexical,
        length_auc=part.baselines.length,
        map=[
            _cell(states[position][place], position, layer, part, plan)
            for position in plan.positions
            for place, layer in enumerate(numbers)
            if several and layer in chosen
        ],
        last_layer={position: _full(states[position][-1], part, plan) for position in plan.positions},
        best_layer={
            position: _best(states[position], numbers, chosen, part, plan) for position in plan.positions if several
        },
        under_attack={measure: _under_attack(attacked, part.prompts, measure, plan) for measure in MEASURES}
        if attacked
        else None,
    )


def _cell(states: np.ndarray, position: str, layer: int, part: PromptPart, plan: SeparationPlan) -> LayerSeparation:
    """Return one cell of the map; the reason instead where these states allow no number."""
    options: dict[str, Any] = {"groups": part.clusters, "seed": plan.seed, "lexical": part.baselines.lexical}
    try:
        measured = separation(*part.pair(states), draws=max(50, plan.draws // 4), null_draws=0, **options)
    except ValueError as error:
        nothing = Estimate(None, None, None, len(states))
        return LayerSeparation(
            position=position, layer=layer, bhattacharyya=nothing, probe_auc=nothing, flags=[], why=str(error)
        )
    return LayerSeparation(
        position=position,
        layer=layer,
        bhattacharyya=measured.bhattacharyya,
        probe_auc=measured.probe_auc,
        flags=flags(measured, part.baselines),
    )


def _full(states: np.ndarray, part: PromptPart, plan: SeparationPlan) -> FullSeparation | NotMeasured:
    """Return everything that is measured at one layer, held out and as the paper does; the reason where nothing can."""
    pair = part.pair(states)
    options: dict[str, Any] = {"groups": part.clusters, "seed": plan.seed, "draws": plan.draws}
    try:
        heldout = separation(*pair, lexical=part.baselines.lexical, **options)
        paper = separation(*pair, mode="paper", **options)
        distances = margins(*pair, seed=plan.seed, groups=part.clusters)
    except ValueError as error:
        return NotMeasured(why=str(error))
    return FullSeparation(
        **{name: getattr(heldout, name) for name in ("bhattacharyya", "silhouette", "probe_auc", "tpr_at_1_fpr")},
        energy=heldout.energy,
        energy_p_value=heldout.energy_p_value,
        null=heldout.null,
        dimensions=list(heldout.dimensions),
        bhattacharyya_paper=paper.bhattacharyya,
        silhouette_paper=paper.silhouette,
        margins=Margins(safe=np.round(distances[0], 3).tolist(), harmful=np.round(distances[1], 3).tolist()),
        flags=flags(heldout, part.baselines),
        flags_paper=sorted(paper.flags),
    )


def flags(measured: Separation, baselines: Baselines) -> list[str]:
    """Return what to doubt of a held-out separation, the length of the prompts included."""
    length, low = baselines.length.value, measured.probe_auc.low
    alone = {"length alone does as well"} if length is not None and low is not None and length >= low else set()
    return sorted(measured.flags | alone)


def _best(
    stack: np.ndarray, numbers: Sequence[int], chosen: set[int], part: PromptPart, plan: SeparationPlan
) -> BestLayer | None:
    """Return the layer that separates best, measured on prompts that did not choose it; None with too few prompts.

    Layers whose states are all the same, as the embeddings of one token are, do not compete.
    """
    usable = [
        place
        for place, number in enumerate(numbers)
        if number in chosen and len(np.unique(stack[place], axis=0)) == stack.shape[1]
    ]
    try:
        best = separation_at_best_layer(
            *part.pair(stack[usable]), seed=plan.seed, groups=part.clusters, lexical=part.baselines.lexical
        )
    except ValueError:
        return None
    return BestLayer(
        layer=numbers[usable[best.layer]],
        bhattacharyya=best.separation.bhattacharyya,
        probe_auc=best.separation.probe_auc,
        flags=flags(best.separation, part.baselines),
        stability=best.stability,
    )


def _under_attack(
    states: Mapping[str, np.ndarray], prompts: Sequence[Row], measure: str, plan: SeparationPlan
) -> AttackSeparation:
    measured = separation_under_attack(states, prompts, measure=measure, seed=plan.seed, draws=plan.draws)
    return AttackSeparation(by_attack=measured.by_attack, worst=measured.worst, mean=measured.mean)


def plane_of(states: np.ndarray, prompts: Sequence[Row]) -> dict[str, Any]:
    """Return the paper's plane, fitted on the prompts that are not held out, with every prompt's place in it."""
    held_out = np.array([bool(row.get("held_out", False)) for row in prompts])
    harmful = np.array([bool(row["harmful"]) for row in prompts])
    groups = ~held_out & ~harmful, ~held_out & harmful, held_out
    order: list[int] = [place for group in groups for place in np.flatnonzero(group).tolist()]
    rows = states[order].astype(np.float64)
    coordinates = project(rows @ rows.T, np.arange(len(order)) < (~held_out).sum(), 2).tolist()
    points = [
        {"x": x, "y": y, "harmful": bool(harmful[i]), "held_out": bool(held_out[i]), "prompt": prompts[i]["prompt"]}
        for i, (x, y) in zip(order, coordinates, strict=True)
    ]
    return {"points": points}
