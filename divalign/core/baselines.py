"""Baselines of alignment losses: the number taken off r before score and penalty, from the rows of a step.

Any number, or any function of the prompt, leaves the bound intact. A method's own baseline is a function of the step's
log-ratios; over steps it may be averaged.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class LogRatios(NamedTuple):
    """r = beta log(pi / pi_ref) of whole responses, in nats.

    For a paired method row i of both belongs to pair i. `mismatched` holds r whose mean is beta KL(pi, pi_ref): of
    prompts with another prompt's response and without gradient, as TRL estimates it, or of the policy's own responses.
    Only kto's baseline reads it.
    """

    aligned: Float[Tensor, " a"]
    unaligned: Float[Tensor, " u"]
    mismatched: Float[Tensor, " m"] | None = None


class RowBaselines(NamedTuple):
    """One baseline per row, as a learned head on the prompt gives; gradients flow into it.

    The loss reads r - baseline, so the head b that closes the gap of a normalised policy, in the critic r + b, is minus
    this: b(x) = beta log E_ref[R^(1/beta) | x].
    """

    aligned: Float[Tensor, " a"]
    unaligned: Float[Tensor, " u"]


Baseline = float | int | Float[Tensor, ""] | RowBaselines


def critic(ratios: LogRatios, baseline: Baseline) -> LogRatios:
    """Return T = r - baseline, which losses and bounds read."""
    if isinstance(baseline, RowBaselines):
        return LogRatios(ratios.aligned - baseline.aligned, ratios.unaligned - baseline.unaligned)
    return LogRatios(ratios.aligned - baseline, ratios.unaligned - baseline)


def no_baseline(ratios: LogRatios) -> Tensor:
    return ratios.aligned.new_zeros(())


def linear(previous: Tensor, new: Tensor, rate: float) -> Tensor:
    return (1 - rate) * previous + rate * new


def log_linear(previous: Tensor, new: Tensor, rate: float) -> Tensor:
    """The same average of the exponentials, in log space: no overflow for large rewards."""
    return torch.logaddexp(previous + math.log1p(-rate), new + math.log(rate)) if rate < 1 else new


def log_mean_exp(rows: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Log of the mean of e^r; in expectation too low by about Var(e^r) / (2 n (E e^r)^2)."""
    return torch.logsumexp(rows, 0) - math.log(len(rows))


def log_mean_exp_unaligned(ratios: LogRatios) -> Tensor:
    return log_mean_exp(ratios.unaligned)


def mean_reward(ratios: LogRatios) -> Tensor:
    """The mean over both classes, each with half the weight whatever its share of the rows."""
    return (ratios.aligned.mean() + ratios.unaligned.mean()) / 2


def policy_kl(ratios: LogRatios) -> Tensor:
    """Beta KL(pi, pi_ref), not below 0: the mean r of mismatched rows, else of the rows at hand.

    The rows at hand were not drawn from the policy either, so that is a rough stand-in: the mean reward, clamped. It
    keeps what matters to kto, a number that follows the policy and that no single row decides.
    """
    rows = mean_reward(ratios) if ratios.mismatched is None else ratios.mismatched.mean()
    return rows.clamp(min=0.0)
