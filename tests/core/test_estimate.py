"""What may be published of a divergence, and what is refused."""

import math

import numpy as np
import pytest
import torch
from scipy.special import expit

from divalign.core import bootstrap
from divalign.core.bootstrap import cluster_sums, difference, interval
from divalign.core.divergences import DIVERGENCES, Divergence, alpha
from divalign.core.estimate import (
    ceiling,
    cluster_ids,
    effective_sample_size,
    estimate_divergence,
    evaluate_critic,
    policy_kl,
)

BOUNDED = [name for name, row in DIVERGENCES.items() if row.upper is not None]
UNBOUNDED = [name for name, row in DIVERGENCES.items() if row.upper is None]


def gaussian(n: int = 200, *, shift: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(shift, 1, n), random.normal(-shift, 1, n)


@pytest.mark.parametrize("name", BOUNDED)
def test_a_bounded_divergence_has_its_bound_for_value_inside_its_interval(name: str) -> None:
    aligned, unaligned = gaussian()
    evaluation = evaluate_critic(aligned, unaligned, name)
    value, low, high, n = evaluation.estimate
    assert value == evaluation.bound == float(DIVERGENCES[name].bound(aligned, unaligned))
    assert low is not None
    assert high is not None
    assert evaluation.lower is not None
    assert 0 <= low < evaluation.lower < value < high <= evaluation.ceiling
    assert n == 400
    assert not evaluation.flags


@pytest.mark.parametrize("name", UNBOUNDED)
def test_an_unbounded_divergence_has_a_value_and_no_interval(name: str) -> None:
    estimate = estimate_divergence(*gaussian(), name)
    assert estimate.value is not None
    assert estimate.low is None
    assert estimate.high is None


def test_the_interval_is_the_normal_one_for_many_rows() -> None:
    aligned, unaligned = gaussian(4000)
    row = DIVERGENCES["js"]
    score, penalty = row.score(torch.from_numpy(aligned)), row.penalty(torch.from_numpy(unaligned))
    error = math.sqrt(float(score.var() / 4000 + penalty.var() / 4000))
    value, low, high, _ = estimate_divergence(aligned, unaligned, "js")
    assert (low, high) == pytest.approx((value - 1.96 * error, value + 1.96 * error), abs=0.1 * error)


def test_merging_many_clusters_keeps_value_and_width(monkeypatch: pytest.MonkeyPatch) -> None:
    aligned, unaligned = gaussian(3000)
    whole = estimate_divergence(aligned, unaligned, "js")
    monkeypatch.setattr(bootstrap, "GROUPS", 500)
    merged = estimate_divergence(aligned, unaligned, "js")
    assert merged.value == whole.value
    assert merged.high - merged.low == pytest.approx(whole.high - whole.low, rel=0.1)


def test_cluster_sums_of_lone_rows_give_the_interval_of_paired_rows() -> None:
    aligned, unaligned = gaussian(100)
    ids = np.arange(100)
    (sums,) = cluster_sums((aligned, unaligned), (ids, ids))
    assert difference(sums.sum(0, keepdims=True)) == pytest.approx(aligned.mean() - unaligned.mean())
    found = interval([sums], confidence=0.95, draws=4000, seed=0, floor=0.0)
    pairs = aligned - unaligned
    error = pairs.std(ddof=1) / 10
    expected = pairs.mean() - 1.984 * error, pairs.mean() + 1.984 * error, pairs.mean() - 1.660 * error
    assert found == pytest.approx(expected, abs=0.15 * error)


def test_more_confidence_is_a_wider_interval_and_the_same_seed_the_same_one() -> None:
    rows = gaussian()
    narrow, wide = (estimate_divergence(*rows, confidence=confidence) for confidence in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert estimate_divergence(*rows) == estimate_divergence(*rows)


def test_a_bad_critic_proves_nothing_rather_than_less() -> None:
    evaluation = evaluate_critic(*gaussian(shift=-2.0), "js")
    assert evaluation.bound < -1
    assert evaluation.estimate[:3] == (0.0, 0.0, 0.0)


def test_a_policy_that_equals_its_reference_proves_exactly_nothing() -> None:
    assert estimate_divergence(np.zeros(50), np.zeros(50), "tv")[:3] == (0.0, 0.0, 0.0)


def test_disjoint_supports_are_called_saturated_and_keep_the_doubt_of_unseen_rows() -> None:
    evaluation = evaluate_critic(np.full(100, 50.0), np.full(100, -50.0), "tv")
    value, low, high, _ = evaluation.estimate
    assert evaluation.flags == {"saturated"}
    assert value == pytest.approx(1)
    assert high == 1
    # No exception among 100 rows: Clopper and Pearson's 95 % interval for the share of exceptions ends at 3.62 %.
    assert low == pytest.approx(1 - 0.0362, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "n", "most"), [("kl", 100, math.log(100)), ("reverse_kl", 50, math.log(50)), ("chi2", 100, 99)]
)
def test_n_rows_cannot_show_more_than_one_of_n(name: str, n: int, most: float) -> None:
    sizes = (50, 100)
    assert ceiling(DIVERGENCES[name], *sizes) == pytest.approx(most, rel=1e-12)


def test_a_kl_above_log_n_is_capped_and_says_so() -> None:
    evaluation = evaluate_critic(np.full(20, 30.0), np.full(20, -30.0), "kl")
    assert evaluation.flags == {"capped"}
    assert evaluation.bound > 30
    assert evaluation.estimate.value == pytest.approx(math.log(20))


def test_a_divergence_that_rests_on_few_rows_is_refused() -> None:
    unaligned = np.zeros(200)
    unaligned[:3] = 8.0
    evaluation = evaluate_critic(np.full(200, 8.0), unaligned, "kl")
    assert evaluation.effective_sample_size == pytest.approx(3, abs=0.5)
    assert evaluation.flags == {"not estimable"}
    assert evaluation.estimate[:3] == (None, None, None)


def test_the_effective_sample_size_counts_the_rows_that_carry_the_weight() -> None:
    kl, reverse, js = DIVERGENCES["kl"], DIVERGENCES["reverse_kl"], DIVERGENCES["js"]
    even, lone = np.zeros(50), np.array([20.0] + [0.0] * 49)
    assert effective_sample_size(kl, lone, even) == pytest.approx(50)
    assert effective_sample_size(kl, even, lone) == pytest.approx(1, abs=1e-3)
    assert effective_sample_size(reverse, lone, even) == pytest.approx(49, abs=1e-3)
    assert effective_sample_size(js, -lone, even) == pytest.approx(1, abs=1e-3)
    assert effective_sample_size(alpha(-0.5), -lone, even) == pytest.approx(1, abs=1e-3)


def test_a_divergence_object_serves_as_well_as_its_name() -> None:
    row: Divergence = alpha(0.5)
    by_name = estimate_divergence(*gaussian(), "alpha(0.5)")
    assert estimate_divergence(torch.tensor(gaussian()[0]), gaussian()[1].tolist(), row) == by_name


def test_prompts_are_numbered_alike_in_both_classes_and_counted_once() -> None:
    ids = cluster_ids((["b", "a", "b"], ["a", "b"]), (3, 2), same_prompts=True)
    assert [list(part) for part in ids] == [[1, 0, 1], [0, 1]]
    aligned, unaligned = gaussian(40)
    assert estimate_divergence(aligned, unaligned, clusters=(np.arange(40) // 2, np.arange(40) // 2)).n == 20


def test_the_monte_carlo_kl_is_a_mean_with_students_interval() -> None:
    random = np.random.default_rng(0)
    ratio = random.normal(0.5, 1, 50)
    found = policy_kl(ratio, np.zeros(50))
    half = 2.0096 * ratio.std(ddof=1) / math.sqrt(50)
    assert found == pytest.approx((ratio.mean(), ratio.mean() - half, ratio.mean() + half, 50), rel=1e-4)
    doubled = policy_kl(np.repeat(ratio, 2), np.zeros(100), clusters=np.repeat(np.arange(50), 2))
    assert doubled == pytest.approx(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aligned": []}, "aligned has shape .*at least one row"),
        ({"unaligned": []}, "unaligned has shape"),
        ({"aligned": [math.nan] * 40}, "40 of 40 values are NaN"),
        ({"divergence": "jss"}, "did you mean 'js'"),
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"confidence": 0.99}, "needs 50: gather more"),
        ({"aligned": [0.0] * 9}, "got 9 prompts .* needs 10"),
        ({"clusters": ([1] * 40, [1] * 39)}, "40 and 39 cluster ids for 40 and 40 rows"),
        ({"clusters": ([*range(40)], [*range(1, 41)])}, "2 prompts have rows of one class only"),
    ],
)
def test_bad_input_is_answered_in_one_sentence(change: dict, message: str) -> None:
    aligned, unaligned = gaussian(40)
    with pytest.raises(ValueError, match=message):
        estimate_divergence(**{"aligned": aligned, "unaligned": unaligned, **change})


def test_prompts_drawn_independently_for_each_class_may_differ_when_that_is_said() -> None:
    aligned, unaligned = gaussian(40)
    clusters = (list(range(40)), list(range(40, 80)))
    assert estimate_divergence(aligned, unaligned, clusters=clusters, same_prompts=False).n == 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(([0.0] * 20, [0.0] * 19), "20 and 19 log-probabilities"), (([0.0] * 20, [0.0] * 20, [1] * 3), "3 cluster ids")],
)
def test_a_monte_carlo_kl_needs_both_log_probabilities_of_every_response(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy_kl(*arguments)


def test_rows_that_all_agree_leave_the_doubt_of_those_that_did_not_occur() -> None:
    ids = np.arange(50)
    r = np.full(50, 3.0)
    value, low, high, _ = estimate_divergence(r, -r, "tv", (ids, ids))
    assert value == pytest.approx(2 * expit(3) - 1)
    # No exception among 50 prompts: Clopper and Pearson's 95 % interval ends at 7.11 %, and a turned prompt costs 2 tv.
    assert low == pytest.approx(value * (1 - 2 * 0.0711), abs=1e-4)
    assert high == pytest.approx(value)


def test_redrawn_samples_never_lack_a_class() -> None:
    aligned, unaligned = gaussian(100)
    ids = np.arange(3), 1000 + np.arange(100)
    with pytest.raises(ValueError, match="got 3 prompts"):
        estimate_divergence(aligned[:3], unaligned, "js", ids, same_prompts=False)
    value, low, high, _ = estimate_divergence(
        aligned[:10], unaligned, "js", (np.arange(10), ids[1]), same_prompts=False
    )
    assert 0 <= low < value < high


def test_copies_of_a_row_do_not_make_a_divergence_estimable() -> None:
    unaligned = np.zeros(200)
    unaligned[0] = 6.0
    ids, times = np.arange(200), 12
    once, often = (
        evaluate_critic(np.full(200 * n, 4.0), np.repeat(unaligned, n), "kl", (np.repeat(ids, n), np.repeat(ids, n)))
        for n in (1, times)
    )
    assert often.flags == once.flags == {"not estimable"}
    assert often.effective_sample_size == pytest.approx(once.effective_sample_size)
    assert often.ceiling == once.ceiling == pytest.approx(math.log(200))


def test_any_names_will_do_for_prompts_and_1_is_not_the_text_1() -> None:
    names = [("a", 1), ("b", 2), ("a", 1), 1, "1"]
    aligned, unaligned = cluster_ids((names, names), (5, 5), same_prompts=True)
    assert aligned.tolist() == unaligned.tolist() == [0, 1, 0, 2, 3]
    tensor = torch.tensor([7, 3, 7])
    assert cluster_ids((tensor, tensor), (3, 3), same_prompts=True)[0].tolist() == [1, 0, 1]


def test_a_monte_carlo_kl_is_never_shown_outside_its_interval() -> None:
    value, low, high, _ = policy_kl(np.linspace(-1.1, -0.9, 30), np.linspace(-0.7, -0.8, 30))
    assert (value, low, high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", ["hellinger", "alpha(0.5)", "alpha(0.9)", "alpha(0.1)"])
@pytest.mark.parametrize("stray", [300.0, 720.0, 2000.0])
def test_one_far_row_leaves_everything_possible_and_never_makes_zero_certain(name: str, stray: float) -> None:
    # The square of its penalty overflows: the ends were NaN, and shown as 0.
    aligned, unaligned = gaussian(60, shift=4.0)
    unaligned[0] = stray
    found = evaluate_critic(aligned, unaligned, name)
    assert found.bound < -100
    assert found.estimate[:3] == (0.0, 0.0, found.ceiling)
    assert found.lower == 0.0


def test_an_end_that_is_no_number_is_no_end() -> None:
    sums = [np.array([[np.inf, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]])]
    with np.errstate(invalid="ignore"):
        found = interval(sums, confidence=0.95, draws=10, seed=0, floor=0.1)
    assert (found.low, found.high, found.lower) == (-math.inf, math.inf, -math.inf)


def test_the_interval_has_the_units_of_its_values() -> None:
    sums = cluster_sums(gaussian(50), None)
    large = [part * np.array([1e200, 1, 1e200, 1]) for part in sums]
    found, scaled = (
        interval(part, confidence=0.95, draws=50, seed=0, floor=floor) for part, floor in ((sums, 0.01), (large, 1e198))
    )
    assert np.array(scaled) / 1e200 == pytest.approx(np.array(found))


def test_rows_of_one_large_value_have_a_spread_of_at_least_the_floor() -> None:
    # The second moments of equal rows cancel up to rounding, which made a variance negative and its root NaN.
    sums = cluster_sums((np.full(60, 1e12 / 7), np.full(60, 1e12 / 3)), None)
    with np.errstate(all="raise"):
        found = interval(sums, confidence=0.95, draws=50, seed=0, floor=0.1)
    assert np.isfinite(found).all()
