"""Conversations in, responses out: greedy or sampled, in batches, the same for every batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from divalign.data.batching import Encoded, encode_conversation
from divalign.data.examples import Conversation
from divalign.lm.decoding import Row, decode, evaluating, network
from divalign.store import digest


def generate(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 64,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_response: Callable[[int, str], None] | None = None,
) -> list[str]:
    """Return what the model writes after each conversation and its prefill, in the order given.

    At temperature 0 the likeliest token each time, else a draw from softmax(logits / temperature); without the
    penalties and cuts that a checkpoint's own generation configuration may ask for. A response ends at any
    end-of-sequence token of that configuration or of the tokenizer, at `max_new_tokens`, or at the end of the model's
    context. Special tokens are removed. `seeds` holds one whole number per conversation (0 for all by default): equal
    conversations with equal seeds get equal responses, so give repeats different ones.

    `on_progress` gets the numbers of finished and of all conversations; `on_response` gets each index and text as soon
    as it is finished, so that a caller can save it. When memory runs out, batches halve, and grow back later.

    Neither the batch size nor the company in a batch changes a response, up to float rounding: a matrix product of
    another shape may round its last bit otherwise, and what was almost a tie between two tokens then falls the other
    way. In float32 that is rare; in bfloat16 expect it in a few responses of a hundred.

    Raises ValueError for sizes under 1, a negative temperature, another number of seeds than of conversations, a
    conversation that fills the context alone, and a model without a cache; MemoryError where a single one is too large.
    """
    texts, done = [""] * len(conversations), 0
    sizes = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "temperature": temperature}
    for row in _decoded(model, tokenizer, conversations, seeds=seeds, **sizes):
        texts[row.index], done = _written(tokenizer, row.prompt, row.written), done + 1
        if on_response is not None:
            on_response(row.index, texts[row.index])
        if on_progress is not None:
            on_progress(done, len(texts))
    return texts


def sample(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 64,
    seeds: Sequence[int] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[Encoded]:
    """Return draws from the model's own law as tokens, each with the token that ended it, in the order given.

    The law is that of responses cut at `max_new_tokens`: its log-probability is the sum over the tokens returned, so
    `sequence_log_probs` scores exactly what was drawn, where text would be tokenised anew. Raises what `generate` does.
    """
    drawn: list[Encoded] = [Encoded([], [])] * len(conversations)
    sizes = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "temperature": 1.0}
    for row in _decoded(model, tokenizer, conversations, seeds=seeds, **sizes):
        drawn[row.index] = Encoded(row.prompt, row.written if row.end is None else [*row.written, row.end])
        if on_progress is not None:
            on_progress(1)
    return drawn


def _decoded(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int,
    batch_size: int,
    temperature: float,
    seeds: Sequence[int] | None,
) -> Iterator[Row]:
    """Yield every conversation's row as it ends."""
    if max_new_tokens < 1 or batch_size < 1 or temperature < 0:
        raise ValueError(
            f"got max_new_tokens={max_new_tokens}, batch_size={batch_size}, temperature={temperature}; "
            "the first two must be at least 1, the last at least 0"
        )
    prompts = [encode_conversation(tokenizer, conversation) for conversation in conversations]
    limits = _limits(model, prompts, max_new_tokens)
    draws = _draws(prompts, limits, seeds) if temperature else [None] * len(prompts)
    rows = [Row(*parts) for parts in zip(range(len(prompts)), prompts, limits, draws, strict=True)]
    ends, net = _end_tokens(model, tokenizer), network(model)
    with evaluating(model), torch.no_grad():
        yield from decode(net, rows, ends=ends, size=batch_size, temperature=temperature)


def _limits(model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[int]:
    """Return how many tokens each response may have."""
    context = _context(model)
    for index, prompt in enumerate(prompts):
        if len(prompt) >= context:
            raise ValueError(
                f"conversation {index} is {len(prompt)} tokens long and the model's context is {context}: "
                "nothing can be written after it; shorten it, leave it out or use another attack"
            )
    return [min(max_new_tokens, context - len(prompt)) for prompt in prompts]


def _draws(prompts: Sequence[Sequence[int]], limits: Sequence[int], seeds: Sequence[int] | None) -> list[np.ndarray]:
    """Return each row's uniform numbers, from its own prompt and seed alone."""
    seeds = [0] * len(prompts) if seeds is None else seeds
    if len(seeds) != len(prompts):
        raise ValueError(f"got {len(seeds)} seeds for {len(prompts)} conversations; give one each, or none at all")
    return [
        np.random.default_rng(int(digest(seed, list(prompt)), 16)).random(limit)
        for prompt, limit, seed in zip(prompts, limits, seeds, strict=True)
    ]


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
