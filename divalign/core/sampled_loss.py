"""The losses of METHODS on responses that the policy samples: aligned where the advantage is positive.

    loss = 1 / (beta n) * sum over responses of w_i |A_i| * (-score(r_i) where A_i > 0, penalty(r_i) where A_i < 0)

r = beta log(pi / pi_ref), A the group advantage, w the importance weight against the sampling policy. In a group the
advantages sum to 0, so both classes have the same total weight. The division by beta makes the gradient at pi = pi_ref
that of RLOO, times score'(0).

* `rlhf` is the member with score(r) = penalty(r) = r: its gradient is -1/n sum w_i A_i grad log pi(y_i), RLOO's.
* `on_policy:<divergence>`: minus the loss, at given samples, is proportional to a lower bound of the divergence between
  the responses above and below the average, each weighted by |A|.

A policy is at rest where A_i score'(r_i) on aligned and -|A_i| penalty'(r_i) on unaligned responses are one number for
all responses of a prompt; the first are positive and the second negative, so where the advantages are 0. With the KL
penalty in the reward (`advantages.penalised_rewards`) that is pi_ref e^(reward / kl) / Z for every divergence; without
it the only such policies give all their mass to the responses of the largest reward. This is for groups large enough
that the sign of an advantage is no chance; in small groups a response near the average is in both classes, and
penalty' = e^r score' pulls it towards the reference.

After arXiv 2602.05946 (f-GRPO; the share of offline rows is f-HAL's idea), from its abstract and summaries: the weights
are not verified, the links are the canonical ones of `divergences`, the level is the whole response, and the KL penalty
in the reward is ours.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from divalign.core.losses import Method


def sampled_loss(
    method: Method,
    log_ratios: Float[Tensor, " n"],
    advantages: Float[Tensor, " n"],
    importance: Float[Tensor, " n"],
    *,
    beta: float | int,
) -> Float[Tensor, ""]:
    """Return the loss of sampled responses from log(pi / pi_ref) of each, in nats over beta; its value is no objective.

    Raises ValueError for a paired method: a sampled response has no partner.
    """
    if method.unaligned_loss is None:
        raise ValueError(f"{method.name} compares the two responses of a pair; sampled responses have none")
    r = beta * log_ratios
    rows = torch.where(advantages > 0, method.aligned_loss(r), method.unaligned_loss(r))
    return (importance * advantages.abs() * rows).mean() / beta
