"""Hidden states and targets in, log-probabilities out.

Only tokens that are scored meet the head: a prompt's logits are never made. They are taken a chunk at a time, and with
gradients each chunk's logits are made again in the backward pass, so memory grows with tokens and not with tokens
times vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]
LOGITS_AT_ONCE = 1 << 25  # 128 MiB in float32: 1,048 tokens of a vocabulary of 32,000, 220 of one of 152,000


def token_log_probs(
    hidden: Float[Tensor, "n d"], targets: Int[Tensor, " n"], head: Head, *, chunk: int = 1024
) -> Float[Tensor, " n"]:
    """Return log p(target) of each row, in nats, in float32 at least: log softmax(head(hidden))[target].

    `head` maps hidden states to logits, [n, d] to [n, v]. At most `chunk` rows of logits are alive at once.
    """
    if len(targets) <= chunk:
        return _log_probs(hidden, targets, head)
    parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    return torch.cat([checkpoint(_log_probs, h, t, head, use_reentrant=False) for h, t in parts])


def response_log_probs(
    hidden: Float[Tensor, "n d"],
    targets: Int[Tensor, " n"],
    owners: Int[Tensor, " n"],
    responses: int,
    head: Head,
    *,
    chunk: int = 1024,
) -> Float[Tensor, " b"]:
    """Return the log-probability of each response: the sum over the tokens it owns, in nats.

    `hidden` holds the states that predict `targets`. A response without a token gives 0, the log-probability of saying
    nothing.
    """
    scored = token_log_probs(hidden, targets, head, chunk=chunk)
    return torch.zeros(responses, dtype=scored.dtype, device=scored.device).index_add(0, owners, scored)


class _LogProbs(torch.autograd.Function):
    """log softmax(logits)[target] in one pass over the logits and a backward of two; autograd's own takes eight."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        table = logits.log_softmax(1)
        ctx.save_for_backward(table, targets)
        return table.gather(1, targets[:, None]).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        table, targets = ctx.saved_tensors
        slope = grad_outputs[0][:, None]
        return table.exp_().mul_(-slope).scatter_add_(1, targets[:, None], slope), None


def _log_probs(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    logits: Any = head(hidden)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return _LogProbs.apply(logits, targets)  # type: ignore[no-any-return]
