"""The losses that the code released with arXiv 2502.00657 computes where they differ from the paper's formulas.

For study: `variant="paper_code"` of the trainer reproduces a published run's objective. What is reproduced:

* **kldo, gradient**: e^r of the unaligned rows is divided by a moving average of mean e^r (rate 0.1) instead of the
  batch's own mean, as in MINE; the value shown stays the batch's log-mean-exp.
* **kldo, guard**: 1e-6 is added to that average, so unaligned rows lose their gradient once the average is below it
  (r below about -14).
* **kldo, `normalize`**: on by default; the unaligned term is multiplied by min(A, U) / (U + 1e-9), see below.
* **kldo, average**: forgotten at the start of every epoch.
* **bco, baseline**: the moving average is updated with itself and stays at the epoch's first mean reward that is not 0.
* **both**: every micro-batch of every process is on its own. The mean over micro-batches of a log-mean-exp is not the
  log-mean-exp of the update, and is lower.

What is not reproduced: sums over rows where we average classes (bco; another learning rate), updates of the averages by
evaluation batches, statistics of a batch that lacks a class (our batches have both), the learning rate that never
decays, clipping at every micro-batch, the same batches every epoch, and parameters and optimiser states in bfloat16.
kto, dpo and hdo are computed there as in the paper, up to sums for means.

The released trainers keep averages as attributes; here the average is passed in and comes back, and None stands for the
start of an epoch.
Source: github.com/rhaldarpurdue/KLDO, train/trainers.py at 526c247; behaviour restated, no code copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from divalign.core.baselines import LogRatios, log_mean_exp
from divalign.core.losses import METHODS

_BELOW_THE_AVERAGE = 1e-6  # the released code's guard; it silences unaligned rows once the average is below it
_BELOW_THE_NORMALISER = 1e-9


class PaperStep(NamedTuple):
    """The loss of one micro-batch, and the average to hand to the next."""

    loss: Float[Tensor, ""]
    average: Float[Tensor, ""]


def kldo_paper_code(
    ratios: LogRatios, average: Float[Tensor, ""] | None = None, *, rate: float = 0.1, normalize: bool = True
) -> PaperStep:
    """KLDO as released: the value is log-mean-exp of the micro-batch, its gradient divides by a moving mean of e^r.

    `normalize`, on by default there, multiplies the unaligned term by min(A, U) / (U + 1e-9), with A the mean aligned r
    and U the unaligned term. So at the start (A = U = 0) unaligned rows are ignored, and while A < 0 < U the factor is
    negative: the rejected responses are made more likely. Off, and with rate 1, the gradient is Donsker-Varadhan's.
    """
    present = log_mean_exp(ratios.unaligned).exp().detach()
    average = present if average is None else rate * present + (1 - rate) * average
    pull = (ratios.unaligned.exp() / (average + _BELOW_THE_AVERAGE)).mean()
    unaligned = log_mean_exp(ratios.unaligned).detach() + pull - pull.detach()
    aligned = ratios.aligned.mean()
    if normalize:
        value = unaligned.detach()
        unaligned = unaligned * aligned.detach().minimum(value) / (value + _BELOW_THE_NORMALISER)
    return PaperStep(unaligned - aligned, average)


def bco_paper_code(ratios: LogRatios, average: Float[Tensor, ""] | None = None) -> PaperStep:
    """BCO as released: its moving average is updated with itself, so it stays at the first mean reward that is not 0.

    A policy starts at its reference, so that first value is near 0, and the published BCO is close to no baseline.
    """
    if average is None or not average:
        average = METHODS["bco"].baseline(ratios)
    return PaperStep(METHODS["bco"].loss(ratios, average), average)


PAPER_CODE: dict[str, Callable[..., PaperStep]] = {"kldo": kldo_paper_code, "bco": bco_paper_code}
