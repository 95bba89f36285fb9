"""Hidden states and labels in, log-probabilities of responses out.

Only response tokens meet the head: a prompt's logits are never made. The rows are taken a chunk at a time, and with
gradients each chunk's logits are made again in the backward pass, so memory grows with tokens and not with tokens
times vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

IGNORED = -100  # the label of a token that is not scored: prompt and padding
Head = Callable[[Tensor], Tensor]


def token_log_probs(
    hidden: Float[Tensor, "n d"], targets: Int[Tensor, " n"], head: Head, *, chunk: int = 1024
) -> Float[Tensor, " n"]:
    """Return log p(target) of each row, in nats and float32: log softmax(head(hidden))[target].

    `head` maps hidden states to logits, [n, d] to [n, v]. At most `chunk` rows of logits are alive at once.
    """
    if len(targets) <= chunk:
        return _log_probs(hidden, targets, head)
    parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    return torch.cat([checkpoint(_log_probs, h, t, head, use_reentrant=False) for h, t in parts])


def response_log_probs(
    hidden: Float[Tensor, "b t d"], labels: Int[Tensor, "b t"], head: Head, *, chunk: int = 1024
) -> Float[Tensor, " b"]:
    """Return the log-probability of each row's response: the sum over its labelled tokens, in nats and float32.

    The hidden state at position i predicts the label at i + 1; `IGNORED` labels are not scored. A row without a
    label gives 0, the log-probability of saying nothing.
    """
    rows, columns = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    scored = token_log_probs(hidden[rows, columns], labels[rows, columns + 1], head, chunk=chunk)
    return torch.zeros(len(labels), dtype=scored.dtype, device=scored.device).index_add(0, rows, scored)


def _log_probs(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    logits = head(hidden).float()
    return logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(1)
