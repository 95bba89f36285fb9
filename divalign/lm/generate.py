"""Conversations in, responses out: greedy decoding in length-sorted, left-padded batches with a key-value cache."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache

from divalign.data.batching import by_length, encode_conversation, pad_left
from divalign.data.examples import Conversation


def generate(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 64,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Return what the model writes after each conversation and its prefill, in the order given.

    Greedy: the likeliest token each time, without the penalties and temperatures a checkpoint's own generation
    configuration may ask for. A response ends at any end-of-sequence token of that configuration or of the tokenizer,
    at `max_new_tokens`, or at the end of the model's context. Special tokens are removed. `on_progress` gets the
    numbers of finished and of all conversations.

    The batch a conversation travels in does not change its response, up to float rounding: a matrix product of another
    shape may round its last bit otherwise, and a tie between two tokens then falls the other way. In float32 that is
    rare; in bfloat16 expect it in a few responses of a hundred.

    Raises ValueError for sizes under 1 and for a conversation that fills the context alone.
    """
    if max_new_tokens < 1 or batch_size < 1:
        raise ValueError(f"got max_new_tokens={max_new_tokens}, batch_size={batch_size}; both must be at least 1")
    prompts = [encode_conversation(tokenizer, conversation) for conversation in conversations]
    limit = _context(model)
    for index, prompt in enumerate(prompts):
        if len(prompt) >= limit:
            raise ValueError(
                f"conversation {index} is {len(prompt)} tokens long and the model's context is {limit}: "
                "nothing can be written after it; shorten it, leave it out or use another attack"
            )
    ends = _end_tokens(model, tokenizer)
    texts = [""] * len(prompts)
    done = 0
    with _evaluating(model), torch.no_grad():
        for batch in by_length([len(prompt) for prompt in prompts], batch_size):
            steps = min(max_new_tokens, limit - len(prompts[batch[0]]))
            for index, tokens in zip(batch, _greedy(model, [prompts[i] for i in batch], ends, steps), strict=True):
                texts[index] = _written(tokenizer, prompts[index], tokens)
            done += len(batch)
            if on_progress is not None:
                on_progress(done, len(prompts))
    return texts


def _greedy(model: Any, prompts: Sequence[Sequence[int]], ends: set[int], steps: int) -> list[list[int]]:
    """Continue every prompt until an end token or `steps`; a row that has ended leaves the batch."""
    device = model.device
    tokens = pad_left(prompts, 0).to(device)
    mask = pad_left([[1] * len(prompt) for prompt in prompts], 0).to(device)
    written: list[list[int]] = [[] for _ in prompts]
    running = list(range(len(prompts)))
    cache = DynamicCache()
    for _ in range(steps):
        chosen = _logits(model, tokens, mask, cache).argmax(dim=-1)
        keep = []
        for row, token in enumerate(chosen.tolist()):
            if token not in ends:
                written[running[row]].append(token)
                keep.append(row)
        if not keep:
            break
        if len(keep) < len(running):
            running = [running[row] for row in keep]
            kept = torch.tensor(keep, device=device)
            cache.batch_select_indices(kept)
            chosen, mask = chosen[kept], mask[kept]
        tokens = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(len(running), 1)], dim=1)
    return written


def _logits(model: Any, tokens: Int[Tensor, "b t"], mask: Int[Tensor, "b s"], cache: Any) -> Tensor:
    """Return the logits after the last of `tokens`. Positions count the unpadded tokens only."""
    options: dict[str, Any] = {}
    if "position_ids" in _accepted(model):
        options["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
    if "logits_to_keep" in _accepted(model):
        options["logits_to_keep"] = 1
    return model(input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=True, **options).logits[:, -1]


def _accepted(model: Any) -> set[str]:
    """Return the names the model's forward takes; an adapter's wrapper passes everything on to the model inside."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return set(inspect.signature(inner.forward).parameters)


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Return every token id that ends a response, by the model's generation configuration and by the tokenizer."""
    named = [getattr(getattr(model, "generation_config", None), "eos_token_id", None), tokenizer.eos_token_id]
    return {token for ids in named if ids is not None for token in (ids if isinstance(ids, list) else [ids])}


def _context(model: Any) -> int:
    """Return the longest sequence the model was made for; a model that names none has no limit here."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    return getattr(config, "max_position_embeddings", None) or 1 << 30


def _written(tokenizer: Any, prompt: Sequence[int], tokens: Sequence[int]) -> str:
    """Return the text of `tokens` as it stands after `prompt`.

    Decoded alone, a SentencePiece token at the start loses its leading space, and "Sure, here is" would be followed
    by "a plan" instead of " a plan".
    """
    before = tokenizer.decode(list(prompt), skip_special_tokens=True)
    whole = tokenizer.decode([*prompt, *tokens], skip_special_tokens=True)
    if whole.startswith(before):
        return whole[len(before) :]
    return tokenizer.decode(list(tokens), skip_special_tokens=True)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Switch dropout off, and give every module back the mode it had: a frozen part may differ from the rest."""
    modes: list[tuple[Any, Any]] = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
