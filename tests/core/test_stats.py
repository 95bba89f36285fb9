from itertools import permutations, product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, spearmanr
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from divalign.core.stats import (
    Estimate,
    clustered_difference,
    clustered_mean,
    clustered_rate,
    corrected_rate,
    holm,
    mean_of_rows,
    paired_difference,
    pearson,
    rate,
    spearman,
    weighted_sum,
)

outcomes = st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=40)
few = settings(max_examples=30, derandomize=True, deadline=None)


@given(outcomes)
@few
def test_clusters_of_one_are_a_plain_rate(values: list[bool | None]) -> None:
    plain, clustered = rate(values), clustered_rate(values, range(len(values)))
    assert (clustered.value, clustered.n) == (plain.value, plain.n)
    if plain.value in (0.0, 1.0, None):
        assert clustered[1:3] == pytest.approx(plain[1:3], abs=1e-12)
    else:  # the design effect of n clusters of one is n/(n-1)
        assert clustered.low <= plain.low + 1e-12
        assert clustered.high >= plain.high - 1e-12
        assert clustered[1:3] == pytest.approx(plain[1:3], abs=0.12)


def test_ten_copies_of_each_outcome_add_nothing() -> None:
    values = [True] * 6 + [False] * 14
    once = clustered_rate(values, range(20))
    copied = clustered_rate(values * 10, list(range(20)) * 10)
    assert copied[:3] == pytest.approx(once[:3])
    assert copied.n == 200


def test_a_clustered_interval_covers_what_a_plain_one_misses() -> None:
    generator, covered, plainly = np.random.default_rng(0), 0, 0
    for _ in range(300):
        chances = generator.beta(0.6, 1.4, size=40)
        values = [bool(x) for x in (generator.random((10, 40)) < chances).ravel()]
        found, plain = clustered_rate(values, list(range(40)) * 10), rate(values)
        covered += found.low <= 0.3 <= found.high
        plainly += plain.low <= 0.3 <= plain.high
    assert covered >= 0.92 * 300  # 95 % nominal; 300 draws have a standard error of 1.3 %
    assert plainly < 0.75 * 300


def test_unanimous_clusters_count_once_each() -> None:
    assert clustered_rate([False] * 50, [i // 10 for i in range(50)]).high == pytest.approx(rate([False] * 5).high)


def test_a_first_success_does_not_narrow_the_interval_of_none() -> None:
    topics = [i // 3 for i in range(180)]
    highs = [clustered_rate([i in range(0, 3 * k, 3) for i in range(180)], topics).high for k in range(6)]
    assert (np.diff(highs) > -1e-12).all()
    lows = [clustered_rate([i not in range(0, 3 * k, 3) for i in range(180)], topics).low for k in range(6)]
    assert (np.diff(lows) < 1e-12).all()
    assert clustered_rate([True] * 180, topics)[1:3] == (pytest.approx(1 - highs[0]), 1.0)


def test_a_rate_without_a_decided_outcome_stays_undecided_in_clusters() -> None:
    assert clustered_rate([None, None], ["a", "b"]) == Estimate(None, 0.0, 1.0, 0)


def test_a_perfect_judge_corrects_nothing() -> None:
    sure = Estimate(1.0, None, None, 10**9)
    for wins in (0, 3, 60, 100):
        observed = Estimate(wins / 100, None, None, 100)
        found = corrected_rate(observed, sensitivity=sure, specificity=sure)
        assert found.value == pytest.approx(wins / 100)
        # Agresti and Coull's interval, Wilson's neighbour: never further off than 2 points here.
        assert found[1:3] == pytest.approx(rate([True] * wins + [False] * (100 - wins))[1:3], abs=0.02)


@given(st.floats(0.02, 0.98), st.floats(0.6, 0.99), st.floats(0.6, 0.99))
@few
def test_the_correction_undoes_the_judges_errors(truth: float, sensitivity: float, specificity: float) -> None:
    observed = truth * sensitivity + (1 - truth) * (1 - specificity)
    found = corrected_rate(
        Estimate(observed, None, None, 1000),
        sensitivity=Estimate(sensitivity, None, None, 100),
        specificity=Estimate(specificity, None, None, 100),
    )
    assert found.value == pytest.approx(truth, abs=1e-9)
    assert found.low <= truth <= found.high


def test_the_corrected_interval_covers_the_truth() -> None:
    generator, covered = np.random.default_rng(1), 0
    truth, sensitivity, specificity = 0.15, 0.85, 0.9
    for _ in range(400):
        observed = generator.binomial(200, truth * sensitivity + (1 - truth) * (1 - specificity)) / 200
        judge = generator.binomial(60, [sensitivity, specificity]) / 60
        found = corrected_rate(
            Estimate(observed, None, None, 200),
            sensitivity=Estimate(judge[0], None, None, 60),
            specificity=Estimate(judge[1], None, None, 60),
        )
        covered += found.low <= truth <= found.high
    assert covered >= 0.93 * 400


def test_a_judge_no_better_than_chance_is_refused() -> None:
    coin = Estimate(0.5, None, None, 100)
    with pytest.raises(ValueError, match="no better than chance"):
        corrected_rate(coin, sensitivity=coin, specificity=coin)
    with pytest.raises(ValueError, match="undecided"):
        corrected_rate(Estimate(None, 0.0, 1.0, 0), sensitivity=coin, specificity=coin)


def test_mcnemar_is_statsmodels_exact_test() -> None:
    for gained, lost, both in product((0, 1, 5), (0, 2, 9), (3, 20)):
        before = [False] * gained + [True] * lost + [True] * both
        after = [True] * gained + [False] * lost + [True] * both
        expected = mcnemar([[both, lost], [gained, 0]], exact=True).pvalue
        found = paired_difference(before, after)
        assert found.p_value == pytest.approx(min(expected, 1.0))
        assert found.estimate.value == pytest.approx((gained - lost) / len(before))
        assert found.estimate.low < found.estimate.value < found.estimate.high


def test_the_paired_interval_covers_by_enumeration() -> None:
    # 30 pairs, 20 % gained and 10 % lost: the exact chance that the interval holds the true difference of 0.1.
    n, gain, loss, covered = 30, 0.2, 0.1, 0.0
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            stay = n - gained - lost
            found = paired_difference(
                [False] * gained + [True] * lost + [True] * stay, [True] * gained + [False] * lost + [True] * stay
            ).estimate
            chance = binom.pmf(gained, n, gain) * binom.pmf(lost, n - gained, loss / (1 - gain))
            covered += chance * (found.low <= gain - loss <= found.high)
    assert covered >= 0.945


def test_an_undecided_pair_is_no_pair() -> None:
    assert paired_difference([True, None, False], [True, True, None]).estimate.n == 1
    with pytest.raises(ValueError, match="no prompt is decided"):
        paired_difference([None], [True])


@pytest.mark.parametrize("test", [clustered_rate, paired_difference])
def test_lists_of_unequal_length_are_refused(test) -> None:
    with pytest.raises(ValueError, match="got 2 outcomes"):
        test([True, False], [True])


def test_correlations_are_scipys_and_their_intervals_cover() -> None:
    generator, covered = np.random.default_rng(2), {spearman: 0, pearson: 0}
    truth = {spearman: 6 / np.pi * np.arcsin(0.3), pearson: 0.6}  # of a bivariate normal with correlation 0.6
    for _ in range(300):
        x, y = generator.normal(size=(2, 25))
        y = 0.6 * x + 0.8 * y
        for correlate, count in covered.items():
            found = correlate(x, y).estimate
            covered[correlate] = count + (found.low <= truth[correlate] <= found.high)
    assert spearman(x, y).p_value == pytest.approx(spearmanr(x, y).pvalue)
    assert all(count >= 0.92 * 300 for count in covered.values())


def test_perfect_ranks_have_no_interval() -> None:
    found = spearman([1, 2, 3, 4, 5], [2, 4, 8, 16, 32]).estimate
    assert found.value == pytest.approx(1)
    assert found[1:] == (None, None, 5)


@pytest.mark.parametrize(("x", "y"), [([1, 2, 3], [1, 2, 3]), ([1, 2, 3, 4], [1, 2, 3]), ([1, 1, 1, 1], [1, 2, 3, 4])])
def test_lists_that_cannot_correlate_are_refused(x: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        spearman(x, y)


def test_holm_is_statsmodels() -> None:
    generator = np.random.default_rng(3)
    for size in range(1, 9):
        p_values = generator.random(size) ** 3
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert holm([]) == []


def test_the_mean_over_clusters_has_students_interval_of_their_means() -> None:
    values, clusters = [1.0, 3.0, 4.0, 8.0, 5.0], ["a", "a", "b", "b", "c"]
    found = clustered_mean(values, clusters)
    expected = scipy.stats.ttest_1samp([2.0, 6.0, 5.0], 0).confidence_interval(0.95)
    assert (found.value, found.n) == (pytest.approx(13 / 3), 3)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert clustered_mean([2.0, 4.0], ["a", "a"]) == Estimate(3.0, None, None, 1)
    with pytest.raises(ValueError, match="one cluster for each value"):
        clustered_mean([1.0], [])


def test_the_mean_of_rows_counts_rows_and_rests_on_clusters() -> None:
    assert mean_of_rows([1.0, 1.0, 1.0, 5.0], ["a", "a", "a", "b"]).value == 2.0
    assert mean_of_rows([2.0, 4.0], ["a", "a"]) == Estimate(3.0, None, None, 1)
    values, clusters = np.random.default_rng(0).normal(size=30), np.repeat(np.arange(10), 3).tolist()
    assert mean_of_rows(values, clusters) == pytest.approx(clustered_mean(values, clusters))
    hits = []
    for seed in range(300):
        random = np.random.default_rng(seed)
        ids = np.repeat(np.arange(20), 1 + random.geometric(0.2, 20))
        found = mean_of_rows(random.normal(size=20)[ids] + random.normal(size=len(ids)), ids.tolist())
        hits.append(found.low <= 0 <= found.high)
    assert np.mean(hits) >= 0.91  # .95 nominal: 300 draws have a standard error of 1.3 %


@pytest.mark.parametrize("n", [4, 5, 7])
def test_few_ranks_are_tested_by_all_their_orders(n: int) -> None:
    generator = np.random.default_rng(n)
    x, y = generator.normal(size=(2, n))
    y[1] = y[0]  # ties
    orders = [spearmanr(x, order).statistic for order in permutations(y)]
    expected = np.mean(np.abs(orders) >= abs(spearmanr(x, y).statistic) - 1e-9)
    assert spearman(x, y).p_value == pytest.approx(expected)
    assert spearman([1, 2, 3, 4], [1, 2, 3, 4]).p_value == pytest.approx(2 / 24)


def test_a_number_that_is_none_correlates_with_nothing() -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        spearman([1, 2, np.nan, 4], [1, 2, 3, 4])


def test_too_few_labels_to_tell_a_judge_from_a_guess_are_refused() -> None:
    found = {"sensitivity": rate([True] * 2), "specificity": rate([True] * 2 + [False] * 8)}
    with pytest.raises(ValueError, match="label more responses"):
        corrected_rate(rate([True, False]), **found)


def test_with_clusters_of_one_the_signs_test_is_mcnemars() -> None:
    for gained, lost in product((0, 1, 5), (0, 2, 9)):
        before, after = [False] * gained + [True] * (lost + 20), [True] * gained + [False] * lost + [True] * 20
        found, plain = clustered_difference(before, after, range(len(before))), paired_difference(before, after)
        assert found.p_value == pytest.approx(plain.p_value)
        assert (found.estimate.value, found.estimate.n) == (plain.estimate.value, plain.estimate.n)
        assert found.estimate[1:3] == pytest.approx(plain.estimate[1:3], abs=0.03)  # Student's quantile, and n-1


def test_the_signs_test_counts_every_pattern_of_signs() -> None:
    changes = [[1, 1, 0], [1], [-1, 0], [1, 1, 1, 0], [0, 0], [-1, -1]]
    pairs = [(change < 0, change > 0, name) for name, group in enumerate(changes) for change in group]
    sums = [sum(group) for group in changes]
    flipped = [
        abs(sum(sign * one for sign, one in zip(signs, sums, strict=True))) for signs in product((1, -1), repeat=6)
    ]
    expected = np.mean([total >= abs(sum(sums)) for total in flipped])
    assert clustered_difference(*zip(*pairs, strict=True)).p_value == pytest.approx(expected)


def test_copies_of_each_pair_do_not_make_a_change_surer() -> None:
    before, after = [True] * 12, [False] * 5 + [True] * 7
    once = clustered_difference(before, after, range(12))
    copied = clustered_difference(before * 10, after * 10, list(range(12)) * 10)
    assert copied.p_value == pytest.approx(once.p_value)
    assert copied.estimate[:3] == pytest.approx(once.estimate[:3])
    assert copied.estimate.n == 120


def test_clustered_changes_keep_their_level_where_mcnemars_test_does_not() -> None:
    generator, covered, called, plainly = np.random.default_rng(0), 0, 0, 0
    for _ in range(300):
        clusters = np.repeat(np.arange(24), generator.integers(2, 12, 24))
        before, after = (generator.random((2, 24)) < 0.5)[:, clusters] ^ (generator.random((2, len(clusters))) < 0.1)
        found = clustered_difference(before.tolist(), after.tolist(), clusters.tolist())
        covered += found.estimate.low <= 0 <= found.estimate.high
        called += found.p_value <= 0.05
        plainly += paired_difference(before.tolist(), after.tolist()).p_value <= 0.05
    assert covered >= 0.92 * 300  # 95 % nominal; 300 draws have a standard error of 1.3 %
    assert called <= 0.08 * 300
    assert plainly > 0.3 * 300


def test_one_cluster_tells_of_no_change() -> None:
    found = clustered_difference([True] * 9, [False] * 9, ["one"] * 9)
    assert (found.estimate, found.p_value) == (Estimate(-1.0, -1.0, 1.0, 9), 1.0)
    with pytest.raises(ValueError, match="no prompt is decided"):
        clustered_difference([None], [True], ["one"])
    with pytest.raises(ValueError, match="expected the same prompts"):
        clustered_difference([True], [True], [])


def test_the_interval_of_a_sum_is_that_of_estimates_which_move_together() -> None:
    draws = np.random.default_rng(0).normal(size=(10_000, 1))
    half = scipy.stats.norm.ppf(0.975)
    low, high = (weighted_sum([Estimate(0.0, -half, half, n) for n in (9, 4)], [0.5, 2.0])[end] for end in (1, 2))
    assert (low, high) == pytest.approx((-2.5 * half, 2.5 * half))
    inside = np.abs(draws @ np.array([[0.5 + 2.0]])) < high
    assert inside.mean() == pytest.approx(0.95, abs=0.01)


def test_a_sum_with_an_unknown_part_is_unknown_and_one_of_nothing_raises() -> None:
    assert weighted_sum([Estimate(1.0, 0.0, 2.0, 5), Estimate(None, 0.0, 1.0, 0)], [1.0, 1.0]) == (None, 0.0, 3.0, 0)
    with pytest.raises(ValueError, match="expected one positive each"):
        weighted_sum([], [])
