"""The layer of the largest separation, selected on four folds and measured on the fifth (nested cross-validation)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from divalign.core.bootstrap import bootstrap_weights, with_interval
from divalign.core.clouds import Clouds, States, clouds
from divalign.core.clusters import FOLDS, Groups
from divalign.core.heldout import HeldOut, hold_out
from divalign.core.separation import FEWEST_PROMPTS, Separation, separation_of
from divalign.core.stats import Estimate


class BestLayerSeparation(NamedTuple):
    """The layer that most folds choose, the separation of the chosen layers on prompts that did not choose, and both.

    Each fold is measured at the layer in `choices` that the other four chose, so `separation` includes the cost of
    selection where the folds disagree. `stability` is the share of folds that choose `layer`: at .2 to .4 no layer
    stands out. Energy and silhouette fit nothing and are those of `layer` on all prompts. `by_layer` is the held-out
    Bhattacharyya distance of each layer in `layers` on all prompts, for a map; its maximum is biased upwards by the
    selection.
    """

    layer: int
    separation: Separation
    by_layer: tuple[Estimate, ...]
    layers: tuple[int, ...]
    choices: tuple[int, ...]
    stability: float


def separation_at_best_layer(
    safe: States,
    harmful: States,
    *,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    groups: Groups | None = None,
    lexical: Estimate | None = None,
) -> BestLayerSeparation:
    """Choose among `layers` (None: all; negative ones count from the last) by nested cross-fitting, and measure.

    States are [layers, prompts, width]. In each of five folds the layer of the largest held-out Bhattacharyya distance
    among the other prompts is chosen, by a cross-fit of their own. The other options are those of `separation`, which
    is taken in heldout mode and raises what it raises; so do classes of fewer than 30 prompts, stacks of unequal depth
    and layers that do not exist.
    Source: Varma and Simon 2006, BMC Bioinformatics 7 (nested cross-validation).
    """
    if safe.ndim != 3 or harmful.ndim != 3 or safe.shape[0] != harmful.shape[0]:
        shapes = f"{tuple(safe.shape)} and {tuple(harmful.shape)}"
        raise ValueError(f"got states of shape {shapes}, expected [layers, prompts, width] of as many layers each")
    fewest = 3 * FEWEST_PROMPTS["heldout"]
    if min(safe.shape[1], harmful.shape[1]) < fewest:
        raise ValueError(f"got {safe.shape[1]} safe and {harmful.shape[1]} harmful prompts, expected {fewest} each")
    chosen_from = _numbers(layers, len(safe))

    def held_out(layer: int) -> HeldOut:
        pooled = clouds(safe[layer], harmful[layer], groups=groups, at_least=FEWEST_PROMPTS["heldout"])
        return hold_out(pooled, seed=seed)

    by_layer, distances = [], []
    for layer in chosen_from:
        crossfit = held_out(layer)
        by_layer.append(_with_interval(crossfit, seed))
        distances.append([_distance(_subset(crossfit.pooled, ~axes.tested), seed) for axes in crossfit.folds])
    choices = [int(np.argmax(column)) for column in zip(*distances, strict=True)]
    values = [-np.inf if entry.value is None else entry.value for entry in by_layer]
    best = max(set(choices), key=lambda place: (choices.count(place), values[place]))
    # Held out anew: to keep all layers' states at once took gigabytes.
    chosen = {place: held_out(chosen_from[place]) for place in choices}
    return BestLayerSeparation(
        chosen_from[best],
        separation_of(_crossed(chosen, choices, best), seed=seed, lexical=lexical),
        tuple(by_layer),
        tuple(chosen_from),
        tuple(chosen_from[place] for place in choices),
        choices.count(best) / FOLDS,
    )


def _numbers(layers: Sequence[int] | None, depth: int) -> list[int]:
    if layers is None:
        return list(range(depth))
    wrong = [layer for layer in layers if not -depth <= layer < depth]
    if wrong or not layers:
        raise ValueError(f"layers: got {list(layers)}, expected some of 0 to {depth - 1}, or of -{depth} to -1")
    return sorted({layer % depth for layer in layers})


def _subset(pooled: Clouds, members: Bool[np.ndarray, " n"]) -> Clouds:
    groups = None if pooled.groups is None else np.unique(pooled.groups[members], return_inverse=True)[1]
    return Clouds(pooled.harmful[members], groups, pooled.gram[np.ix_(members, members)], pooled.states[members])


def _distance(pooled: Clouds, seed: int) -> float:
    return float(hold_out(pooled, seed=seed).bhattacharyya(np.ones((len(pooled.harmful), 1)))[0])


def _with_interval(crossfit: HeldOut, seed: int) -> Estimate:
    n, generator = len(crossfit.gains), np.random.default_rng(seed)
    weights = bootstrap_weights(crossfit.pooled.harmful, crossfit.pooled.groups, draws=1000, generator=generator)
    return with_interval(crossfit.bhattacharyya(np.ones((n, 1)))[0], crossfit.bhattacharyya(weights), n)


def _crossed(crossfits: dict[int, HeldOut], choices: list[int], best: int) -> HeldOut:
    """Each fold as its chosen layer measures it."""
    gains = np.empty_like(crossfits[best].gains)
    for number, place in enumerate(choices):
        tested = crossfits[place].folds[number].tested
        gains[tested] = crossfits[place].gains[tested]
    return HeldOut(
        crossfits[best].pooled,
        tuple(crossfits[place].folds[number] for number, place in enumerate(choices)),
        tuple(crossfits[place].dimensions[number] for number, place in enumerate(choices)),
        gains,
    )
