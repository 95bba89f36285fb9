"""Intervals of clustered rates keep their coverage where clusters are few, uneven, or one of them is a giant."""

import numpy as np
import pytest
from scipy.stats import binomtest

from divalign.core.design_effect import ClusterSums, cluster_sums, effective_size, joined_clusters, share_interval
from divalign.core.stats import clustered_difference, clustered_rate, independent_count
from divalign.safety.evaluate import mean_score, share

DRAWS = 300
LEAST = 0.93 - 1.65 * np.sqrt(0.95 * 0.05 / DRAWS)  # .93 less the noise of so many draws


def layout(kind: str, clusters: int) -> np.ndarray:
    """Cluster sizes: equal, uneven, or one giant with half (or nine tenths) of the rows."""
    sizes = np.full(clusters, 10)
    if kind == "uneven":
        return 1 + np.round(np.exp(np.random.default_rng(clusters).normal(1.8, 0.9, clusters))).astype(int)
    sizes[0] = {"equal": 10, "giant": 10 * (clusters - 1), "nine tenths": 90 * (clusters - 1)}[kind]
    return sizes


def draws_of(sizes: np.ndarray, share: float, correlation: float, seed: int) -> np.ndarray:
    """Successes per draw and cluster, beta-binomial."""
    generator = np.random.default_rng(seed)
    alpha, beta = (part * (1 - correlation) / correlation for part in (share, 1 - share))
    chances = np.nan_to_num(generator.beta(alpha, beta, (DRAWS, len(sizes))))
    return generator.binomial(np.broadcast_to(sizes, chances.shape), chances)


@pytest.mark.parametrize("clusters", [6, 12, 60])
@pytest.mark.parametrize("kind", ["equal", "uneven", "giant", "nine tenths"])
def test_the_interval_of_a_clustered_rate_covers_it(kind: str, clusters: int) -> None:
    sizes, missed = layout(kind, clusters), []
    for share_of_yes in (0.01, 0.1, 0.5):
        for correlation in (0.1, 0.9):
            hits = 0
            for successes in draws_of(sizes, share_of_yes, correlation, seed=clusters).astype(float):
                low, high = share_interval(ClusterSums(sizes.astype(float), successes, successes))
                hits += low <= share_of_yes <= high
            missed += [(share_of_yes, correlation, hits / DRAWS)] if hits / DRAWS < LEAST else []
    assert not missed


@pytest.mark.parametrize("kind", ["equal", "giant"])
def test_the_interval_of_a_clustered_difference_covers_it(kind: str) -> None:
    sizes = layout(kind, 12)
    ids = np.repeat(np.arange(12), sizes)
    for before, after in ((0.5, 0.5), (0.3, 0.05), (0.05, 0.01)):
        hits = 0
        for seed in range(150):
            generator = np.random.default_rng(seed)
            chances = [np.nan_to_num(generator.beta(p / 2, (1 - p) / 2, 12)) for p in (before, after)]
            sides = [(generator.random(len(ids)) < chance[ids]).tolist() for chance in chances]
            low, high = clustered_difference(*sides, ids.tolist()).estimate[1:3]
            hits += low <= after - before <= high
        assert hits / 150 >= 0.93 - 1.65 * np.sqrt(0.95 * 0.05 / 150)


def test_one_giant_cluster_is_worth_few_outcomes_and_equal_ones_as_many_as_they_are() -> None:
    halves = cluster_sums([True] * 50 + [False] * 50, [0] * 50 + list(range(1, 51)))
    assert effective_size(halves) < 4  # (1/2)^2 + 50 (1/100)^2 is 1 / 3.9
    pure = cluster_sums([True] * 30 + [False] * 70, [place // 10 for place in range(100)])
    assert effective_size(pure) == 10
    low, high = share_interval(pure)  # of 3 in 10, exactly
    expected = binomtest(3, 10).proportion_ci(method="exact")
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_few_clusters_pay_for_an_estimated_design_effect() -> None:
    generator = np.random.default_rng(0)
    counts = []
    for clusters in (3, 6, 60):
        values, names = generator.random(clusters * 20) < 0.5, np.repeat(np.arange(clusters), 20)
        counts.append(independent_count(values, names.tolist()) / len(values))
    assert counts[0] < counts[1] < counts[2] <= 1


def test_a_single_cluster_that_varies_tells_nothing_and_a_constant_one_is_one_outcome() -> None:
    assert clustered_rate([True, False], ["a", "a"])[:3] == (0.5, 0.0, 1.0)
    assert clustered_rate([True] * 100, ["a"] * 100)[:3] == pytest.approx((1.0, 0.2065, 1.0), abs=1e-4)
    assert share_interval(cluster_sums([0.2, 0.4], ["a", "a"])) == (0.0, 1.0)


def test_one_prompt_a_hundred_times_is_one_prompt() -> None:
    rows = [{"prompt": " Tell me  HOW" if place % 2 else "tell me how", "score": 1.0} for place in range(100)]
    found = share(rows, [True] * 100)
    assert (found.value, found.n) == (1.0, 100)
    assert found.low < 0.25
    assert mean_score(rows) == pytest.approx(found)
    different = [{"prompt": f"prompt {place}"} for place in range(100)]
    assert share(different, [True] * 100).low > 0.96


def test_copies_of_a_prompt_in_two_clusters_join_them() -> None:
    assert joined_clusters(["a", "a", "b", None, "c"], ["p", "q", "q", "q", None]) == [0, 0, 0, 0, 1]
    assert joined_clusters([None, None]) == [0, 1]
    rows = [{"prompt": "p", "cluster": "a"}, {"prompt": "p", "cluster": "b"}, {"prompt": "q", "cluster": 1}]
    assert share(rows, [True, True, False]) == clustered_rate([True, True, False], ["a", "a", "q"])
