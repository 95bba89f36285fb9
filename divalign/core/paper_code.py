"""What the code released with arXiv 2502.00657 does where it departs from the paper: for study only.

Not methods to train with. The released trainers keep averages as attributes; here the average is passed in and comes
back, and None stands for the start of an epoch, where that code forgets it. Class means replace that code's sums.
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


PAPER_CODE: dict[str, Callable[..., PaperStep]] = {
    "kldo_paper_code": kldo_paper_code,
    "bco_paper_code": bco_paper_code,
}
