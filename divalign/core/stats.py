"""Numbers with their uncertainty: estimates, rates of yes among yes-or-no outcomes, and tests of differences."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest, norm, pearsonr, rankdata, spearmanr
from scipy.stats import t as student

from divalign.core.design_effect import ClusterSums, cluster_sums, effective_size, share_interval

Numbers = Sequence[int | float] | np.ndarray
ROUNDING = 1e-12  # relative: what differs by less is equal
ALPHA = 0.05  # the level of every test from which something is concluded


class Estimate(NamedTuple):
    """A number, its interval and the count it rests on.

    `low` and `high` are None where no interval exists; `value` is None where the data cannot support a number:
    unknown is not zero.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


def finite(estimate: Estimate) -> Estimate:
    """Return an estimate without infinity, which JSON does not have: a number without an end has no interval."""
    value, low, high = (end if end is not None and np.isfinite(end) else None for end in estimate[:3])
    return Estimate(value, low, high, estimate.n)


class Tested(NamedTuple):
    """An estimate, and the p-value of its being zero (two-sided)."""

    estimate: Estimate
    p_value: float


def rate(outcomes: Sequence[bool | None], *, confidence: float = 0.95) -> Estimate:
    """Share of True among the decided outcomes, with its Wilson score interval.

    The interval stays honest at the ends: 0 of 100 gives [0, 0.037], not [0, 0]. Undecided outcomes (None) count
    neither way; `n` is the decided count. Nothing decided gives value None with the interval [0, 1].

    Raises ValueError for an empty sequence: the rate of nothing is no rate.
    Source: Wilson 1927, JASA 22, eq. 8 (scipy's `proportion_ci(method="wilson")`).
    """
    if not outcomes:
        raise ValueError("the rate of nothing: got 0 outcomes, expected at least 1; is the prompt set empty?")
    decided = [outcome for outcome in outcomes if outcome is not None]
    if not decided:
        return Estimate(None, 0.0, 1.0, 0)
    result = binomtest(sum(decided), len(decided))
    interval = result.proportion_ci(confidence, method="wilson")
    return Estimate(sum(decided) / len(decided), float(interval.low), float(interval.high), len(decided))


def clustered_rate(
    outcomes: Sequence[bool | None], clusters: Sequence[Hashable], *, confidence: float = 0.95
) -> Estimate:
    """Share of True where outcomes come in clusters (attempts at one prompt, wordings of one request).

    The interval of `design_effect.share_interval`: Clopper and Pearson's at the number of independent outcomes that
    would have this variance, with Student's correction for few clusters; Wilson's of as many as there are clusters
    where all outcomes agree; [0, 1] for a single cluster that does not. `n` stays the decided count. Coverage on 6 to
    60 clusters, equal, uneven or one of them with half of the rows, is at least .93 (`python -m bench.coverage`).
    Raises ValueError for an empty sequence or unequal lengths.
    Source: Korn and Graubard 1998, Survey Methodology 24.
    """
    if len(outcomes) != len(clusters):
        raise ValueError(f"got {len(outcomes)} outcomes and {len(clusters)} clusters; expected one cluster for each")
    share = rate(outcomes, confidence=confidence)
    if share.value is None:
        return share
    decided = [(outcome, cluster) for outcome, cluster in zip(outcomes, clusters, strict=True) if outcome is not None]
    values, names = zip(*decided, strict=True)
    low, high = share_interval(cluster_sums(values, names), confidence=confidence)
    return Estimate(share.value, low, high, share.n)


def independent_count(values: Numbers, clusters: Sequence[Hashable], *, confidence: float = 0.95) -> float:
    """How many independent values would have a mean as uncertain as that of these clustered ones; at most all of them.

    See `design_effect.effective_size`.
    """
    return effective_size(cluster_sums(values, clusters), confidence=confidence)


def any_true(outcomes: Iterable[bool | None]) -> bool | None:
    """Return whether one of the decided outcomes is True; None where none is decided."""
    decided = [outcome for outcome in outcomes if outcome is not None]
    return any(decided) if decided else None


def clustered_mean(values: Numbers, clusters: Sequence[Hashable], *, confidence: float = 0.95) -> Estimate:
    """Mean of the clusters' means, with Student's interval over clusters.

    No interval for a single cluster, and where all agree: no spread is no proof that there is none. `n` counts
    clusters. Raises ValueError for no values or unequal lengths.
    """
    means = np.array([np.mean(group) for group in _by_cluster(values, clusters)])
    return _students(float(means.mean()), means, confidence)


def mean_of_rows(values: Numbers, clusters: Sequence[Hashable], *, confidence: float = 0.95) -> Estimate:
    """Mean of all values, a cluster counting as much as it has of them; otherwise as `clustered_mean`.

    Student's interval of the delete-one-cluster jackknife's pseudo-values, which are the clusters' means where all
    clusters are of one size.
    Source: Miller 1974, "The jackknife - a review", Biometrika 61.
    """
    groups = _by_cluster(values, clusters)
    totals, counts = (np.array([float(measure(group)) for group in groups]) for measure in (np.sum, len))
    mean, n = float(totals.sum() / counts.sum()), len(groups)
    if n < 2:
        return Estimate(mean, None, None, n)
    without = (totals.sum() - totals) / (counts.sum() - counts)
    return _students(mean, n * mean - (n - 1) * without, confidence)


def _by_cluster(values: Numbers, clusters: Sequence[Hashable]) -> list[list[float]]:
    if len(values) != len(clusters) or not len(values):
        raise ValueError(f"got {len(values)} values and {len(clusters)} clusters; expected one cluster for each value")
    groups: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        groups.setdefault(cluster, []).append(float(value))
    return list(groups.values())


def _students(value: float, by_cluster: Float[np.ndarray, " n"], confidence: float) -> Estimate:
    n = len(by_cluster)
    if n < 2 or np.ptp(by_cluster) <= ROUNDING * abs(value):
        return Estimate(value, None, None, n)
    half = float(student.ppf((1 + confidence) / 2, n - 1) * by_cluster.std(ddof=1) / np.sqrt(n))
    return Estimate(value, value - half, value + half, n)


def corrected_rate(
    observed: Estimate, *, sensitivity: Estimate, specificity: Estimate, confidence: float = 0.95
) -> Estimate:
    """Rate that a perfect judge would have found, given how often this one errs.

    (observed + specificity - 1) / (sensitivity + specificity - 1), taken back to [0, 1]. The three are `rate`s:
    of yes among the judged, of yes among true yes and of no among true no; the interval carries the errors of all
    three (with the judge's taken as exact, a 95 % interval can cover under 60 %).

    Raises ValueError for a judge no better than chance, or too few labels to say so, or a rate that is undecided.
    Source: Rogan and Gladen 1978, Am. J. Epidemiol. 107; interval Lang and Reiczigel 2014, Prev. Vet. Med. 113.
    """
    if observed.value is None or sensitivity.value is None or specificity.value is None:
        raise ValueError("corrected_rate: a rate is undecided; expected three rates with decided outcomes")
    skill = sensitivity.value + specificity.value - 1
    if skill <= 0:
        raise ValueError(
            f"sensitivity {sensitivity.value:.3f} and specificity {specificity.value:.3f} sum to at most 1: this judge "
            "is no better than chance, and no correction exists; use another judge"
        )
    z = float(norm.ppf((1 + confidence) / 2))
    share, count = _pulled(observed.value, observed.n, z**2)
    hit_rate, true_yes = _pulled(sensitivity.value, sensitivity.n, 2.0)
    rejection_rate, true_no = _pulled(specificity.value, specificity.n, 2.0)
    if hit_rate + rejection_rate - 1 <= 1e-12:
        raise ValueError(
            f"sensitivity {sensitivity.value:.3f} of {sensitivity.n} and specificity {specificity.value:.3f} of "
            f"{specificity.n} cannot be told from a judge that guesses; label more responses"
        )
    rate_of_yes = (share + rejection_rate - 1) / (hit_rate + rejection_rate - 1)
    yes = rate_of_yes**2 * hit_rate * (1 - hit_rate) / true_yes
    no = (1 - rate_of_yes) ** 2 * rejection_rate * (1 - rejection_rate) / true_no
    half = z * np.sqrt(share * (1 - share) / count + yes + no) / abs(hit_rate + rejection_rate - 1)
    shift = (
        rate_of_yes * hit_rate * (1 - hit_rate) / true_yes
        - (1 - rate_of_yes) * rejection_rate * (1 - rejection_rate) / true_no
    )
    middle = rate_of_yes + 2 * z**2 * shift
    low, value, high = np.clip([middle - half, (observed.value + specificity.value - 1) / skill, middle + half], 0, 1)
    return Estimate(float(value), float(min(low, value)), float(max(high, value)), observed.n)


def _pulled(share: float, count: int, extra: float) -> tuple[float, float]:
    """A rate and its count with `extra` pseudo-outcomes, half of them yes (Agresti and Coull 1998)."""
    return (count * share + extra / 2) / (count + extra), count + extra


def paired_difference(
    before: Sequence[bool | None], after: Sequence[bool | None], *, confidence: float = 0.95
) -> Tested:
    """Rate after minus rate before on the same prompts, with McNemar's exact p-value.

    Pairs with an undecided member are left out; `n` counts the others. The p-value rests on the pairs that changed
    alone. Raises ValueError for unequal lengths or when no pair is decided.
    Source: McNemar 1947, Psychometrika 12; interval Bonett and Price 2012, J. Educ. Behav. Stat. 37, eq. 8.
    """
    from statsmodels.stats.contingency_tables import mcnemar  # slow to import, and core.stats is imported everywhere

    if len(before) != len(after):
        raise ValueError(f"got {len(before)} outcomes before and {len(after)} after; expected the same prompts")
    pairs = [(x, y) for x, y in zip(before, after, strict=True) if x is not None and y is not None]
    if not pairs:
        raise ValueError("no prompt is decided both before and after; expected at least 1")
    gained, lost, n = sum(y and not x for x, y in pairs), sum(x and not y for x, y in pairs), len(pairs)
    tested: Any = mcnemar([[0, gained], [lost, 0]], exact=True)
    low, high = _change_interval(gained, lost, n, float(norm.ppf((1 + confidence) / 2)))
    return Tested(Estimate((gained - lost) / n, low, high, n), min(1.0, float(tested.pvalue)))


def weighted_sum(estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """Sum of estimates by positive weights, with an interval that holds however they depend on each other.

    Its ends are the sums of the ends: a standard deviation of a sum is at most the sum of the standard deviations, so
    the interval is wider than needed where the estimates are independent. `n` is the smallest count. Unknown where one
    of them is. Raises ValueError for no estimates, unequal lengths or a weight that is not positive.
    """
    if not estimates or len(estimates) != len(weights) or min(weights) <= 0:
        raise ValueError(f"got {len(estimates)} estimates and the weights {list(weights)}; expected one positive each")
    value, low, high = (
        None
        if any(getattr(estimate, end) is None for estimate in estimates)
        else float(sum(weight * getattr(e, end) for e, weight in zip(estimates, weights, strict=True)))
        for end in ("value", "low", "high")
    )
    return Estimate(value, low, high, min(estimate.n for estimate in estimates))


def spearman(first: Numbers, second: Numbers, *, confidence: float = 0.95) -> Tested:
    """Rank correlation of two lists; no interval where ranks agree or disagree wholly.

    Up to 9 pairs the p-value counts all orders. Raises ValueError for fewer than 4 pairs, a number that is not finite
    or a list without variation.
    Source: interval by Fisher's z with variance (1 + r^2/2)/(n - 3), Bonett and Wright 2000, Psychometrika 65.
    """
    x, y = _pairs(first, second)
    r, p_value = np.array([*spearmanr(x, y)], dtype=float)
    p_value = _by_counting(x, y) if len(x) <= 9 else float(p_value)
    return _by_fisher(float(r), p_value, len(x), 1 + float(r) ** 2 / 2, confidence)


def _by_counting(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """The share of all orders of y whose ranks go with those of x as much as the observed ones, or more."""
    first, second = (rankdata(side) - (len(x) + 1) / 2 for side in (x, y))
    products = np.array(list(permutations(second))) @ first
    return float((np.abs(products) >= abs(first @ second) - 1e-9).mean())


def pearson(first: Numbers, second: Numbers, *, confidence: float = 0.95) -> Tested:
    """Linear correlation of two lists with Fisher's interval. Raises as `spearman` does."""
    x, y = _pairs(first, second)
    r, p_value = np.array([*pearsonr(x, y)], dtype=float)
    return _by_fisher(float(r), float(p_value), len(x), 1.0, confidence)


def _by_fisher(r: float, p_value: float, n: int, variance: float, confidence: float) -> Tested:
    """A correlation with the interval of its inverse hyperbolic tangent, of the given variance times n - 3."""
    if abs(r) > 1 - 1e-12:
        return Tested(Estimate(r, None, None, n), p_value)
    half = norm.ppf((1 + confidence) / 2) * np.sqrt(variance / (n - 3))
    low, high = np.tanh(np.arctanh(r) + np.array([-half, half]))
    return Tested(Estimate(r, float(low), float(high), n), p_value)


def _pairs(first: Numbers, second: Numbers) -> tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]:
    x, y = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if len(x) != len(y) or len(x) < 4:
        raise ValueError(f"got lists of {len(x)} and {len(y)} numbers; expected at least 4 pairs")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a number is NaN or infinite; leave its pair out")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise ValueError("one list is constant; expected variation: a constant correlates with nothing")
    return x, y


def holm(p_values: Numbers) -> list[float]:
    """P-values corrected for having looked at all of them: the chance of any false alarm stays bounded.

    Source: Holm 1979, Scand. J. Stat. 6.
    """
    # statsmodels' multipletests collects garbage at every call: 0.4 s each where a model is in memory.
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(steps, 1.0)
    return corrected.tolist()


def clustered_difference(
    before: Sequence[bool | None],
    after: Sequence[bool | None],
    clusters: Sequence[Hashable],
    *,
    confidence: float = 0.95,
) -> Tested:
    """`paired_difference` where the prompts come in clusters: each prompt weighs alike, each cluster changes as one.

    The p-value is exact: if nothing changed, a cluster's sum of changes is as likely with the other sign, and all
    patterns of signs are counted, which for clusters of one is McNemar's test. The interval is that of as many
    independent pairs as would have this variance (`design_effect`), with Student's quantile over clusters, and no
    shorter than unanimous clusters would leave it; for one cluster [-1, 1]. Raises as `paired_difference` does.
    Source: Fisher 1935, The Design of Experiments, sec. 21; count after Korn and Graubard 1998, Survey Methodology 24.
    """
    if not len(before) == len(after) == len(clusters):
        sizes = f"{len(before)} outcomes before, {len(after)} after and {len(clusters)} clusters"
        raise ValueError(f"got {sizes}; expected the same prompts")
    plain = paired_difference(before, after).estimate
    pairs = zip(before, after, clusters, strict=True)
    decided = [(int(y) - int(x), cluster) for x, y, cluster in pairs if x is not None and y is not None]
    changes, names = zip(*decided, strict=True)
    sums = cluster_sums(changes, names)
    low, high = _clustered_change_interval(changes.count(1), changes.count(-1), sums, confidence)
    return Tested(plain._replace(low=low, high=high), _by_signs(sums.total.astype(int).tolist()))


def _clustered_change_interval(gained: int, lost: int, sums: ClusterSums, confidence: float) -> tuple[float, float]:
    count, n = len(sums.size), float(sums.size.sum())
    if count < 2:
        return -1.0, 1.0
    quantile = float(student.ppf((1 + confidence) / 2, count - 1))
    share = effective_size(sums, confidence=confidence, for_student=True) / n
    low, high = _change_interval(gained * share, lost * share, n * share, quantile)
    # A first change must not narrow the interval of none, nor that of clusters which all changed the other way.
    still = _change_interval(0, 0, count, quantile)
    all_lost, all_gained = _change_interval(0, count, count, quantile), _change_interval(count, 0, count, quantile)
    if gained <= lost:
        low, high = min(low, still[0]), max(high, all_lost[1])
    if gained >= lost:
        low, high = min(low, all_gained[0]), max(high, still[1])
    return low, high


def _change_interval(gained: int | float, lost: int | float, n: int | float, quantile: float) -> tuple[float, float]:
    """The interval of (gained - lost) / n. Source: Bonett and Price 2012, eq. 8."""
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = quantile * np.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return max(-1.0, float(up - down - half)), min(1.0, float(up - down + half))


def _by_signs(sums: Sequence[int]) -> float:
    """The share of all patterns of signs whose total is as far from zero as that of these sums, or farther."""
    chances = np.ones(1)  # of the totals from -reach to reach
    for size in filter(None, map(abs, sums)):
        rest = np.zeros(2 * size)
        chances = (np.concatenate([chances, rest]) + np.concatenate([rest, chances])) / 2
    totals = np.arange(len(chances)) - len(chances) // 2
    return float(min(1.0, chances[np.abs(totals) >= abs(sum(sums))].sum()))
