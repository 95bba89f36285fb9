"""The decoding loop: left-padded batches with a KV cache that refill as their rows end.

A batch is an immutable value: rows, their KV cache, the attention mask, and the logits after each last token. Four
small operations make the loop: start, step, select and join. When memory runs out, the batch is dropped and its rows
start again from what they have generated so far, in batches of half the size, which double again later.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from divalign.core.precision import in_widest
from divalign.data.batching import pad_left
from divalign.lm.backbone import refuse_prefix
from divalign.lm.kv_cache import GrowingLayer, growing_cache
from divalign.lm.memory import halved, out_of_memory, release
from divalign.lm.prefix import Prefixes

PREFILL_TOKENS = 256


@dataclass
class Row:
    """One conversation and its response so far. `uniforms` chooses its tokens, None for the likeliest each time.

    `end` is the token that ended it, None where it was cut at its limit. `log_prob`, in nats, sums what its sampled
    tokens had under the sampling distribution, the end's included.
    """

    index: int
    prompt: list[int]
    limit: int
    uniforms: np.ndarray | None = None
    response: list[int] = field(default_factory=list)
    ended: bool = False
    end: int | None = None
    log_prob: float = 0.0

    @property
    def tokens(self) -> list[int]:
        return self.prompt + self.response


class Network(NamedTuple):
    """A model, the keyword arguments of its forward, and whether its KV caches can be padded and joined."""

    model: Any
    accepts: frozenset[str]
    mergeable: bool


class Batch(NamedTuple):
    rows: list[Row]
    cache: Any
    mask: Int[Tensor, "b s"]
    logits: Float[Tensor, "b v"]


def decode(net: Network, rows: Sequence[Row], *, ends: set[int], size: int, temperature: float) -> Iterator[Row]:
    """Generate every row's response, and yield each row as it ends.

    Raises MemoryError where not even one row alone fits.
    """
    largest, calm = size, 0
    waiting = sorted(rows, key=lambda row: (-len(row.prompt), row.index))
    batch: Batch | None = None
    prefixes = _prefixes(net)
    while waiting or batch:
        running = batch.rows if batch else []
        joining = _joining(net, waiting, len(running), size)
        try:
            batch = _advance(
                net, batch, [_start(net, part, prefixes) for part in _similar_lengths(joining)], ends, temperature
            )
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            size = halved(len(running) + len(joining), error)
            lost = True
        else:
            lost = False
        if lost:  # outside the except block, whose traceback refers to the tensors
            batch, prefixes, calm = None, _prefixes(net), 0
            waiting = [row for row in running + waiting if not row.ended]
            release()
        else:
            joined = {row.index for row in joining}
            waiting = [row for row in waiting if row.index not in joined]
        ended = [row for row in running + joining if row.ended]
        yield from ended
        calm += len(ended)
        if calm >= 2 * size:
            size, calm = min(largest, 2 * size), 0


def _advance(
    net: Network, batch: Batch | None, joining: Sequence[Batch], ends: set[int], temperature: float
) -> Batch | None:
    """Add the batches that join, generate one token for every row, and go on with the rows that have not ended."""
    batch = reduce(_join, [*([batch] if batch else []), *joining])
    for row, (token, log_prob) in zip(batch.rows, _choose(batch, temperature), strict=True):
        row.log_prob += log_prob
        if token in ends:
            row.ended, row.end = True, token
        else:
            row.response.append(token)
            row.ended = len(row.response) >= row.limit
    remaining = [index for index, row in enumerate(batch.rows) if not row.ended]
    if not remaining:
        return None
    return _step(net, _select(batch, remaining) if len(remaining) < len(batch.rows) else batch)


def _similar_lengths(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the rows in parts to be prefilled one after the other, so that little of the work is padding.

    Each part has at least PREFILL_TOKENS, since small products use the hardware badly: of 32 prompts of 31 to 56
    tokens in one part, 18 % of the prefill would be padding.
    """
    parts: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: -len(row.tokens)):
        longest = len(parts[-1][0].tokens) if parts else 0
        if parts and (longest * len(parts[-1]) < PREFILL_TOKENS or len(row.tokens) > 0.9 * longest):
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def _prefixes(net: Network) -> Prefixes | None:
    """Return the prefixes that a model's batches share; None for one whose cache is no list of keys and values."""
    options = {"logits_to_keep": 1} if "logits_to_keep" in net.accepts else {}
    return Prefixes(net.model, **options) if net.mergeable and "position_ids" in net.accepts else None


def _start(net: Network, rows: Sequence[Row], prefixes: Prefixes | None) -> Batch:
    prefilled = prefixes.prefilled([row.tokens for row in rows]) if prefixes else None
    if prefilled:
        return Batch(list(rows), prefilled.cache, prefilled.mask, _logits(net, *prefilled))
    device = net.model.device
    tokens = pad_left([row.tokens for row in rows], 0).to(device)
    mask = pad_left([[1] * len(row.tokens) for row in rows], 0).to(device)
    cache = growing_cache() if net.mergeable else DynamicCache(config=net.model.config)
    return Batch(list(rows), cache, mask, _logits(net, tokens, mask, cache))


def _step(net: Network, batch: Batch) -> Batch:
    tokens = torch.tensor([[row.response[-1]] for row in batch.rows], device=batch.mask.device)
    mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch.rows), 1)], dim=1)
    return batch._replace(mask=mask, logits=_logits(net, tokens, mask, batch.cache))


def _select(batch: Batch, indices: Sequence[int]) -> Batch:
    """Return the batch of the rows at `indices`, without the columns that are padding in all of them."""
    chosen = torch.tensor(indices, device=batch.mask.device)
    mask, cache = batch.mask[chosen], batch.cache
    if all(type(layer) is GrowingLayer for layer in cache.layers):
        first = int(mask.any(dim=0).int().argmax())
        cache = growing_cache([(x.keys[chosen, :, first:], x.values[chosen, :, first:]) for x in cache.layers])
        mask = mask[:, first:]
    else:
        cache.reorder_cache(chosen)
    return Batch([batch.rows[index] for index in indices], cache, mask, batch.logits[chosen])


def _join(a: Batch, b: Batch) -> Batch:
    """Return both batches as one, the shorter padded on the left."""
    width = max(a.mask.shape[1], b.mask.shape[1])

    def widened(part: Tensor, dim: int) -> Tensor:
        shape = list(part.shape)
        shape[dim] = width - shape[dim]
        return torch.cat([part.new_zeros(shape), part], dim=dim)

    pairs = [
        tuple(torch.cat([widened(x, -2), widened(y, -2)]) for x, y in ((p.keys, q.keys), (p.values, q.values)))
        for p, q in zip(a.cache.layers, b.cache.layers, strict=True)
    ]
    mask = torch.cat([widened(a.mask, 1), widened(b.mask, 1)])
    return Batch(a.rows + b.rows, growing_cache(pairs), mask, torch.cat([a.logits, b.logits]))


def _choose(batch: Batch, temperature: float) -> list[tuple[int, float]]:
    """Return the next token of every row: the likeliest, or the one its own uniform number falls on, and its log p.

    One number per token, inverted through the cumulative probabilities, so that a row's tokens depend on its own
    numbers alone and not on the other rows of the batch, unless rounding moves a boundary across the number. A greedy
    choice has log p = 0: it is certain.
    """
    if not temperature:
        on_cpu = batch.logits.device.type == "cpu"
        likeliest = (batch.logits.float().numpy() if on_cpu else batch.logits).argmax(-1)
        tokens = torch.as_tensor(likeliest, device=batch.logits.device)
        _check_finite(batch.rows, batch.logits.gather(1, tokens[:, None])[:, 0])  # not a number is the largest of all
        return [(token, 0.0) for token in tokens.tolist()]
    uniforms = [row.uniforms[len(row.response)] for row in batch.rows if row.uniforms is not None]
    probabilities = (in_widest(batch.logits) / temperature).softmax(dim=-1)
    cumulative = probabilities.cumsum(dim=-1)
    total = cumulative[:, -1:]
    quantiles = torch.tensor(uniforms, dtype=total.dtype, device=total.device)[:, None] * total
    # Below the total, to which rounding may lift it, so that the number falls on a token that has a probability.
    quantiles = torch.minimum(quantiles, total * (1 - torch.finfo(total.dtype).eps))
    _check_finite(batch.rows, cumulative[:, -1])
    tokens = torch.searchsorted(cumulative, quantiles, right=True).clamp(max=cumulative.shape[1] - 1)
    log_probs = probabilities.gather(1, tokens).log()[:, 0].tolist()
    return list(zip(tokens[:, 0].tolist(), log_probs, strict=True))


def _check_finite(rows: Sequence[Row], values: Float[Tensor, " b"]) -> None:
    bad = (~values.isfinite()).nonzero()
    if len(bad):
        raise ValueError(
            f"conversation {rows[int(bad[0, 0])].index}: the model's logits are not finite; its weights are damaged or "
            "overflow in this precision: load it in bfloat16 or float32"
        )


def _logits(net: Network, tokens: Int[Tensor, "b t"], mask: Int[Tensor, "b s"], cache: Any) -> Float[Tensor, "b v"]:
    """Return the logits of the last of `tokens`, and update the cache. Position ids count unpadded tokens only."""
    options: dict[str, Any] = {"past_key_values" if "past_key_values" in net.accepts else "cache_params": cache}
    if "position_ids" in net.accepts:
        options["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
    if "logits_to_keep" in net.accepts:
        options["logits_to_keep"] = 1
    return net.model(input_ids=tokens, attention_mask=mask, use_cache=True, **options).logits[:, -1]


def network(model: Any) -> Network:
    """Return the model with the arguments of its forward; an adapter's wrapper passes them on to the model inside.

    KV caches can be joined where a model's state is keys and values alone (a recurrent state cannot be padded on the
    left). Then every layer caches the whole past, sliding windows included, since their masks limit the attention.

    Raises ValueError for a model without a cache, and for an adapter that puts states of its own into it.
    """
    refuse_prefix(model)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    accepts = frozenset(inspect.signature(inner.forward).parameters)
    if not accepts & {"past_key_values", "cache_params"}:
        raise ValueError(
            f"{type(inner).__name__} keeps no cache of the past (KV cache), which decoding needs: its forward takes "
            "neither past_key_values nor cache_params; use another model"
        )
    return Network(model, accepts, keeps_keys_and_values(model))


def keeps_keys_and_values(model: Any) -> bool:
    """Tell whether a model's state is keys and values alone."""
    layers = DynamicCache(config=model.config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def _joining(net: Network, waiting: Sequence[Row], running: int, size: int) -> list[Row]:
    """Return the rows that join now: none until a quarter of the batch is free, since joining copies the KV cache."""
    free = size - running
    if running and (free < max(1, size // 4) or not net.mergeable):
        return []
    if net.mergeable or not waiting:
        return list(waiting[:free])
    # Left padding changes a recurrent state (Mamba generated other text), so only rows of one length share a batch.
    length = len(waiting[0].tokens)
    return [row for row in waiting if len(row.tokens) == length][:free]


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode (no dropout) inside; afterwards every module is in its own mode again, frozen parts included."""
    modes: list[tuple[Any, Any]] = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
