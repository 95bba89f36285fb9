"""Where on-policy training ends on finite worlds, by sampling from the policy and the losses that train models."""

import pytest
import torch
from torch import Tensor

from divalign.core.losses import find_method
from tests.lab.sampled_policy import Ascent, ascend, tilted


@pytest.fixture(scope="module")
def world() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    reference = torch.randn(6, 8, generator=random, dtype=torch.float64).softmax(-1)
    return reference, torch.rand(6, 8, generator=random, dtype=torch.float64)


def worst(policy: Tensor, other: Tensor) -> float:
    """Total variation at the worst prompt."""
    return float((policy - other).abs().sum(-1).max() / 2)


@pytest.mark.parametrize("method", ["rlhf", "on_policy:js", "on_policy:kl", "on_policy:lecam"])
def test_the_policy_is_the_reference_tilted_by_the_reward(method: str, world: tuple[Tensor, Tensor]) -> None:
    reference, reward = world
    plan = Ascent(beta=0.4, kl=0.4, updates=400, rate=0.05)
    best = tilted(reference, reward, 0.4)
    assert worst(reference, best) > 0.2
    assert worst(ascend(reference, reward, find_method(method), plan), best) < 1e-3


def test_the_weight_of_the_penalty_decides_the_tilt_and_beta_of_the_loss_does_not(world: tuple[Tensor, Tensor]) -> None:
    reference, reward = world
    policy = ascend(reference, reward, find_method("on_policy:js"), Ascent(beta=0.1, kl=0.8, updates=400, rate=0.05))
    assert worst(policy, tilted(reference, reward, 0.8)) < 1e-3


@pytest.mark.parametrize("method", ["rlhf", "on_policy:js"])
def test_without_a_penalty_the_best_responses_get_all_the_mass(method: str, world: tuple[Tensor, Tensor]) -> None:
    reference, reward = world
    policy = ascend(reference, reward, find_method(method), Ascent(beta=0.4, kl=0.0, updates=300, rate=0.1))
    before, after = (float((table * reward).sum(-1).mean()) for table in (reference, policy))
    assert after > 0.9 * float(reward.amax(-1).mean())
    assert after > before + 0.2
    assert worst(policy, tilted(reference, reward, 0.4)) > 0.2
