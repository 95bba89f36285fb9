"""Figures of a reward model: closed forms, and what they say of margins with a known distribution."""

import math

import numpy as np
import pytest
import torch

from divalign.core.divergences import DIVERGENCES
from divalign.core.losses import METHODS
from divalign.core.optimum import swapped_pairs
from divalign.core.reward_quality import calibration_slope, pair_quality


def drawn(count: int, scale: float = 1.0) -> np.ndarray:
    """Margins of pairs whose order is right with probability sigmoid(margin / scale)."""
    random = np.random.default_rng(0)
    size = random.exponential(1.5, count)
    right = random.random(count) < 1 / (1 + np.exp(-size))
    return scale * np.where(right, size, -size)


def test_no_margins_are_chance_and_large_ones_the_ceiling() -> None:
    nothing = pair_quality(np.zeros(20), range(20))
    assert (nothing.loss.value, nothing.js.value) == (pytest.approx(math.log(2)), pytest.approx(0))
    assert (nothing.accuracy.value, nothing.accuracy.n) == (0.5, 20)
    certain = pair_quality(np.full(20, 50.0), range(20))
    assert (certain.js.value, certain.accuracy.value) == (pytest.approx(math.log(2)), 1.0)
    assert certain.calibration_error == pytest.approx(0, abs=1e-9)
    assert certain.calibration_slope is None


def test_the_loss_is_dpos_and_its_complement_a_bound_with_an_interval() -> None:
    margins = drawn(300)
    quality = pair_quality(margins, range(300))
    assert quality.loss.value == pytest.approx(METHODS["dpo"].aligned_loss(torch.tensor(margins)).mean().item())
    assert quality.js.low is not None
    assert quality.js.value == pytest.approx(math.log(2) - quality.loss.value)  # type: ignore[operator]
    assert quality.js.low < quality.js.value < quality.js.high  # type: ignore[operator]


@pytest.mark.parametrize(("count", "margin"), [(50, 3.0), (100, 4.0), (100, 2.0)])
def test_the_interval_covers_where_margins_are_honest_and_stays_on_the_scale(count: int, margin: float) -> None:
    """Student's interval of the loss reaches above ln 2 in most of these draws."""
    random = np.random.default_rng(0)
    wrong = 1 / (1 + math.exp(margin))
    losses = np.logaddexp(0, [-margin, margin])
    truth = math.log(2) - (1 - wrong) * losses[0] - wrong * losses[1]
    covered = []
    for _ in range(60):
        margins = np.where(random.random(count) < wrong, -margin, margin)
        js = pair_quality(margins, range(count)).js
        assert js.low is not None
        assert 0 <= js.low <= js.high <= math.log(2) + 1e-12  # type: ignore[operator]
        covered.append(js.low <= truth <= js.high)  # type: ignore[operator]
    assert np.mean(covered) >= 0.9


def test_the_best_reward_reaches_the_divergence_of_swapped_pairs() -> None:
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.125, 0.25, 0.625])
    pairs = [(i, j) for i in range(3) for j in range(3) for _ in range(round(64 * p[i] * q[j]))]
    reward = np.log(p / q)
    quality = pair_quality(np.array([reward[i] - reward[j] for i, j in pairs]), range(len(pairs)))
    exact = DIVERGENCES["js"].exact(*swapped_pairs(torch.tensor(p), torch.tensor(q))) / 2
    assert quality.js.value == pytest.approx(float(exact))


@pytest.mark.parametrize("prompts", [9, 10, 12])
def test_the_complement_of_the_loss_is_the_bound_however_many_pairs_a_prompt_has(prompts: int) -> None:
    # The loss was a mean over prompts and the bound one over pairs, from ten prompts on: .20 for .40 here.
    random = np.random.default_rng(0)
    sizes = [20, *[4] * (prompts - 1)]
    margins = np.concatenate([random.normal(-0.2 if size == 20 else 2, 0.3, size) for size in sizes])
    quality = pair_quality(margins, np.repeat(np.arange(prompts), sizes).tolist())
    assert quality.loss.value == pytest.approx(METHODS["dpo"].aligned_loss(torch.tensor(margins)).mean().item())
    assert quality.js.value == pytest.approx(math.log(2) - quality.loss.value)  # type: ignore[operator]
    assert (quality.js.low is None) == (prompts < 10)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3, 1e6])
def test_the_slope_has_the_units_of_one_over_the_margins(scale: float) -> None:
    margins = np.random.default_rng(0).normal(1, 2, 500)
    assert calibration_slope(scale * margins) == pytest.approx(calibration_slope(margins) / scale)  # type: ignore[operator]


def test_one_far_margin_does_not_hide_the_slope_of_the_others() -> None:
    margins = np.random.default_rng(0).normal(0.3, 0.3, 500)
    alone = calibration_slope(margins)
    assert alone is not None
    assert calibration_slope(np.append(margins, 300.0)) == pytest.approx(alone, rel=1e-9)
    assert calibration_slope(-margins) == 0.0


@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0])
def test_the_slope_is_what_margins_must_be_multiplied_by(scale: float) -> None:
    assert calibration_slope(drawn(20_000, scale)) == pytest.approx(1 / scale, rel=0.06)


def test_the_calibration_error_is_small_for_honest_margins_alone() -> None:
    errors = {scale: pair_quality(drawn(20_000, scale), range(20_000)).calibration_error for scale in (0.2, 1.0, 6.0)}
    assert errors[1.0] < 0.01
    assert min(errors[0.2], errors[6.0]) > 0.1


def test_margins_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="diverged"):
        pair_quality(np.array([1.0, np.nan]), [0, 1])
