"""On-policy methods on a finite world: the functions that train language models, on a table of probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from divalign.core.advantages import importance_weights, leave_one_out, penalised_rewards
from divalign.core.losses import Method
from divalign.core.sampled_loss import sampled_loss

Table = Float[Tensor, "x y"]


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """How a policy is trained: `beta` of r, `kl` of the penalty in the reward, responses a prompt, Adam's updates."""

    beta: float
    kl: float
    responses: int = 16
    updates: int = 1000
    rate: float = 0.02
    seed: int = 0


def tilted(reference: Table, reward: Table, kl: float | int) -> Table:
    """Return pi_ref e^(reward / kl) / Z, the maximum of E reward - kl KL(pi, pi_ref)."""
    return (reference.log() + reward / kl).softmax(-1)


def ascend(reference: Table, reward: Table, method: Method, plan: Ascent) -> Table:
    """Return the policy after `plan.updates` of `method`, each on responses that the policy has just sampled.

    The rate falls to 0 on a cosine.
    """
    random = torch.Generator().manual_seed(plan.seed)
    logits = reference.log().clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=plan.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, plan.updates)
    for _ in range(plan.updates):
        responses = torch.multinomial(logits.detach().softmax(-1), plan.responses, replacement=True, generator=random)
        optimiser.zero_grad()
        group_loss(logits, reference, reward, responses, method, plan).backward()
        optimiser.step()
        schedule.step()
    return logits.detach().softmax(-1)


def group_loss(
    logits: Table, reference: Table, reward: Table, responses: Int[Tensor, "x k"], method: Method, plan: Ascent
) -> Float[Tensor, ""]:
    """Return the loss of the `responses` of the policy with these logits."""
    log_probs = logits.log_softmax(-1).gather(1, responses)
    log_ratios = log_probs - reference.log().gather(1, responses)
    advantages = leave_one_out(penalised_rewards(reward.gather(1, responses), log_ratios, plan.kl))
    importance = importance_weights(log_probs, log_probs.detach())
    flat = (part.flatten() for part in (log_ratios, advantages, importance))
    return sampled_loss(method, *flat, beta=plan.beta)
