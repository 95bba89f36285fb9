"""Tests on designs in blocks: what is compared differs within a block, and values of a group depend on each other."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from scipy.stats import t as student

from divalign.core.stats import Estimate, Numbers, Tested, clustered_mean

ALL_ORDERS, DRAWN_ORDERS = 6, 5000
_ROUNDING = 1e-12


class OwnRank(NamedTuple):
    """Mean rank of treatments on their own outcome (1: the largest), its p-value, and the mean rank by chance.

    `common_p_value` permutes the labels alike in all blocks. `ranks` are those of every block, treatment and outcome;
    NaN where the outcome is left out.
    """

    mean: Estimate
    p_value: float
    common_p_value: float
    chance: float
    ranks: Float[np.ndarray, "c m m"]


def own_rank(
    values: Float[np.ndarray, "c m m"], *, confidence: float = 0.95, draws: int = 20_000, seed: int = 0
) -> OwnRank:
    """Test whether treatments rank higher on their own outcome than other treatments of the same block do.

    values[c, i, j] is what treatment i of block c reaches on the outcome that is treatment j's own. An outcome with a
    NaN, or alike for all treatments (bounds that are all 0), ranks nothing and is left out of its block; other ties
    share their mean rank. The p-value is two-sided, by permuting the treatments' labels within blocks, so it is exact
    however outcomes of a block depend on each other. The interval is Student's over blocks: on 10 of them
    it covers .94 to .95 of simulations, .92 where the mean rank is near 1 (a percentile bootstrap .88 to .93); none for
    one block, or where all agree. Both take blocks for independent: what treatments do on outcomes, if it repeats over
    blocks for a reason other than ownership, is found too. `common_p_value` allows for that, and cannot fall below 1 in
    m!.

    Raises ValueError where no outcome is left.
    """
    blocks, count = values.shape[:2]
    left_out = unranked(values)[:, None]
    if left_out.all():
        raise ValueError("every outcome is missing in every block, or alike for all; nothing can be ranked")
    ranks = np.where(left_out, np.nan, rankdata(-np.nan_to_num(values), axis=1))
    generator = np.random.default_rng(seed)
    orders = _orders(count, generator)
    sums = np.nansum(ranks[:, orders, np.arange(count)], axis=2)  # of a block under each order of labels
    included = (~left_out[:, 0]).sum(axis=1)
    chance, own = (count + 1) / 2, sums[:, 0]
    choices = generator.integers(len(orders), size=(draws, blocks))
    shuffled = sums[np.arange(blocks), choices].sum(axis=1) / included.sum()
    mean = float(own.sum() / included.sum())
    as_far = np.abs(shuffled - chance) >= abs(mean - chance) - 1e-12
    estimate = _with_students_interval(mean, own, included, (1.0, float(count)), confidence)
    alike = np.abs(sums.sum(axis=0) / included.sum() - chance) >= abs(mean - chance) - 1e-12
    return OwnRank(estimate, float((1 + as_far.sum()) / (1 + draws)), float(alike.mean()), chance, ranks)


def unranked(values: Float[np.ndarray, "c m m"]) -> Bool[np.ndarray, "c m"]:
    """Return which outcomes of which blocks rank nothing: a number is missing, or all are alike."""
    return np.isnan(values).any(axis=1) | (values == values[:, :1]).all(axis=1)


def _with_students_interval(
    mean: float, sums: Float[np.ndarray, " c"], counts: Int[np.ndarray, " c"], ends: tuple[float, float], level: float
) -> Estimate:
    """Return the ratio of the blocks' sums to their counts with Student's interval, by linearisation."""
    sums, counts = sums[counts > 0], counts[counts > 0]
    blocks = len(counts)
    spread = float(((sums - mean * counts) ** 2).sum())
    if blocks < 2 or spread < _ROUNDING:
        return Estimate(mean, None, None, blocks)
    error = np.sqrt(spread * blocks / (blocks - 1)) / counts.sum()
    half = float(student.ppf((1 + level) / 2, blocks - 1) * error)
    return Estimate(mean, max(mean - half, ends[0]), min(mean + half, ends[1]), blocks)


def _orders(count: int, generator: np.random.Generator) -> Int[np.ndarray, "k m"]:
    """Return the orders of so many labels, the identity first: all of them, or so many draws where they are more."""
    if count <= ALL_ORDERS:
        return np.array(list(permutations(range(count))))
    draws = [generator.permutation(count) for _ in range(DRAWN_ORDERS)]
    return np.array([np.arange(count), *draws])


def grouped_mean(values: Numbers, groups: Sequence[Hashable], *, confidence: float = 0.95) -> Tested:
    """Return the mean of the groups' means with Student's interval over groups, and the p-value of a mean of 0.

    For differences of pairs whose groups, such as methods, depend on each other within. Groups that all agree show no
    spread, which is no proof that there is none: the interval is then None and the p-value that of their signs, 2 in
    2^groups, or 1 for a mean of 0. Raises ValueError for fewer than two groups.
    """
    estimate = clustered_mean(values, groups, confidence=confidence)
    if estimate.value is None or estimate.n < 2:
        raise ValueError(f"got {estimate.n} group; expected at least two, each a piece of evidence")
    if estimate.low is None:
        return Tested(estimate, 2.0 ** (1 - estimate.n) if estimate.value else 1.0)
    error = (estimate.value - estimate.low) / float(student.ppf((1 + confidence) / 2, estimate.n - 1))
    return Tested(estimate, float(2 * student.sf(abs(estimate.value) / error, estimate.n - 1)))
