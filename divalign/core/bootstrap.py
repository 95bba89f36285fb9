"""The cluster bootstrap: whole clusters are redrawn, within strata of equal class content, so no draw lacks a class.

A draw is a vector of counts, so a statistic of all draws is one matrix product. `bootstrap_weights` counts prompts, for
statistics of any kind, whose percentiles are the interval. `interval` is studentised, for the difference of two class
means, sum(score) / count(score) - sum(penalty) / count(penalty): a cluster (a prompt) enters it through four sums only,
and 100,000 rows cost no more than 4,096.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from divalign.core.stats import Estimate, rate

# More clusters than this are merged at random before resampling. Means are untouched, the variance stays unbiased, and
# its own relative error from 4,096 groups (1/sqrt(2 * 4096), about 1 %) is below that of 2,000 draws.
GROUPS = 4096
_DRAWS_AT_ONCE = 500

Sums = Float[np.ndarray, "_ 4"]  # per cluster: sum of scores, their number, sum of penalties, their number


class BootstrapInterval(NamedTuple):
    """Two-sided bounds at the confidence asked for, and the one-sided lower bound at the same confidence."""

    low: float
    high: float
    lower: float


def cluster_sums(
    values: tuple[Float[np.ndarray, " a"], Float[np.ndarray, " u"]],
    clusters: tuple[Int[np.ndarray, " a"], Int[np.ndarray, " u"]] | None,
) -> list[Sums]:
    """Sum scores and penalties by cluster. Without clusters every row is one, and each class is its own stratum.

    So are clusters of one class only, apart from those of both: no redrawn sample then lacks a class.
    """
    score, penalty = values
    if clusters is None:
        zero_a, zero_u = np.zeros_like(score), np.zeros_like(penalty)
        return [
            np.stack([score, zero_a + 1, zero_a, zero_a], axis=1),
            np.stack([zero_u, zero_u, penalty, zero_u + 1], axis=1),
        ]
    size = 1 + max(int(ids.max()) for ids in clusters)
    columns = [
        np.bincount(ids, weights=weights, minlength=size)
        for ids, rows in zip(clusters, values, strict=True)
        for weights in (rows, np.ones_like(rows))
    ]
    sums = np.stack(columns, axis=1)
    content = (sums[:, 1] > 0) + 2 * (sums[:, 3] > 0)
    return [sums[content == kind] for kind in (1, 2, 3) if (content == kind).any()]


def difference(sums: Float[np.ndarray, "b 4"]) -> Float[np.ndarray, " b"]:
    """Return mean score minus mean penalty from summed columns."""
    return sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3]


def interval(strata: list[Sums], *, confidence: float, draws: int, seed: int, floor: float) -> BootstrapInterval:
    """Return the studentised bootstrap interval of `difference` over clusters.

    Each draw is centred and divided by its own linearised standard error, which gets right the skewness that
    percentiles miss. `floor` is the smallest standard error believed (a bounded value's range over the number of
    clusters): where all rows agree, resampling them shows no spread, and that is no proof that there is none.

    Source: Davison, Hinkley 1997, "Bootstrap methods and their application", section 5.2.1; clusters: section 3.8.
    """
    random = np.random.default_rng(seed)
    # In a unit that is a power of two, which rounds nothing: squares of sums from 1e154 on would overflow.
    unit = 2.0 ** max(0, *(math.frexp(np.abs(sums[:, ::2]).max())[1] for sums in strata))
    strata = [_merge(sums / np.array([unit, 1, unit, 1]), random) for sums in strata]
    floor /= unit
    ones = [np.ones((1, len(sums))) for sums in strata]
    value, error = (float(part[0]) for part in _value_and_error(strata, ones, floor))
    values, errors = _draw(strata, draws, random, floor)
    pivots = (values - value) / errors
    tail = (1 - confidence) / 2
    quantiles = np.quantile(pivots, [1 - tail, tail, confidence])
    ends = [float(value - quantile * error) * unit for quantile in quantiles]
    nowhere = (-math.inf, math.inf, -math.inf)  # an end that is no number excludes nothing
    return BootstrapInterval(*(far if math.isnan(end) else end for end, far in zip(ends, nowhere, strict=True)))


def _merge(sums: Sums, random: np.random.Generator) -> Sums:
    if len(sums) <= GROUPS:
        return sums
    group = random.permutation(len(sums)) % GROUPS
    return np.stack([np.bincount(group, weights=column) for column in sums.T], axis=1)


def _draw(strata: list[Sums], draws: int, random: np.random.Generator, floor: float) -> tuple[np.ndarray, np.ndarray]:
    parts = []
    for start in range(0, draws, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, draws - start)
        parts.append(_value_and_error(strata, [_counts(len(sums), size, random) for sums in strata], floor))
    values, errors = (np.concatenate(part) for part in zip(*parts, strict=True))
    return values, errors


def _counts(clusters: int, draws: int, random: np.random.Generator) -> np.ndarray:
    """How often each cluster occurs in each of `draws` samples with replacement."""
    picked = random.integers(0, clusters, size=(draws, clusters)) + clusters * np.arange(draws)[:, None]
    return np.bincount(picked.ravel(), minlength=draws * clusters).reshape(draws, clusters).astype(float)


def _value_and_error(strata: list[Sums], counts: list[np.ndarray], floor: float) -> tuple[np.ndarray, np.ndarray]:
    """The statistic of each draw, and its standard error by linearisation: the root of the sum of squared influences.

    A cluster's influence is linear in its four sums, so the squares need only the 4 x 4 second moments of each draw.
    """
    totals = np.sum([count @ sums for count, sums in zip(counts, strata, strict=True)], axis=0)
    n, m = totals[:, 1], totals[:, 3]
    direction = np.stack([1 / n, -totals[:, 0] / n**2, -1 / m, totals[:, 2] / m**2], axis=1)
    variance = np.full(len(totals), floor**2)  # rounding may take it below that again
    for count, sums in zip(counts, strata, strict=True):
        moments = (count @ (sums[:, :, None] * sums[:, None, :]).reshape(len(sums), 16)).reshape(-1, 4, 4)
        size = len(sums)
        variance += np.einsum("bi,bij,bj->b", direction, moments, direction) * size / max(size - 1, 1)
    return difference(totals), np.maximum(np.sqrt(np.maximum(variance, 0)), floor)


def bootstrap_weights(
    labels: Bool[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"] | None,
    *,
    draws: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, "n draws"]:
    """How often each prompt is in each bootstrap sample.

    Units are prompts, or groups where given; they are redrawn within strata of equal class content, so that no
    sample lacks a class. Multiplicities instead of copies: a statistic on weights costs one matrix product.
    """
    units = np.arange(len(labels)) if groups is None else groups
    number = int(units.max()) + 1
    holds_harmful = np.bincount(units, weights=labels, minlength=number) > 0
    holds_safe = np.bincount(units, weights=~labels, minlength=number) > 0
    counts = np.zeros((number, draws))
    # The order of the strata is a set's: it decides which samples a seed gives.
    for content in {*zip(holds_safe, holds_harmful, strict=True)}:
        stratum = np.flatnonzero((holds_safe == content[0]) & (holds_harmful == content[1]))
        counts[stratum] = generator.multinomial(len(stratum), np.full(len(stratum), 1 / len(stratum)), size=draws).T
    return counts[units]


def with_interval(value: float, draws: Float[np.ndarray, " draws"], n: int, *, confidence: float = 0.95) -> Estimate:
    """A value with the percentile interval of its bootstrap draws; no interval where a draw has no number."""
    if not np.isfinite(draws).all():
        return Estimate(float(value), None, None, n)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(value), float(low), float(high), n)


def share_with_interval(
    value: float, draws: Float[np.ndarray, " draws"], n: int, *, rests_on: int, confidence: float = 0.95
) -> Estimate:
    """A share between 0 and 1 with its interval, which reaches as far as a perfect score's.

    No bootstrap sample of a perfect score is less than perfect. There the Wilson interval of `rests_on` units
    stands in: 100 of 100 is [0.963, 1], not [1, 1]. A first error must not narrow it: an AUC of .994 on 100 prompts a
    class was covered in .90 of simulations without this rule.
    """
    perfect = rate([bool(round(value))] * rests_on, confidence=confidence)
    assert perfect.low is not None
    assert perfect.high is not None
    if np.ptp(draws) == 0 and value in (0.0, 1.0):
        return perfect._replace(n=n)
    estimate = with_interval(value, draws, n, confidence=confidence)
    if estimate.low is None or estimate.high is None:
        return estimate
    nearest = max(perfect.low, 1 - perfect.high)
    return estimate._replace(low=min(estimate.low, nearest), high=max(estimate.high, 1 - nearest))
