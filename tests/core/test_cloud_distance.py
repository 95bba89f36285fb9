"""The distance that is trained on is the distance that is measured, with the gradient that it should have."""

import numpy as np
import pytest
import torch
from torch import Tensor

from divalign.core.bhattacharyya import bhattacharyya, fit
from divalign.core.cloud_distance import FEWEST, StatesLoss, cloud_distance, plane_axes, shrunk_covariance
from divalign.core.losses import METHODS, LogRatios, find_method
from divalign.core.separation import separation


def draw(seed: int = 0, *, benign: int = 12, harmful: int = 15, width: int = 20, apart: float = 1.0):
    """Two clouds with most of their variance on few axes, as hidden states have it; which rows are harmful."""
    random = np.random.default_rng(seed)
    points = random.normal(size=(benign + harmful, width)) / np.sqrt(1.0 + np.arange(width))
    points[benign:, :3] += apart
    labels = np.arange(benign + harmful) >= benign
    order = random.permutation(len(labels))
    return torch.tensor(points[order]), torch.tensor(labels[order])


def in_plane(states: Tensor, harmful: Tensor) -> tuple[np.ndarray, np.ndarray]:
    points = (states.double() @ plane_axes(states.double(), harmful)).numpy()
    return points[~harmful.numpy()], points[harmful.numpy()]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("apart", [0.0, 0.5, 4.0])
def test_the_distance_is_that_of_the_measured_indicator(seed: int, apart: float) -> None:
    states, harmful = draw(seed, apart=apart)
    benign, bad = in_plane(states, harmful)
    expected = bhattacharyya(fit(benign), fit(bad))
    assert float(cloud_distance(states, harmful, plane_axes(states, harmful))) == pytest.approx(expected, rel=1e-10)


def test_the_covariance_is_ledoit_and_wolfs_in_more_axes_too() -> None:
    points = draw(3, width=9)[0]
    np.testing.assert_allclose(shrunk_covariance(points).numpy(), fit(points.numpy()).covariance, rtol=1e-12)
    sphere = torch.eye(2, dtype=torch.float64).repeat(4, 1) * torch.tensor([[1.0, 1.0], [1.0, 1.0]]).repeat(4, 1)
    assert shrunk_covariance(sphere).isfinite().all()


def test_without_shrinkage_it_would_be_the_papers_distance() -> None:
    """With many prompts the shrinkage vanishes, and both read the same plane."""
    states, harmful = draw(1, benign=400, harmful=400, width=6)
    ours = float(cloud_distance(states, harmful, plane_axes(states, harmful)))
    paper = separation(states[~harmful], states[harmful], "paper", draws=10).bhattacharyya.value
    assert ours == pytest.approx(paper, rel=0.05)  # what shrinkage takes at 400 prompts a class


@pytest.mark.parametrize("side", [True, False])
def test_a_class_that_has_become_one_point_is_far_and_not_infinitely_far(side: bool) -> None:
    states, harmful = draw(6)
    states[harmful == side] = states[harmful == side][0]
    pull = METHODS["separate"].states_loss.pull(states, harmful)
    assert 5 < pull.distance < 100
    assert pull.gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(4))
def test_two_classes_that_have_become_points_are_not_infinitely_far_either(seed: int, dtype: torch.dtype) -> None:
    # Their mean covariance is 0, and so was its floor: torch refused to solve with it.
    points = torch.randn(2, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    harmful = torch.arange(12) >= 6
    pull = METHODS["separate"].states_loss.pull(points[harmful.long()], harmful)
    assert 1e9 < pull.distance < np.inf
    assert pull.gradient.isfinite().all()
    assert float(pull.gradient.float().abs().max()) > 0


@pytest.mark.parametrize("apart", [0.0, 2.0])
def test_the_gradient_is_the_finite_difference(apart: float) -> None:
    states, harmful = draw(2, apart=apart, width=6)
    axes = plane_axes(states, harmful)
    states.requires_grad_()
    assert torch.autograd.gradcheck(lambda points: cloud_distance(points, harmful, axes), (states,))


def test_the_loss_of_a_step_and_its_gradient_are_those_of_log_one_plus_the_distance() -> None:
    states, harmful = draw(4)
    pull = METHODS["separate"].states_loss.pull(states, harmful)
    assert pull.loss == pytest.approx(-np.log1p(pull.distance))
    step, axes = 1e-5, plane_axes(states, harmful)
    direction = torch.randn(states.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = [-torch.log1p(cloud_distance(states + sign * step * direction, harmful, axes)) for sign in (1, -1)]
    assert float((pull.gradient * direction).sum()) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-6)


def test_descent_on_states_parts_the_classes_in_the_papers_plane() -> None:
    states, harmful = draw(5, apart=0.1)
    before = separation(states[~harmful], states[harmful], "paper", draws=10).bhattacharyya.value
    for _ in range(30):
        states = states - 0.5 * METHODS["separate"].states_loss.pull(states, harmful).gradient
    after = separation(states[~harmful], states[harmful], "paper", draws=10).bhattacharyya.value
    assert after > 5 * before


def test_half_precision_states_are_compared_in_float64() -> None:
    states, harmful = draw(6)
    single, half = (
        StatesLoss(of_distance=lambda d: -d).pull(states.to(t), harmful) for t in (torch.float32, torch.bfloat16)
    )
    assert half.gradient.dtype == torch.bfloat16
    assert half.distance == pytest.approx(single.distance, rel=0.05)  # of the states' own rounding


def test_clouds_that_touch_or_collapse_stay_finite() -> None:
    states, harmful = draw(7)
    collapsed = torch.where(harmful[:, None], 1.0, 0.0).expand_as(states) + 1e-9 * states
    for points in (states * 1e-6, states * 1e6, collapsed):
        pull = METHODS["separate"].states_loss.pull(points, harmful)
        assert np.isfinite(pull.distance)
        assert pull.gradient.isfinite().all()


def test_too_few_prompts_of_a_class_give_no_distance_and_one_point_is_an_error() -> None:
    states, harmful = draw(benign=12, harmful=FEWEST - 1)
    assert METHODS["separate"].states_loss.pull(states, harmful) is None
    with pytest.raises(ValueError, match="one point"):
        METHODS["separate"].states_loss.pull(torch.ones(8, 5), torch.arange(8) % 2 == 0)


def test_the_anchor_bounds_the_kl_of_a_finite_policy() -> None:
    """KL(ref, pi) <= sqrt(E_ref log(pi / ref)^2), with the anchor's value at beta = 1; close to half of it, near by."""
    random = torch.Generator().manual_seed(0)
    reference = torch.randn(50, generator=random, dtype=torch.float64).softmax(0)
    for scale in (0.01, 0.3, 3.0):
        policy = (reference.log() + scale * torch.randn(50, generator=random, dtype=torch.float64)).softmax(0)
        r = (policy / reference).log()
        kl = float(-(reference * r).sum())
        anchor = float((reference * METHODS["separate"].aligned_loss(r) * 2).sum())
        assert kl <= (2 * anchor) ** 0.5 + 1e-12
        if scale == 0.01:
            assert anchor == pytest.approx(kl, rel=0.02)


def test_the_family_says_how_much_harmful_prompts_are_anchored() -> None:
    assert METHODS["separate"].states_loss.harmful_weight == 0
    assert find_method("separate(1)").states_loss.harmful_weight == 1
    r = torch.tensor([1.0, 3.0])
    assert float(find_method("separate(1)").loss(LogRatios(r, r))) == pytest.approx(2.5)  # mean of r^2 / 2
    with pytest.raises(ValueError, match="expected 0 "):
        find_method("separate(2)")
