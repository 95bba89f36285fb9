"""Tests on designs in blocks: what is compared differs within a block, and values of a group depend on each other."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata
from scipy.stats import t as student

from divalign.core.stats import Estimate, Numbers, Tested, clustered_mean

ALL_ORDERS, DRAWN_ORDERS = 6, 5000


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

    values[c, i, j] is what treatment i of block c reaches on the outcome that is treatment j's own; an outcome with a
    NaN is left out of its block. Ties share their mean rank. The p-value is two-sided, by permuting the treatments'
    labels within blocks, so it is exact however outcomes of a block depend on each other. The interval resamples
    blocks. Both take blocks for independent: what treatments do on outcomes, if it repeats over blocks for a reason
    other than ownership, is found too. `common_p_value` allows for that, and cannot fall below 1 in m!.

    Raises ValueError where no outcome is left.
    """
    blocks, count = values.shape[:2]
    left_out = np.any(np.isnan(values), axis=1, keepdims=True)
    if left_out.all():
        raise ValueError("every outcome is missing in every block; nothing can be ranked")
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
    again = generator.integers(blocks, size=(draws, blocks))
    totals = included[again].sum(axis=1)
    means = own[again].sum(axis=1)[totals > 0] / totals[totals > 0]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    estimate = Estimate(mean, float(low), float(high), int((included > 0).sum()))
    alike = np.abs(sums.sum(axis=0) / included.sum() - chance) >= abs(mean - chance) - 1e-12
    return OwnRank(estimate, float((1 + as_far.sum()) / (1 + draws)), float(alike.mean()), chance, ranks)


def _orders(count: int, generator: np.random.Generator) -> Int[np.ndarray, "k m"]:
    """Return the orders of so many labels, the identity first: all of them, or so many draws where they are more."""
    if count <= ALL_ORDERS:
        return np.array(list(permutations(range(count))))
    draws = [generator.permutation(count) for _ in range(DRAWN_ORDERS)]
    return np.array([np.arange(count), *draws])


def grouped_mean(values: Numbers, groups: Sequence[Hashable], *, confidence: float = 0.95) -> Tested:
    """Return the mean of the groups' means with Student's interval over groups, and the p-value of a mean of 0.

    For differences of pairs whose groups, such as methods, depend on each other within. Raises ValueError for fewer
    than two groups.
    """
    estimate = clustered_mean(values, groups, confidence=confidence)
    if estimate.value is None or estimate.low is None:
        raise ValueError(f"got {estimate.n} group; expected at least two, each a piece of evidence")
    error = (estimate.value - estimate.low) / float(student.ppf((1 + confidence) / 2, estimate.n - 1))
    if error == 0:
        return Tested(estimate, float(estimate.value == 0))
    return Tested(estimate, float(2 * student.sf(abs(estimate.value) / error, estimate.n - 1)))
