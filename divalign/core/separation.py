"""Separation of the hidden states of benign and harmful prompts, with confidence intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from divalign.core.bhattacharyya import Gaussian, bhattacharyya, many_bhattacharyya
from divalign.core.bootstrap import bootstrap_weights, share_with_interval, with_interval
from divalign.core.clouds import Clouds, States, clouds, distances, project
from divalign.core.clusters import FOLDS, Groups, units_of
from divalign.core.energy import silhouette
from divalign.core.heldout import HeldOut, hold_out
from divalign.core.stats import Estimate

FEWEST_PROMPTS = {"paper": 4, "heldout": 2 * FOLDS}


class Separation(NamedTuple):
    """How far apart two clouds are, in five ways; larger is further in each. `flags` say what to doubt.

    bhattacharyya in nats from 0; silhouette -1 to 1; probe_auc 0.5 (chance) to 1; tpr_at_1_fpr and energy 0 to 1.
    `energy_p_value` is of a permutation test of equal distributions; `null` is the Bhattacharyya distance under
    permuted labels (mean, 2.5 % and 97.5 % quantiles); `dimensions` are those chosen in each fold. Paper mode leaves
    None what the paper's code does not measure.
    """

    bhattacharyya: Estimate
    silhouette: Estimate
    probe_auc: Estimate
    tpr_at_1_fpr: Estimate
    energy: Estimate
    flags: frozenset[str]
    energy_p_value: float | None = None
    null: Estimate | None = None
    dimensions: tuple[int, ...] = ()


class SeparationChange(NamedTuple):
    """Held-out separation after minus before, on the same prompts: positive where the model came to separate more."""

    bhattacharyya: Estimate
    silhouette: Estimate
    probe_auc: Estimate
    energy: Estimate


def separation(
    safe: States,
    harmful: States,
    mode: str = "heldout",
    *,
    seed: int = 0,
    groups: Groups | None = None,
    lexical: Estimate | None = None,
    draws: int = 1000,
    null_draws: int = 100,
) -> Separation:
    """Measure how far apart the hidden states of safe and harmful prompts lie, [prompts, width] each.

    "paper" is the published measurement: principal plane of all prompts, sample covariances, Gaussian Bhattacharyya
    distance and Euclidean silhouette of the points the plane was fitted on. Its intervals redraw prompts within that
    plane, so they leave out the plane's own error. "heldout" scores each prompt by a fit (axes, scales, Ledoit-Wolf
    covariances, linear probe) that has not seen it, in five folds; the number of axes is chosen on a further fold.
    Its Bhattacharyya distance is the held-out gain of Gaussians in the chosen axes, in expectation at most that of the
    whole space for states like Gaussians. Its intervals and the probe's are of their own expectation, for fits on so
    many prompts; energy and silhouette fit nothing, and are those of all prompts in the whole space.

    `groups` (one list per class) keeps prompts that belong together, such as topic pairs, in one fold and redraws
    them together. `lexical` is the AUC that the prompts' words alone reach. Flags:
    "in sample" (paper mode); "words alone do as well" (lexical AUC not below the probe's interval);
    "extrapolated" (the distance claims an error rate exp(-D)/2 under one in n, which n prompts cannot show).

    Raises ValueError for states that are not finite, empty or tiny classes (paper 4, heldout 10 prompts each),
    unequal widths, points too alike for a covariance and, in heldout mode, copies of one state across groups.
    Source: arXiv 2502.00657 section 5.2 and its code (paper); `bhattacharyya.gains` (heldout).
    """
    if mode not in FEWEST_PROMPTS:
        raise ValueError(f'mode: got {mode!r}, expected "paper" or "heldout"')
    pooled = clouds(safe, harmful, groups=groups, at_least=FEWEST_PROMPTS[mode], copies=mode == "paper")
    if mode == "paper":
        result = _paper(pooled, seed=seed, draws=draws)
        return result._replace(flags=_flags(result, lexical=lexical) | {"in sample"})
    crossfit = hold_out(pooled, seed=seed)
    return separation_of(crossfit, seed=seed, lexical=lexical, draws=draws, null_draws=null_draws)


def separation_of(
    crossfit: HeldOut,
    *,
    seed: int = 0,
    lexical: Estimate | None = None,
    draws: int = 1000,
    null_draws: int = 100,
) -> Separation:
    """Return what `separation` returns in heldout mode, from a cross-fit that was computed already."""
    result = _heldout(crossfit, seed=seed, draws=draws, null_draws=null_draws)
    return result._replace(flags=_flags(result, lexical=lexical))


def plane(safe: States, harmful: States) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "m 2"]]:
    """Coordinates of both classes in the principal plane of all prompts, for a scatter: paper mode's points.

    Each axis points to where its largest coordinate is positive, so a figure does not flip from run to run.
    """
    pooled = clouds(safe, harmful, at_least=FEWEST_PROMPTS["paper"], copies=True)
    points = _plane(pooled)
    return points[~pooled.harmful], points[pooled.harmful]


def separation_change(
    before: tuple[States, States],
    after: tuple[States, States],
    *,
    seed: int = 0,
    groups: Groups | None = None,
    draws: int = 1000,
) -> SeparationChange:
    """Compare two models' held-out separation on the same prompts, (safe, harmful) states each, row for row.

    Both are measured in the same folds and on the same bootstrap samples, so what the prompts have in common cancels:
    the interval of the difference is narrower than the two models' intervals suggest. Raises as `separation` does,
    and where the two are not of one number of prompts.
    """
    pairs = [clouds(*states, groups=groups, at_least=FEWEST_PROMPTS["heldout"]) for states in (before, after)]
    counts = [((~pooled.harmful).sum(), pooled.harmful.sum()) for pooled in pairs]
    if counts[0] != counts[1]:
        raise ValueError(f"before has {counts[0]} safe and harmful prompts, after {counts[1]}; expected the same ones")
    first, second = (hold_out(pooled, seed=seed) for pooled in pairs)
    once, weights = _weights(pairs[0], seed=seed, draws=draws)

    def change(name: str) -> Estimate:
        value = getattr(second, name)(once) - getattr(first, name)(once)
        return with_interval(value[0], getattr(second, name)(weights) - getattr(first, name)(weights), len(once))

    result = SeparationChange(*map(change, SeparationChange._fields))
    if all(crossfit.probe_auc(once)[0] == 1.0 for crossfit in (first, second)):
        # Two perfect scores differ in no bootstrap sample; either may be as far below as its interval reaches.
        perfect = share_with_interval(1.0, np.ones(draws), len(once), rests_on=min(_units(pairs[0]).values()))
        assert perfect.low is not None
        return result._replace(probe_auc=Estimate(0.0, perfect.low - 1, 1 - perfect.low, len(once)))
    return result


def separation_draws(
    safe: States, harmful: States, *, seed: int = 0, groups: Groups | None = None, draws: int = 1000
) -> Float[np.ndarray, " draws"]:
    """Bootstrap draws of the held-out Bhattacharyya distance, in nats, not taken back to zero.

    One seed redraws the same prompts for every model measured on them, as a joint bootstrap over models wants.
    Raises as `separation` does.
    """
    pooled = clouds(safe, harmful, groups=groups, at_least=FEWEST_PROMPTS["heldout"])
    return hold_out(pooled, seed=seed).bhattacharyya(_weights(pooled, seed=seed, draws=draws)[1])


def _units(pooled: Clouds) -> dict[bool, int]:
    """Return how many independent prompts each class has, by whether it is harmful."""
    return {name: units_of(pooled.harmful == name, pooled.groups) for name in (False, True)}


def _plane(pooled: Clouds) -> Float[np.ndarray, "n 2"]:
    points = project(pooled.gram, np.ones(len(pooled.gram), dtype=bool), 2)
    if points.shape[1] < 2:
        raise ValueError("all states lie on one line; expected a plane: are the prompts (nearly) the same?")
    return points


def _weights(pooled: Clouds, *, seed: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a weight of 1 for every prompt, and the multiplicities of the prompts in each bootstrap sample."""
    generator = np.random.default_rng(seed)
    return (
        np.ones((len(pooled.harmful), 1)),
        bootstrap_weights(pooled.harmful, pooled.groups, draws=draws, generator=generator),
    )


def _paper(pooled: Clouds, *, seed: int, draws: int) -> Separation:
    points, labels, n = _plane(pooled), pooled.harmful, len(pooled.harmful)
    sides = [Gaussian(side.mean(axis=0), np.cov(side, rowvar=False)) for side in (points[~labels], points[labels])]
    once, weights = _weights(pooled, seed=seed, draws=draws)
    apart = distances(points @ points.T)
    nothing = Estimate(None, None, None, n)
    return Separation(
        bhattacharyya=with_interval(bhattacharyya(*sides), many_bhattacharyya(points, labels, weights), n),
        silhouette=with_interval(silhouette(apart, labels, once)[0], silhouette(apart, labels, weights), n),
        probe_auc=nothing,
        tpr_at_1_fpr=nothing,
        energy=nothing,
        flags=frozenset(),
    )


def _heldout(crossfit: HeldOut, *, seed: int, draws: int, null_draws: int) -> Separation:
    pooled, n = crossfit.pooled, len(crossfit.gains)
    once, weights = _weights(pooled, seed=seed, draws=draws)
    units = _units(pooled)
    generator = np.random.default_rng([seed, 1])
    null = crossfit.distances_of_shuffles(generator, null_draws)

    def estimate(measure: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        return with_interval(measure(once)[0], measure(weights), n)

    def share(measure: Callable[[np.ndarray], np.ndarray], rests_on: int) -> Estimate:
        return share_with_interval(measure(once)[0], measure(weights), n, rests_on=rests_on)

    enough = (~pooled.harmful).sum() >= 100  # one in a hundred of fewer safe prompts is no prompt
    energy = crossfit.energy(once)[0]
    as_large = crossfit.energy_of_shuffles(generator, draws) >= energy - 1e-12
    return Separation(
        bhattacharyya=_not_negative(estimate(crossfit.bhattacharyya)),
        silhouette=estimate(crossfit.silhouette),
        probe_auc=share(crossfit.probe_auc, min(units.values())),
        tpr_at_1_fpr=share(crossfit.tpr_at_1_fpr, units[True]) if enough else Estimate(None, None, None, n),
        energy=_not_negative(estimate(crossfit.energy)),
        flags=frozenset(),
        energy_p_value=float((1 + as_large.sum()) / (1 + draws)),
        null=_not_negative(with_interval(null.mean(), null, null_draws)) if null_draws else None,
        dimensions=crossfit.dimensions,
    )


def _not_negative(estimate: Estimate) -> Estimate:
    """A distance is never below zero: taking value and interval back to it cannot worsen either."""
    ends = (None if end is None else max(0.0, end) for end in estimate[:3])
    return Estimate(*ends, n=estimate.n)


def _flags(result: Separation, *, lexical: Estimate | None) -> frozenset[str]:
    flags = set()
    distance, probe = result.bhattacharyya, result.probe_auc
    if distance.value is not None and np.exp(-distance.value) / 2 < 1 / distance.n:
        flags.add("extrapolated")
    words = None if lexical is None else lexical.value
    if words is not None and probe.low is not None and words >= probe.low:
        flags.add("words alone do as well")
    return frozenset(flags)
