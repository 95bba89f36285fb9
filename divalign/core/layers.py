"""Which layer separates best, without paying for the choice: chosen on some prompts, measured on others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from divalign.core.clouds import States, clouds
from divalign.core.heldout import hold_out
from divalign.core.resampling import Groups, bootstrap_weights, fold_of_each, numbered, with_interval
from divalign.core.separation import FEWEST_PROMPTS, Separation, separation
from divalign.core.stats import Estimate


class LayerSeparation(NamedTuple):
    """The chosen layer, its separation on prompts that did not choose it, and every layer's distance on those that did.

    `by_layer` is held-out Bhattacharyya distance on the choosing third; its best entry is flattered by the choice,
    which is why `separation` is not.
    """

    layer: int
    separation: Separation
    by_layer: tuple[Estimate, ...]


def separation_at_best_layer(
    safe: States,
    harmful: States,
    *,
    seed: int = 0,
    groups: Groups | None = None,
    lexical: Estimate | None = None,
    in_sample: bool = False,
) -> LayerSeparation:
    """Choose a layer on a third of the prompts, and measure it on the others; states are [layers, prompts, width].

    The options are those of `separation`, which is taken in heldout mode and raises what it raises; so do classes of
    fewer than 30 prompts and stacks of unequal depth.
    """
    if safe.ndim != 3 or harmful.ndim != 3 or safe.shape[0] != harmful.shape[0]:
        shapes = f"{tuple(safe.shape)} and {tuple(harmful.shape)}"
        raise ValueError(f"got states of shape {shapes}, expected [layers, prompts, width] of as many layers each")
    fewest = 3 * FEWEST_PROMPTS["heldout"]
    if min(safe.shape[1], harmful.shape[1]) < fewest:
        raise ValueError(f"got {safe.shape[1]} safe and {harmful.shape[1]} harmful prompts, expected {fewest} each")
    labels = np.arange(safe.shape[1] + harmful.shape[1]) >= safe.shape[1]
    units = numbered(groups, safe.shape[1], harmful.shape[1])
    chooses = fold_of_each(labels, units, seed=seed, folds=3) == 0
    mine, others = (_Part.of(side, labels, units) for side in (chooses, ~chooses))
    by_layer = tuple(_distance(*mine.of_layer(safe, harmful, layer), mine.groups, seed) for layer in range(len(safe)))
    best = int(np.argmax([-np.inf if entry.value is None else entry.value for entry in by_layer]))
    chosen = separation(
        *others.of_layer(safe, harmful, best), seed=seed, groups=others.groups, lexical=lexical, in_sample=in_sample
    )
    return LayerSeparation(best, chosen, by_layer)


class _Part(NamedTuple):
    """Some of the prompts of either class, and their groups."""

    safe: np.ndarray
    harmful: np.ndarray
    groups: Groups | None

    @classmethod
    def of(cls, chosen: np.ndarray, labels: np.ndarray, units: np.ndarray | None) -> _Part:
        safe, harmful = chosen[~labels], chosen[labels]
        if units is None:
            return cls(safe, harmful, None)
        return cls(safe, harmful, (units[chosen & ~labels].tolist(), units[chosen & labels].tolist()))

    def of_layer(self, safe: States, harmful: States, layer: int) -> tuple[States, States]:
        return safe[layer][self.safe], harmful[layer][self.harmful]


def _distance(safe: States, harmful: States, groups: Groups | None, seed: int) -> Estimate:
    pooled = clouds(safe, harmful, groups=groups, at_least=FEWEST_PROMPTS["heldout"])
    held, generator = hold_out(pooled, seed=seed), np.random.default_rng(seed)
    weights = bootstrap_weights(pooled.harmful, pooled.groups, draws=1000, generator=generator)
    value = held.bhattacharyya(np.ones((len(pooled.harmful), 1)))[0]
    return with_interval(value, held.bhattacharyya(weights), len(pooled.harmful))
