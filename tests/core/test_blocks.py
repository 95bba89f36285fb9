"""Tests on designs in blocks, against slow definitions, scipy and simulations with a known answer."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from divalign.core.blocks import grouped_mean, own_rank
from divalign.core.stats import Estimate, Tested, clustered_mean


def test_treatments_that_win_on_their_own_outcome_have_rank_one() -> None:
    values = np.zeros((5, 4, 4)) + np.eye(4)
    test = own_rank(values)
    assert test.mean == (1.0, None, None, 5)  # five blocks that agree do not say how others would differ
    assert test.p_value == pytest.approx(1 / 20_001, abs=2e-4)  # of 24^5 orders two are as far
    assert own_rank(-values).mean.value == 4.0


def test_what_one_treatment_is_better_at_in_everything_shows_no_own_divergence() -> None:
    values = np.arange(4.0)[None, :, None] + np.zeros((6, 4, 4))
    test = own_rank(values)
    assert test.mean.value == test.chance == 2.5
    assert test.p_value == 1.0


def test_ties_share_their_rank_and_missing_outcomes_are_left_out() -> None:
    values = np.zeros((1, 3, 3))
    values[0, :, 0] = [0.0, 0.0, 1.0]
    values[0, :, 1] = [0.0, 1.0, 0.5]
    values[0, 2, 2] = np.nan
    test = own_rank(values)
    assert test.mean.value == (2.5 + 1.0) / 2
    assert np.isnan(test.ranks[0, :, 2]).all()
    for nothing in (np.nan, 0.0):
        with pytest.raises(ValueError, match="nothing can be ranked"):
            own_rank(np.full((2, 3, 3), nothing))


def test_an_outcome_that_is_alike_for_all_treatments_counts_as_missing() -> None:
    values = np.random.default_rng(2).normal(size=(6, 4, 4))
    missing = values.copy()
    values[:, :, 1], missing[:, :, 1] = 0.0, np.nan
    tied, left_out = own_rank(values, draws=200), own_rank(missing, draws=200)
    assert tied[:4] == left_out[:4]  # ranked 2.5 each, it would draw the mean and its interval to chance
    assert np.isnan(tied.ranks[:, :, 1]).all()


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_the_interval_of_a_mean_rank_over_ten_blocks_covers(strength: float) -> None:
    generator = np.random.default_rng(4)
    truth = own_rank(generator.normal(size=(20_000, 4, 4)) + strength * np.eye(4), draws=1).mean.value
    hits = 0
    for _ in range(600):
        mean = own_rank(generator.normal(size=(10, 4, 4)) + strength * np.eye(4), draws=1).mean
        hits += mean.low <= truth <= mean.high
    assert hits / 600 > 0.925


def test_the_interval_is_students_and_one_block_has_none() -> None:
    values = np.random.default_rng(5).normal(size=(7, 3, 3))
    test = own_rank(values, draws=10)
    means = test.ranks[:, range(3), range(3)].mean(axis=1)
    ends = ttest_1samp(means, 2.0).confidence_interval()
    assert (test.mean.low, test.mean.high) == pytest.approx((ends.low, ends.high))
    assert own_rank(values[:1], draws=10).mean[1:] == (None, None, 1)


def test_the_p_value_is_that_of_all_permutations() -> None:
    values = np.random.default_rng(3).normal(size=(2, 3, 3)) + 0.8 * np.eye(3)
    ranks = (-values).argsort(axis=1).argsort(axis=1) + 1
    orders = list(permutations(range(3)))
    sums = [
        sum(ranks[block, order[j], j] for block, order in enumerate(pair) for j in range(3)) / 6
        for pair in ((first, second) for first in orders for second in orders)
    ]
    observed = sums[0]
    exact = np.mean([abs(value - 2.0) >= abs(observed - 2.0) - 1e-12 for value in sums])
    assert own_rank(values).p_value == pytest.approx(exact, abs=0.012)


def test_the_level_holds_where_outcomes_of_a_model_depend_on_each_other() -> None:
    generator = np.random.default_rng(0)
    rejected = 0
    for _ in range(400):
        ability = generator.normal(size=(10, 4, 1))  # the same in all outcomes
        values = ability + 0.3 * generator.normal(size=(10, 4, 4))
        rejected += own_rank(values, draws=400).p_value < 0.05
    assert rejected / 400 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_what_repeats_over_blocks_for_another_reason_is_no_evidence_by_the_common_permutation() -> None:
    generator = np.random.default_rng(1)
    within, common = 0, 0
    for _ in range(60):
        interaction = generator.normal(size=(4, 4))  # of methods and divergences, the same in all blocks
        test = own_rank(interaction + 0.3 * generator.normal(size=(10, 4, 4)), draws=400)
        within += test.p_value < 0.05
        common += test.common_p_value < 0.05
    assert within / 60 > 0.3  # as the docstring says
    assert common / 60 <= 0.12


def test_many_treatments_are_permuted_by_draws() -> None:
    test = own_rank(np.zeros((3, 9, 9)) + np.eye(9), draws=200)
    assert test.mean.value == 1.0
    assert test.p_value < 0.01


def test_a_grouped_mean_is_students_test_on_the_groups_means() -> None:
    values = np.random.default_rng(1).normal(0.3, size=16)
    groups = [name for name in "abcd" for _ in range(4)]
    tested = grouped_mean(values, groups)
    reference = ttest_1samp(values.reshape(4, 4).mean(axis=1), 0.0)
    assert tested.p_value == pytest.approx(reference.pvalue)
    ends = reference.confidence_interval()
    assert (tested.estimate.low, tested.estimate.high) == pytest.approx((ends.low, ends.high))
    assert grouped_mean([1.0, 1.0, 1.0], "abc") == ((1.0, None, None, 3), 0.25)  # that of three equal signs
    assert grouped_mean([0.0, 0.0], "ab") == ((0.0, None, None, 2), 1.0)
    with pytest.raises(ValueError, match="at least two"):
        grouped_mean([1.0, 2.0], "aa")


def test_groups_that_agree_have_no_interval() -> None:
    assert clustered_mean([1.0, 1.0, 1.0], ["a", "b", "c"]) == Estimate(1.0, None, None, 3)
    assert grouped_mean([1.0, 1.0], ["a", "b"]) == Tested(Estimate(1.0, None, None, 2), 0.5)
    assert grouped_mean([0.0, 0.0], ["a", "b"]).p_value == 1.0
