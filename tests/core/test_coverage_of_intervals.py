"""Intervals keep their promise: on worlds whose bound is known by enumeration, they cover it as often as they say."""

import numpy as np
import pytest
import torch
from scipy.special import expit

from divalign.core.divergences import DIVERGENCES
from divalign.core.estimate import estimate_divergence, policy_kl
from divalign.core.measure import MeasurementPlan, measure, measure_features
from divalign.core.stats import Estimate

PROMPTS, RESPONSES = 6, 8
# 1,000 draws of a true 95 % have standard error 0.7 %: this range leaves room for that and for little more.
LEAST, MOST = 0.93, 0.975


def covers(estimate: Estimate, truth: float) -> bool:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low <= truth <= estimate.high


def world(seed: int, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Aligned and unaligned law per prompt, and a critic that is wrong: log p/q, shrunk, with noise."""
    random = np.random.default_rng(seed)
    logits = spread * random.normal(size=(2, PROMPTS, RESPONSES))
    p, q = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return p, q, 0.8 * np.log(p / q) + 0.3 * random.normal(size=p.shape)


def draw(law: np.ndarray, prompts: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return (law[prompts].cumsum(-1) > random.random((len(prompts), 1))).argmax(-1)


@pytest.mark.parametrize(("seed", "spread"), [(1, 0.5), (2, 1.0), (3, 1.5)])
@pytest.mark.parametrize("name", ["js", "tv", "hellinger", "lecam"])
def test_95_percent_intervals_cover_the_bound_of_their_critic(name: str, seed: int, spread: float) -> None:
    p, q, critic = world(seed, spread)
    row, r = DIVERGENCES[name], torch.from_numpy(critic)
    truth = float((torch.from_numpy(p) * row.score(r) - torch.from_numpy(q) * row.penalty(r)).sum(-1).mean())
    random = np.random.default_rng(seed)
    ids = np.arange(120)
    hits = 0
    for index in range(1000):
        x = random.integers(0, PROMPTS, size=len(ids))
        aligned, unaligned = (critic[x, draw(law, x, random)] for law in (p, q))
        hits += covers(estimate_divergence(aligned, unaligned, name, (ids, ids), draws=250, seed=index), truth)
    assert LEAST <= hits / 1000 <= MOST


def test_rows_of_one_prompt_count_as_one_and_as_rows_they_would_mislead() -> None:
    # 60 prompts, 4 rows of each class; the critic reads the prompt alone, so the rows of a prompt say the same.
    random = np.random.default_rng(0)
    ids = np.repeat(np.arange(60), 4)
    truth = (expit(2.0) + expit(-1.0)) / 2 - 0.5
    hits = {True: 0, False: 0}
    for index in range(400):
        aligned = random.choice([2.0, -1.0], size=60)[ids]
        for clustered in hits:
            clusters = (ids, ids) if clustered else None
            estimate = estimate_divergence(aligned, np.zeros(240), "tv", clusters, draws=250, seed=index)
            hits[clustered] += covers(estimate, truth)
    assert 0.92 <= hits[True] / 400 <= 0.98
    assert hits[False] / 400 <= 0.80


def test_the_monte_carlo_kl_of_two_policies_covers_the_exact_one() -> None:
    p, q, _ = world(4, 1.0)
    truth = float(DIVERGENCES["kl"].exact(p, q).mean())
    random = np.random.default_rng(4)
    hits = 0
    for _ in range(1000):
        x = random.integers(0, PROMPTS, size=150)
        y = draw(p, x, random)
        hits += covers(policy_kl(np.log(p[x, y]), np.log(q[x, y])), truth)
    assert LEAST <= hits / 1000 <= MOST


@pytest.mark.parametrize("name", ["js", "tv", "hellinger", "lecam"])
def test_with_permuted_labels_the_interval_contains_zero(name: str) -> None:
    p, q, critic = world(5, 1.0)
    random = np.random.default_rng(5)
    ids = np.arange(100)
    fast = MeasurementPlan(draws=200, permutations=2)
    hits = 0
    for _ in range(200):
        x = random.integers(0, PROMPTS, size=100)
        rows = np.stack([critic[x, draw(law, x, random)] for law in (p, q)])
        swap = random.random(100) < 0.5
        aligned, unaligned = np.where(swap, rows, rows[::-1])
        # A weak critic is the hard case: a strong one, applied to shuffled labels, proves less than nothing.
        hits += covers(measure(0.1 * aligned, 0.1 * unaligned, name, (ids, ids), fast).held_out.estimate, 0.0)
    assert hits / 200 >= 0.93


def test_with_permuted_labels_a_critic_fitted_on_features_finds_nothing() -> None:
    random = np.random.default_rng(6)
    ids = np.arange(60)
    fast = MeasurementPlan(draws=200, permutations=2)
    hits = 0
    for _ in range(40):
        features = random.normal(size=(2, 60, 3)) + np.array([[[1.0]], [[0.0]]])
        swap = random.random((60, 1)) < 0.5
        aligned, unaligned = np.where(swap, features, features[::-1])
        hits += covers(measure_features(aligned, unaligned, "js", (ids, ids), fast).held_out.estimate, 0.0)
    assert hits / 40 >= 0.93


@pytest.mark.parametrize("prompts", [20, 50, 200])
@pytest.mark.parametrize("name", ["js", "tv", "hellinger"])
def test_rare_rows_of_the_wrong_sign_are_covered_though_most_samples_lack_them(name: str, prompts: int) -> None:
    # One row in a hundred is labelled the wrong way round; of 20 prompts two thirds of the samples show none.
    row, values, law = DIVERGENCES[name], np.array([3.0, -3.0]), [0.99, 0.01]
    score, penalty = row.score(torch.from_numpy(values)).numpy(), row.penalty(torch.from_numpy(-values)).numpy()
    truth, random, ids = float(law @ (score - penalty)), np.random.default_rng(0), np.arange(prompts)
    hits = 0
    for index in range(100):
        aligned, unaligned = random.choice(values, prompts, p=law), -random.choice(values, prompts, p=law)
        hits += covers(estimate_divergence(aligned, unaligned, name, (ids, ids), draws=200, seed=index), truth)
    assert hits / 100 >= LEAST


def moments(name: str, mean: float, spread: float) -> tuple[float, float]:
    """The bound at r ~ N(mean, spread) against N(-mean, spread), and the variance of one row of each class, exactly."""
    row, r = DIVERGENCES[name], np.linspace(mean - 12 * spread, mean + 12 * spread, 100_001)
    weights = np.exp(-(((r - mean) / spread) ** 2) / 2)
    weights /= weights.sum()
    gains = row.score(torch.from_numpy(r)).numpy(), -row.penalty(torch.from_numpy(-r)).numpy()
    means = [float(weights @ gain) for gain in gains]
    return sum(means), sum(float(weights @ (gain - one) ** 2) for gain, one in zip(gains, means, strict=True))


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("rows", [100, 1000])
@pytest.mark.parametrize("name", ["js", "hellinger", "lecam", "tv"])
def test_nearly_disjoint_data_have_an_interval_of_at_most_five_times_an_oracles(
    name: str, rows: int, clustered: bool
) -> None:
    # The oracle is the normal interval of known variance.
    truth, variance = moments(name, 8.0, 2.0)
    random, ids, hits, widths = np.random.default_rng(8), np.arange(rows), 0, []
    clusters = (ids, ids) if clustered else None
    repeats = 100 if rows == 100 else 40
    for index in range(repeats):
        aligned, unaligned = random.normal(8, 2, rows), random.normal(-8, 2, rows)
        found = estimate_divergence(aligned, unaligned, name, clusters, draws=250, seed=index)
        hits += covers(found, truth)
        widths.append(found.high - found.low)
    assert hits / repeats >= LEAST - 1.65 * np.sqrt(0.05 * 0.95 / repeats)  # less the noise of so few draws
    assert np.mean(widths) <= 5 * 2 * 1.96 * np.sqrt(variance / rows)


@pytest.mark.parametrize("name", ["js", "tv", "hellinger", "lecam"])
@pytest.mark.parametrize(("mean", "spread"), [(12.0, 3.0), (4.0, 2.0)])
def test_other_data_far_apart_are_covered_too(name: str, mean: float, spread: float) -> None:
    truth, _ = moments(name, mean, spread)
    random, hits = np.random.default_rng(12), 0
    for index in range(100):
        aligned, unaligned = random.normal(mean, spread, 100), random.normal(-mean, spread, 100)
        hits += covers(estimate_divergence(aligned, unaligned, name, draws=250, seed=index), truth)
    assert hits / 100 >= 0.91  # .95 nominal: 100 draws have a standard error of 2 %


@pytest.mark.parametrize("name", ["js", "tv"])
def test_rare_rows_of_the_wrong_sign_are_covered_where_critic_values_vary(name: str) -> None:
    row, random, hits = DIVERGENCES[name], np.random.default_rng(3), 0
    right = moments(name, 3.0, 0.3)[0]
    wrong = moments(name, -3.0, 0.3)[0]
    truth = 0.99 * right + 0.01 * wrong
    assert row.upper is not None
    ids = np.arange(50)
    for index in range(100):
        aligned, unaligned = (random.normal(3, 0.3, 50) * random.choice([1, -1], 50, p=[0.99, 0.01]) for _ in "ab")
        hits += covers(estimate_divergence(aligned, -unaligned, name, (ids, ids), draws=200, seed=index), truth)
    assert hits / 100 >= LEAST
