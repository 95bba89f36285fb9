"""Advantages of sampled responses: a reward against the other responses to the same prompt.

K responses y_1 .. y_K to a prompt are drawn from the sampling policy pi_s; their rewards have the KL penalty in them,

    R_i = reward_i - kl * (log pi(y_i|x) - log pi_ref(y_i|x))                 (k1, over the whole response, in nats)
    A_i = R_i - mean of R_j over the other responses of the group              (leave one out)

The baseline does not depend on y_i, so sum A_i grad log pi(y_i) / K is an unbiased gradient of E reward - kl KL(pi,
pi_ref). At the optimum pi_ref e^(reward / kl) / Z every R_i of a prompt is the same number, so every advantage is 0 and
the gradient has no noise left. Source: RLOO, Ahmadian et al. 2024, arXiv 2402.14740, eq. 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

IMPORTANCE_CAP = 2.0  # of a whole response's weight: larger ones are cut, which bounds the variance


@dataclass(frozen=True, kw_only=True)
class SampledRows:
    """That a method's rows are responses which the policy has just sampled, and what else it takes.

    `mixes` says whether its loss is also one of rows of the data, so that a share of them can be added.
    """

    mixes: bool


def penalised_rewards(
    rewards: Float[Tensor, "p k"], log_ratios: Float[Tensor, "p k"], kl: float | int
) -> Float[Tensor, "p k"]:
    """Return rewards - kl log(pi / pi_ref): the KL penalty as part of the reward, detached, one number a response.

    The estimator k1 inside the reward has the gradient of KL(pi, pi_ref) in expectation. As a term of the loss, k3 =
    pi_ref / pi - 1 - log(pi_ref / pi) has the value of KL(pi, pi_ref) in expectation and the gradient of
    KL(pi_ref, pi), so it is not used.
    """
    return rewards - kl * log_ratios.detach()


def leave_one_out(rewards: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
    """Return each reward minus the mean of the other rewards of its group (row).

    NaN marks an undecided reward: it counts in no baseline and its advantage is 0, as is that of a response without
    others. Equal rewards give exactly 0.
    """
    decided = ~rewards.isnan()
    # less a number of the group, so that equal rewards cancel without rounding
    origin = torch.where(decided, rewards, -torch.inf).amax(1, keepdim=True)
    centred = torch.where(decided, rewards - origin, 0.0)
    count = decided.sum(1, keepdim=True)
    other_mean = (centred.sum(1, keepdim=True) - centred) / (count - 1).clamp(min=1)
    return torch.where(decided & (count > 1), centred - other_mean, 0.0)


def zero_variance(rewards: Float[Tensor, "p k"]) -> Bool[Tensor, " p"]:
    """Tell which groups have no two different decided rewards, and so teach nothing but the KL penalty."""
    decided = ~rewards.isnan()
    low = torch.where(decided, rewards, torch.inf).amin(1)
    high = torch.where(decided, rewards, -torch.inf).amax(1)
    return high <= low


def importance_weights(
    policy: Float[Tensor, "*n"], sampling: Float[Tensor, "*n"], *, cap: float | int = IMPORTANCE_CAP
) -> Float[Tensor, "*n"]:
    """Return min(pi(y|x) / pi_s(y|x), cap) of each response, detached: 1 where the sampling policy is the policy.

    Log-probabilities of whole responses in nats. Weighted so, an expectation under pi_s is one under pi, up to the cut.
    Source: truncated importance sampling, Ionides 2008, J. Comput. Graph. Stat. 17.
    """
    return (policy.detach() - sampling).exp().clamp(max=cap)
