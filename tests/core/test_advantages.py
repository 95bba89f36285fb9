"""Advantages and the loss of sampled responses: closed forms, and expectations by enumeration on finite worlds."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from divalign.core.advantages import importance_weights, leave_one_out, penalised_rewards, zero_variance
from divalign.core.losses import METHODS, find_method
from divalign.core.sampled_loss import sampled_loss

few = settings(max_examples=15, derandomize=True, deadline=None)
NAN = float("nan")


def table(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_an_advantage_is_the_reward_less_the_mean_of_the_others() -> None:
    torch.testing.assert_close(leave_one_out(table([1.0, 2.0, 6.0])), table([-3.0, -1.5, 4.5]))


@few
@given(seed=st.integers(0, 2**31))
def test_a_groups_advantages_sum_to_zero_and_ignore_a_constant(seed: int) -> None:
    rewards = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    advantages = leave_one_out(rewards)
    torch.testing.assert_close(advantages.sum(1), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(leave_one_out(rewards + 1000.0), advantages)
    torch.testing.assert_close(advantages, 7 / 6 * (rewards - rewards.mean(1, keepdim=True)))


def test_equal_rewards_have_no_advantage_at_all_and_are_counted() -> None:
    rewards = table([0.1, 0.1, 0.1], [0.1, 0.2, 0.1], [0.3, NAN, 0.3], [NAN, NAN, NAN])
    advantages = leave_one_out(rewards)
    assert not advantages[[0, 2, 3]].any()  # exactly, not up to rounding
    assert advantages[1].all()
    assert zero_variance(rewards).tolist() == [True, False, True, True]


def test_an_undecided_reward_is_in_no_baseline_and_teaches_nothing() -> None:
    torch.testing.assert_close(leave_one_out(table([1.0, NAN, 3.0])), table([-2.0, 0.0, 2.0]))
    assert not leave_one_out(table([NAN, 5.0, NAN])).any()  # nobody to compare with


REFERENCE = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
REWARD = torch.tensor([0.0, 1.0, 0.3, 2.0], dtype=torch.float64)
KL = 0.7


def policy_logits() -> Tensor:
    return torch.tensor([0.3, -0.4, 0.9, 0.1], dtype=torch.float64, requires_grad=True)


def expected_gradient(method: str, *, sampling: Tensor | None = None, cap: float = math.inf) -> Tensor:
    """The mean over all groups of three responses, each with its probability under the sampling policy."""
    logits = policy_logits()
    log_probs = logits.log_softmax(0)
    drawn_from = log_probs.detach() if sampling is None else sampling
    total = torch.zeros((), dtype=torch.float64)
    for group in itertools.product(range(4), repeat=3):
        picked = torch.tensor(group)
        ratios = log_probs[picked] - REFERENCE.log()[picked]
        rewards = penalised_rewards(REWARD[picked][None], ratios[None], KL)
        weights = importance_weights(log_probs[picked], drawn_from[picked], cap=cap)
        loss = sampled_loss(find_method(method), ratios, leave_one_out(rewards)[0], weights, beta=1.3)
        total = total + drawn_from[picked].sum().exp() * loss
    return torch.autograd.grad(total, logits)[0]


def exact_objective(logits: Tensor) -> Tensor:
    log_probs = logits.log_softmax(0)
    return (log_probs.exp() * (REWARD - KL * (log_probs - REFERENCE.log()))).sum()


def test_rlhfs_gradient_is_that_of_the_reward_less_the_exact_kl() -> None:
    exact = torch.autograd.grad(exact_objective(logits := policy_logits()), logits)[0]
    torch.testing.assert_close(expected_gradient("rlhf"), -exact)


def test_k3_in_the_loss_has_the_value_of_the_kl_and_the_gradient_of_another_where_k1_in_the_reward_has_its() -> None:
    logits = torch.tensor([1.5, -2.0, 0.9, 1.1], dtype=torch.float64, requires_grad=True)
    log_probs, log_reference = logits.log_softmax(0), REFERENCE.log()
    forward = (log_probs.exp() * (log_probs - log_reference)).sum()
    backward = (REFERENCE * (log_reference - log_probs)).sum()
    exact, reverse = (torch.autograd.grad(kl, logits, retain_graph=True)[0] for kl in (forward, backward))
    k3 = (log_reference - log_probs).exp() - 1 - (log_reference - log_probs)
    sampled = log_probs.exp().detach()  # responses in the shares that the policy gives them
    in_loss = torch.autograd.grad((sampled * k3).sum(), logits, retain_graph=True)[0]
    assert (sampled * k3.detach()).sum().item() == pytest.approx(forward.item())
    torch.testing.assert_close(in_loss, reverse)
    assert (in_loss - exact).norm() > 0.3 * exact.norm()
    rewards = penalised_rewards(torch.zeros(1, 4, dtype=torch.float64), (log_probs - log_reference)[None], 1)[0]
    torch.testing.assert_close(torch.autograd.grad(-(sampled * rewards * log_probs).sum(), logits)[0], exact)


@pytest.mark.parametrize("method", ["rlhf", "on_policy:js"])
def test_importance_weights_make_another_sampling_policy_the_policys_own(method: str) -> None:
    """Exact for one response and its own advantage; in a group the others' baseline is still the sampler's."""
    logits, sampling = policy_logits(), torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log()
    log_probs = logits.log_softmax(0)
    advantages = torch.tensor([-1.0, 0.5, -0.2, 2.0], dtype=torch.float64)

    def gradient(drawn_from: Tensor, cap: float) -> Tensor:
        weights = importance_weights(log_probs, drawn_from, cap=cap)
        rows = [
            drawn_from[y].exp()
            * sampled_loss(find_method(method), ratio[None], advantages[y : y + 1], weights[y : y + 1], beta=1.0)
            for y, ratio in enumerate(log_probs - REFERENCE.log())
        ]
        return torch.autograd.grad(torch.stack(rows).sum(), logits, retain_graph=True)[0]

    own = gradient(log_probs.detach(), math.inf)
    torch.testing.assert_close(gradient(sampling, math.inf), own)
    assert (gradient(sampling, 0.5) - own).norm() > 1e-2  # the cut has its price
    assert importance_weights(log_probs, log_probs.detach()).tolist() == [1.0] * 4


def test_at_the_tilted_policy_rlhf_has_no_gradient_and_no_noise() -> None:
    best = (REFERENCE.log() + REWARD / KL).log_softmax(0)
    rewards = penalised_rewards(REWARD[None], (best - REFERENCE.log())[None], KL)
    assert leave_one_out(rewards).abs().max() < 1e-12


def test_at_the_reference_every_divergence_has_rloos_gradient_up_to_its_curvature() -> None:
    ratios = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    advantages, ones = torch.tensor([1.0, -2.0, 1.0], dtype=torch.float64), torch.ones(3, dtype=torch.float64)

    def gradient(name: str) -> Tensor:
        return torch.autograd.grad(sampled_loss(find_method(name), ratios, advantages, ones, beta=0.2), ratios)[0]

    torch.testing.assert_close(gradient("rlhf"), -advantages / 3)
    for name, curvature in (("kl", 1.0), ("js", 0.5), ("hellinger", 0.5), ("chi2", 2.0)):
        torch.testing.assert_close(gradient(f"on_policy:{name}"), -curvature * advantages / 3)


def test_methods_on_sampled_responses_are_entries_and_the_others_are_not() -> None:
    assert METHODS["rlhf"].on_policy is not None
    assert not METHODS["rlhf"].on_policy.mixes
    mixed = find_method("on_policy:alpha(0.3)")
    assert (mixed.name, mixed.on_policy is not None and mixed.on_policy.mixes) == ("on_policy:alpha(0.3)", True)
    assert find_method("kldo").on_policy is None
    with pytest.raises(ValueError, match="did you mean 'js'"):
        find_method("on_policy:jss")
    with pytest.raises(ValueError, match="sampled responses have none"):
        sampled_loss(METHODS["dpo"], *(torch.zeros(2) for _ in range(3)), beta=1.0)
