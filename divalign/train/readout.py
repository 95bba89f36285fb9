"""What training says of itself: rewards under TRL's names, and held-out divergences with their lower ends."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from divalign.core.divergences import DIVERGENCES
from divalign.core.losses import LogRatios, Method

HEADLINES = ("js", "tv", "hellinger", "lecam")  # bounded: an unbounded one measures budget on separable data


def reward_metrics(ratios: LogRatios) -> dict[str, float]:
    """Return the rewards of both classes, their margin, how often aligned beats unaligned, and the sample behind e^r.

    `rewards/accuracies` is the share of (aligned, unaligned) couples in the right order, ties counted half: the area
    under the ROC curve of r, which needs no pairs. `divergence/ess` is the effective number of unaligned rows under
    the weights e^r: near 1, a single row decides KLDO's log-mean-exp.
    """
    aligned, unaligned = ratios.aligned.double(), ratios.unaligned.double()
    return {
        "rewards/chosen": aligned.mean().item(),
        "rewards/rejected": unaligned.mean().item(),
        "rewards/margins": (aligned.mean() - unaligned.mean()).item(),
        "rewards/accuracies": auc(aligned, unaligned),
        "divergence/ess": effective_sample_size(unaligned),
    }


def held_out_metrics(
    method: Method,
    ratios: LogRatios,
    aligned_clusters: Sequence[str],
    unaligned_clusters: Sequence[str],
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Return the loss, the rewards and the divergences' lower bounds on held-out rows, in nats."""
    bounds = {f"divergence/{name}": float(DIVERGENCES[name].bound(*ratios[:2])) for name in HEADLINES}
    return {"loss": method.loss(ratios).item(), **reward_metrics(ratios), **bounds}


def auc(high: Float[Tensor, " n"], low: Float[Tensor, " m"]) -> float:
    """Return P(high > low) + P(high = low) / 2 over all couples, by ranks: no n x m table."""
    values = torch.cat([high, low])
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[inverse]  # ties share the mean of their ranks, from 1
    n, m = len(high), len(low)
    return ((ranks[:n].sum() - n * (n + 1) / 2) / (n * m)).item()


def effective_sample_size(log_weights: Float[Tensor, " n"]) -> float:
    """Return (sum w)^2 / sum w^2 of weights given in log space: n when all are equal, 1 when one dominates."""
    return torch.exp(2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).item()
