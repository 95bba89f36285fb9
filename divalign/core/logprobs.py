"""Hidden states and targets in, log-probabilities out.

Only tokens that are scored meet the head: a prompt's logits are never made. They are taken a chunk at a time, and with
gradients each chunk's logits are made again in the backward pass, so memory grows with tokens and not with tokens
times vocabulary.

The array of logits is the largest there is, and on a CPU a fresh one costs a quarter of the product that fills it: the
kernel hands out its pages one by one. A head that is a matrix and nothing else therefore writes into an array that is
kept from one batch to the next, turns it in place into what the backward pass needs, and multiplies from there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]
LOGITS_AT_ONCE = 1 << 26  # 256 MiB in float32: 2,097 tokens of a vocabulary of 32,000, 440 of one of 152,000
_IN_CACHE = 1 << 20  # logits that go through softmax together: 4 MiB, so that its three passes stay near the core
_spare: list[Tensor] = []  # the array of logits that the last backward pass gave back


class LinearHead(NamedTuple):
    """The head of most models: logits = scale * hidden @ weight.T."""

    weight: Float[Tensor, "v d"]
    scale: float = 1.0

    def __call__(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n v"]:
        return self.scale * hidden @ self.weight.T


def log_ratio(policy: Float[Tensor, "*n"], reference: Float[Tensor, "*m"], beta: float | int) -> Float[Tensor, "*n"]:
    """Return r = beta (log pi(y|x) - log pi_ref(y|x)) in nats, in the policy's dtype and on its device.

    Both are log-probabilities of whole responses, summed over tokens; r is 0 where the policy is its reference, and
    positive where it has made the response more likely. Raises ValueError for unequal shapes, which would broadcast.
    Source: Rafailov et al. 2023, arXiv 2305.18290, section 4 (the implicit reward).
    """
    if policy.shape != reference.shape:
        raise ValueError(
            f"got log-probabilities of shape {tuple(policy.shape)} (policy) and {tuple(reference.shape)} (reference); "
            "expected one of each for every response"
        )
    return beta * (policy - reference.to(policy))


def token_log_probs(
    hidden: Float[Tensor, "n d"], targets: Int[Tensor, " n"], head: Head, *, chunk: int = 1024
) -> Float[Tensor, " n"]:
    """Return log p(target) of each row, in nats, in float32 at least: log softmax(head(hidden))[target].

    `head` maps hidden states to logits, [n, d] to [n, v]. At most `chunk` rows of logits are alive at once.
    """
    if isinstance(head, LinearHead) and len(targets):
        return _linear(hidden, targets, head, chunk)
    chunk = max(1, chunk // 2)  # softmax makes a second array beside such a head's logits
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

    `hidden` holds the states that predict `targets`. A response without a token gives 0, the log-probability of an
    empty response.
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


class _LinearLogProbs(torch.autograd.Function):
    """log softmax(scale * hidden @ weight.T)[target], with the logits in an array that is used again.

    The slope of log p(target) against logit k is [k is target] - p_k. Its negative takes the logits' place while they
    are in cache; the gradients are two products with it, whose rows are weighted on the small side. Up to `chunk` rows
    it waits there for the backward pass; of more, the backward pass makes it again, a chunk at a time.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, chunk: int) -> Tensor:
        ctx.scale, ctx.chunk, ctx.table = scale, chunk, None
        ctx.again = len(targets) > chunk
        ctx.save_for_backward(hidden, weight, targets)
        if any(ctx.needs_input_grad) and not ctx.again:
            ctx.table = _borrowed(len(targets), len(weight), hidden)
            return _softmax_in_place(ctx.table, scale * hidden, weight, targets, slopes=True)
        rows = min(chunk, _block(hidden, len(weight)) * max(1, 256 // _block(hidden, len(weight))))
        table = _borrowed(min(rows, len(targets)), len(weight), hidden)
        parts = zip((scale * hidden).split(rows), targets.split(rows), strict=True)
        log_probs = [_softmax_in_place(table[: len(h)], h, weight, t, slopes=False) for h, t in parts]
        _give_back(table)
        return torch.cat(log_probs)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        if ctx.table is None and not ctx.again:
            raise RuntimeError("went backward twice through the same log-probabilities; make them again in between")
        hidden, weight, targets = ctx.saved_tensors
        slope = (-ctx.scale * grad_outputs[0])[:, None]
        table = ctx.table if ctx.table is not None else _borrowed(ctx.chunk, len(weight), hidden)
        to_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        to_weight: Tensor | None = None
        for start in range(0, len(targets), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            logits = table[: len(targets[part])]
            if ctx.again:
                _softmax_in_place(logits, ctx.scale * hidden[part], weight, targets[part], slopes=True)
            if to_hidden is not None:
                to_hidden[part] = torch.mm(logits, weight) * slope[part]
            if ctx.needs_input_grad[1]:
                weighted = (hidden[part] * slope[part]).to(weight.dtype)
                to_weight = _sum(to_weight, logits.T, weighted, several=ctx.again)
        ctx.table = None
        _give_back(table)
        return to_hidden, None if to_weight is None else to_weight.to(weight.dtype), None, None, None


def _softmax_in_place(table: Tensor, hidden: Tensor, weight: Tensor, targets: Tensor, *, slopes: bool) -> Tensor:
    """Fill `table` with logits and return log p(target) of each row; with `slopes`, leave p - [is target] there."""
    torch.mm(hidden, weight.T, out=table)
    exact, log_probs = torch.float64 if table.dtype == torch.float64 else torch.float32, []
    rows = _block(table, len(weight))
    for block, target in zip(table.split(rows), targets[:, None].split(rows), strict=True):
        logs = block.to(exact).log_softmax(1)
        log_probs.append(logs.gather(1, target))
        if slopes:
            torch.exp(logs, out=block).scatter_(1, target, torch.expm1(log_probs[-1]).to(block.dtype))
    return torch.cat(log_probs).squeeze(1)


def _sum(total: Tensor | None, left: Tensor, right: Tensor, *, several: bool) -> Tensor:
    """Return total + left @ right. Of several products in half precision the sum is kept in float32."""
    if total is None:
        first = torch.mm(left, right)
        return first.to(torch.promote_types(first.dtype, torch.float32)) if several else first
    return total.addmm_(left, right) if total.dtype == left.dtype else total.add_(torch.mm(left, right))


def _block(like: Tensor, size: int) -> int:
    """Return how many rows of logits go through softmax together: what a core's cache holds, or on others all."""
    return max(1, _IN_CACHE // size) if like.device.type == "cpu" else max(1, len(like))


def _borrowed(rows: int, size: int, like: Tensor) -> Tensor:
    """Return an array [rows, size] with anything in it. Accelerators keep what is freed; on a CPU we do."""
    if like.device.type == "cpu" and _spare and _spare[0].dtype == like.dtype and _spare[0].numel() >= rows * size:
        return _spare.pop()[: rows * size].view(rows, size)
    return like.new_empty(rows, size)


def _give_back(table: Tensor) -> None:
    if table.device.type == "cpu" and not table.is_inference():
        whole = table.new_empty(0).set_(table.untyped_storage())
        _spare[:] = [max([*_spare, whole], key=lambda array: array.numel() * array.element_size())]


def _linear(hidden: Tensor, targets: Tensor, head: LinearHead, chunk: int) -> Tensor:
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    with torch.autocast(kind, enabled=False):
        scored: Any = _LinearLogProbs.apply(hidden.to(dtype), head.weight.to(dtype), targets, head.scale, chunk)
    return scored


def _log_probs(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    logits: Any = head(hidden)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return _LogProbs.apply(logits, targets)  # type: ignore[no-any-return]
