"""Statistics of a whole optimizer step that a loss needs before its first micro-batch: the baseline and counts.

With the baseline of the whole step, the mean of the micro-batch losses has the value and the gradient of one large
batch, KLDO's log-mean-exp included (THEORY.md, "Log-mean-exp, exactly"). The price is one forward without gradients
over the step, paid only where a step has more than one micro-batch or rank and the method has a baseline at all. The
anchor on the aligned responses needs the step's number of tokens, which takes no forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from divalign.core.losses import LogRatios

Gather = Callable[[Tensor], Tensor]


class Step(NamedTuple):
    """An optimizer step: its baseline (None: each micro-batch takes its own) and the means over its micro-batches.

    `mean_size` counts couples, `mean_tokens` the tokens of aligned responses and `mean_unaligned_tokens` those of the
    others, over all micro-batches and ranks.
    """

    baseline: Float[Tensor, ""] | None
    mean_size: float
    mean_tokens: float
    mean_unaligned_tokens: float = 0.0

    def weight(self, size: int) -> float:
        """Return the factor that makes a mean over micro-batches a mean over the step's rows, also for a short one."""
        return size / self.mean_size


class ResponseTokens(NamedTuple):
    """The scored tokens of each response of a micro-batch, by class."""

    aligned: Int[Tensor, " a"]
    unaligned: Int[Tensor, " u"]


def response_tokens(inputs: dict[str, Any]) -> ResponseTokens:
    """Return the scored tokens of each response that counts; aligned rows stand above the unaligned ones."""
    tokens = torch.bincount(inputs["owners"], minlength=int(inputs["responses"]))
    return ResponseTokens(*(side[: inputs["couples"]] for side in tokens.chunk(2)))


def whole_ratios(parts: list[LogRatios], gather: Gather) -> LogRatios:
    """Return the log-ratios of an optimizer step from its micro-batches; `gather` adds the other ranks' rows."""
    return LogRatios(gather(torch.cat([p.aligned for p in parts])), gather(torch.cat([p.unaligned for p in parts])))
