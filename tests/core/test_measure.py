"""The protocol: split by prompt, fit on one part, evaluate once on the other."""

import math

import numpy as np
import pytest
import torch

from divalign.core.baselines import log_mean_exp
from divalign.core.divergences import DIVERGENCES
from divalign.core.measure import MeasurementPlan, _shuffle, _split, fit_shift, measure, measure_features

QUICK = MeasurementPlan(draws=200, permutations=50)


def rows(n: int = 200, *, seed: int = 0, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Log-ratios of two unit Gaussians one apart, the optimal critic, moved by a constant."""
    random = np.random.default_rng(seed)
    return random.normal(0.5, 1, n) + offset, random.normal(-0.5, 1, n) + offset


def test_the_fitted_shift_of_kl_is_log_mean_exp() -> None:
    aligned, unaligned = rows()
    expected = log_mean_exp(torch.from_numpy(unaligned)).item()
    assert fit_shift(DIVERGENCES["kl"], aligned, unaligned) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_no_other_shift_gives_the_training_rows_a_larger_bound(name: str) -> None:
    aligned, unaligned = rows(offset=3.0)
    row = DIVERGENCES[name]
    shift = fit_shift(row, aligned, unaligned)
    best = float(row.bound(aligned - shift, unaligned - shift))
    others = np.linspace(-10, 10, 401)
    assert all(float(row.bound(aligned - other, unaligned - other)) <= best + 1e-9 for other in others)


@pytest.mark.parametrize("name", ["js", "tv", "kl"])
def test_a_constant_added_to_every_ratio_changes_nothing(name: str) -> None:
    plain, moved = (measure(*rows(offset=offset), name, plan=QUICK) for offset in (0.0, 7.0))
    assert moved.shift == pytest.approx(plain.shift + 7, abs=1e-5)
    assert moved.held_out.bound == pytest.approx(plain.held_out.bound, abs=1e-6)


def test_prompts_stay_on_one_side_of_the_split() -> None:
    ids = np.repeat(np.arange(20), 3)
    aligned, unaligned = rows(60)
    train, test, _ = _split(aligned, unaligned, (ids, ids), QUICK)
    assert len(train.aligned) == len(test.unaligned) == 30
    assert not np.intersect1d(np.concatenate(train.prompts), np.concatenate(test.prompts)).size
    assert set(np.concatenate(train.prompts)) == set(train.prompts[0])


def test_the_held_out_number_is_the_bound_on_rows_that_fitted_nothing() -> None:
    aligned, unaligned = rows()
    found = measure(aligned, unaligned, "js", plan=QUICK)
    train, test, _ = _split(aligned, unaligned, None, QUICK)
    row = DIVERGENCES["js"]
    assert found.held_out.bound == pytest.approx(
        float(row.bound(test.aligned - found.shift, test.unaligned - found.shift))
    )
    assert found.train_bound == pytest.approx(
        float(row.bound(train.aligned - found.shift, train.unaligned - found.shift))
    )
    assert found.overfit_gap == found.train_bound - found.held_out.bound
    assert found.held_out.estimate.n == 200


def test_shuffled_labels_prove_less_and_the_p_value_says_so() -> None:
    found = measure(*rows(), "js", plan=QUICK)
    assert found.null.high < found.held_out.bound
    assert found.p_value == pytest.approx(1 / 51)


def test_without_a_difference_the_p_value_is_uniform_enough() -> None:
    random = np.random.default_rng(0)
    small = [measure(*random.normal(size=(2, 40)), "tv", plan=QUICK).p_value <= 0.1 for _ in range(100)]
    assert 2 <= sum(small) <= 20


def test_labels_are_shuffled_within_prompts_that_have_both_classes() -> None:
    random = np.random.default_rng(0)
    prompts = np.array([0, 0, 1, 1, 2, 2, 2])
    labels = np.array([True, False, False, True, True, True, False])
    draws = np.stack([_shuffle(labels, prompts, random) for _ in range(200)])
    for prompt, aligned in ((0, 1), (1, 1), (2, 2)):
        assert (draws[:, prompts == prompt].sum(1) == aligned).all()
    assert 0.4 < draws[:, 0].mean() < 0.6


def test_labels_move_with_their_prompt_where_every_prompt_has_one_class() -> None:
    random = np.random.default_rng(0)
    prompts = np.array([0, 0, 1, 1, 1, 2])
    labels = np.array([True, True, False, False, False, False])
    draws = np.stack([_shuffle(labels, prompts, random) for _ in range(200)])
    assert (draws[:, 0] == draws[:, 1]).all()
    assert (draws[:, 2] == draws[:, 4]).all()
    assert draws[:, 5].mean() > 0.2
    assert draws[:, 0].mean() < 0.5


def test_where_some_prompts_have_one_class_both_ways_of_shuffling_are_taken() -> None:
    random = np.random.default_rng(0)
    prompts = np.array([0, 0, 1, 1, 2, 2, 3])
    labels = np.array([True, True, False, False, True, False, False])
    draws = np.stack([_shuffle(labels, prompts, random) for _ in range(300)])
    assert (draws[:, 0] == draws[:, 1]).all()
    assert (draws[:, 2] == draws[:, 3]).all()
    assert (draws[:, 4] != draws[:, 5]).all()
    assert draws[:, [0, 2, 4, 6]].mean(0) == pytest.approx([1 / 3, 1 / 3, 1 / 2, 1 / 3], abs=0.08)


def test_a_logistic_critic_nears_the_divergence_of_two_gaussians() -> None:
    random = np.random.default_rng(0)
    aligned, unaligned = random.normal(size=(2, 1500, 4))
    aligned[:, 0] += 1.0
    found = measure_features(aligned, unaligned, "hellinger", plan=QUICK)
    truth = 2 * (1 - math.exp(-1 / 8))
    assert found.held_out.estimate.low < truth
    assert found.held_out.bound == pytest.approx(truth, abs=0.05)
    assert abs(found.overfit_gap) < 0.05


@pytest.mark.parametrize(
    ("aligned", "unaligned", "message"),
    [
        (np.zeros((0, 3)), np.zeros((9, 3)), "aligned features have shape"),
        (np.zeros((9, 3)), np.full((9, 3), np.inf), "unaligned features"),
        (np.zeros((9, 3)), np.zeros((9, 4)), "width 3 and 4"),
    ],
)
def test_features_that_cannot_be_compared_are_refused(aligned: np.ndarray, unaligned: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_features(aligned, unaligned)


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        measure(*rows(), plan=MeasurementPlan(train_share=1.0))
    with pytest.raises(ValueError, match="got 1 prompts"):
        measure([0.0], [0.0])


@pytest.mark.parametrize("divergence", ["kl", "reverse_kl", "chi2", "hellinger", "js", "tv", "lecam"])
@pytest.mark.parametrize("constant", [-3.0, -0.3, 0.7, 2.0])
def test_a_critic_that_says_nothing_is_as_large_as_every_shuffle(divergence: str, constant: float) -> None:
    assert measure(np.full(40, constant), np.full(40, constant), divergence, plan=QUICK).p_value == 1.0
