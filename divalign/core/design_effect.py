"""How many independent outcomes clustered ones are worth, and the interval of a share that rests on so many."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import beta, norm
from scipy.stats import t as student

_ROUNDING = 1e-12


class ClusterSums(NamedTuple):
    """Per cluster: how many values it has, their sum and the sum of their squares."""

    size: Float[np.ndarray, " g"]
    total: Float[np.ndarray, " g"]
    squares: Float[np.ndarray, " g"]

    @property
    def mean(self) -> float:
        """Mean over values, so that a cluster weighs as much as it has values."""
        return float(self.total.sum() / self.size.sum())

    @property
    def variance(self) -> float:
        return float(self.squares.sum() / self.size.sum()) - self.mean**2


def cluster_sums(values: Sequence[int | float] | np.ndarray, clusters: Iterable[Hashable]) -> ClusterSums:
    """Sum values by cluster."""
    numbers: dict[Hashable, int] = {}
    ids = np.array([numbers.setdefault(name, len(numbers)) for name in clusters], dtype=int)
    array = np.asarray(values, dtype=float)
    size, total, squares = (np.bincount(ids, weights=column) for column in (np.ones_like(array), array, array**2))
    return ClusterSums(size, total, squares)


def effective_size(sums: ClusterSums, *, confidence: float = 0.95, for_student: bool = False) -> float:
    """Number of independent values that would give a mean as uncertain as that of these clustered ones.

    n over the design effect, which is the larger of two estimates: 1 + (sum m^2/n - 1) ICC with the analysis of
    variance's intraclass correlation, right for one giant cluster, of which the data hold no second; and the
    delete-one-cluster jackknife's, right where clusters differ in more than one ICC. Times (z / t)^2 with g - 1 degrees
    of freedom for g clusters, as the design effect is estimated (Korn and Graubard). Where all clusters are of one size
    and constant they are g independent values, exactly; values that do not vary say nothing of the design effect and
    count as g too. 0 for a single cluster that varies. `for_student` leaves (z / t)^2 to an interval that uses t.

    Source: Korn and Graubard 1998, Survey Methodology 24; Donner and Koval 1980, Biometrics 36 (ICC); Bell and
    McCaffrey 2002, Survey Methodology 28 (why the jackknife, where one cluster has much leverage).
    """
    size, count, n = sums.size, len(sums.size), float(sums.size.sum())
    within = float(np.maximum(sums.squares - sums.total**2 / size, 0).sum())
    if sums.variance < _ROUNDING or (within < _ROUNDING and np.ptp(size) == 0):
        return float(count)
    if count < 2:
        return 0.0
    model = n / (1 + ((size**2).sum() / n - 1) * _intraclass_correlation(sums, within))
    influence = (sums.total - size * sums.mean) / (n - size)
    jackknife = sums.variance / max(float((influence**2).sum()) * (count - 1) / count, _ROUNDING)
    if for_student:
        return min(model, jackknife, n)
    shrink = float(norm.ppf((1 + confidence) / 2) / student.ppf((1 + confidence) / 2, count - 1)) ** 2
    return min(model, jackknife, n) * shrink


def share_interval(sums: ClusterSums, *, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of clustered values between 0 and 1: Clopper and Pearson's at their effective size.

    Yes-or-no values vary most among all with their mean, so it holds for scores too. Where all are 0, or all 1, it is
    Wilson's for as many as there are clusters, and neither end comes nearer to the mean than those: a first success
    must not narrow the interval of none. [0, 1] for a single cluster that varies.
    """
    mean, count = sums.mean, len(sums.size)
    size = effective_size(sums, confidence=confidence)
    z = float(norm.ppf((1 + confidence) / 2))
    none = z**2 / (count + z**2)  # Wilson's upper end of 0 of all clusters
    if mean < _ROUNDING or mean > 1 - _ROUNDING:
        return (0.0, none) if mean < 0.5 else (1 - none, 1.0)
    tail = (1 - confidence) / 2
    hits, misses = mean * size, (1 - mean) * size
    low = float(beta.ppf(tail, hits, misses + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, misses)) if misses > 0 else 1.0
    return min(low, 1 - none), max(high, none)


def joined_clusters(*names: Sequence[Hashable]) -> list[Hashable]:
    """Clusters of rows that share a name in any of several lists, or are linked by rows that do; None links nothing.

    So rows with one prompt are one cluster whatever cluster they say they are of.
    """
    rows = len(names[0])
    numbers: dict[tuple[int, Hashable], int] = {}
    edges = [
        (row, rows + numbers.setdefault((place, name), len(numbers)))
        for place, column in enumerate(names)
        for row, name in enumerate(column)
        if name is not None
    ]
    if not edges:
        return list(range(rows))
    ends: Int[np.ndarray, "e 2"] = np.array(edges)
    size = rows + len(numbers)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(size, size))
    return connected_components(graph, directed=False)[1][:rows].tolist()


def _intraclass_correlation(sums: ClusterSums, within: float) -> float:
    """Share of the variance that lies between clusters, by one-way analysis of variance, from 0 to 1."""
    size, count, n = sums.size, len(sums.size), float(sums.size.sum())
    if n == count:
        return 0.0
    between = float((size * (sums.total / size - sums.mean) ** 2).sum()) / (count - 1)
    inside = within / (n - count)
    typical = (n - float((size**2).sum()) / n) / (count - 1)
    return float(np.clip((between - inside) / max(between + (typical - 1) * inside, _ROUNDING), 0, 1))
