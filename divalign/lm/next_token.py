"""Log-probabilities of the next token: of a few given ones, for judges that grade, and of the whole vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from divalign.core.precision import in_widest
from divalign.data.batching import by_length, encode_conversation, pad_left
from divalign.data.examples import Conversation
from divalign.lm.decoding import Network, evaluating, network
from divalign.lm.memory import halving


def next_token_logprobs(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    options: Sequence[str],
    *,
    batch_size: int = 16,
    on_response: Callable[[int, list[float]], None] | None = None,
) -> Float[np.ndarray, "n k"]:
    """Return the log-probability (nats) that the next token after each conversation is each of `options`.

    Out of the whole vocabulary: a row's probabilities sum to less than 1, by the other tokens' share.
    `on_response` gets each index and row as soon as it is known. Batches are sorted by length and padded on the left,
    and halve when memory runs out; a model with a recurrent state is batched by equal length. As in `generate`, the
    other rows of a batch change nothing but the last bits.

    Raises ValueError for no options, one that is no single token, a batch size under 1, a conversation over the
    model's context and probabilities that are not a number; MemoryError where a single one is too large.
    """
    if not options or batch_size < 1:
        raise ValueError(f"got {len(options)} options and batch_size={batch_size}; expected at least 1 of each")
    ids = [_token(tokenizer, option) for option in options]
    prompts = [encode_conversation(tokenizer, conversation) for conversation in conversations]
    _check_context(model, prompts)
    net, log_probs = network(model), np.zeros((len(prompts), len(ids)))

    def compute(indices: list[int]) -> np.ndarray:
        return _log_probs(net, [prompts[index] for index in indices], ids)

    with evaluating(model), torch.no_grad():
        for indices, rows in halving(_batches(net, [len(prompt) for prompt in prompts], batch_size), compute):
            _check_numbers(indices, rows)
            log_probs[indices] = rows
            if on_response is not None:
                for index in indices:
                    on_response(index, log_probs[index].tolist())
    return log_probs


def next_token_distributions(
    model: Any, tokenizer: Any, conversations: Sequence[Conversation], *, batch_size: int = 16
) -> Float[np.ndarray, "n v"]:
    """Return the log-probabilities (nats, float32) of every next token after each conversation.

    Batched as in `next_token_logprobs`. Raises ValueError for a conversation over the model's context and for
    probabilities that are not a number.
    """
    prompts = [encode_conversation(tokenizer, conversation) for conversation in conversations]
    _check_context(model, prompts)
    net, rows = network(model), [np.empty(0, np.float32)] * len(prompts)
    with evaluating(model), torch.no_grad():
        for indices, log_probs in halving(
            _batches(net, [len(prompt) for prompt in prompts], batch_size),
            lambda indices: _log_probs(net, [prompts[index] for index in indices], None),
        ):
            _check_numbers(indices, log_probs)
            for index, row in zip(indices, log_probs.astype(np.float32), strict=True):
                rows[index] = row
    return np.stack(rows)


def _batches(net: Network, lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    if net.mergeable:
        yield from by_length(lengths, size)
        return
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    for _, group in groupby(order, key=lengths.__getitem__):
        alike = list(group)
        yield from (alike[start : start + size] for start in range(0, len(alike), size))


def _log_probs(net: Network, prompts: Sequence[Sequence[int]], ids: Sequence[int] | None) -> Float[np.ndarray, "b k"]:
    """Return the log-probabilities of the tokens `ids` after each prompt; of all tokens for None."""
    device = net.model.device
    mask = pad_left([[1] * len(prompt) for prompt in prompts], 0).to(device)
    inputs: dict[str, Any] = {"input_ids": pad_left(prompts, 0).to(device), "attention_mask": mask, "use_cache": False}
    if "position_ids" in net.accepts:
        inputs["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
    if "logits_to_keep" in net.accepts:
        inputs["logits_to_keep"] = 1
    logits: Tensor = net.model(**inputs).logits[:, -1]
    log_probs = in_widest(logits).log_softmax(dim=-1)
    return (log_probs if ids is None else log_probs[:, list(ids)]).cpu().numpy()


def _check_numbers(indices: Sequence[int], rows: Float[np.ndarray, "b k"]) -> None:
    for index, row in zip(indices, rows, strict=True):
        if not np.isfinite(row).all():
            raise ValueError(
                f"the probabilities after conversation {index} are not finite; "
                "load the model in float32 or bfloat16 (float16 overflows) and check its weights"
            )


def _token(tokenizer: Any, option: str) -> int:
    """Return the token that is spelt `option`; a tokenizer may put a space before what it is given alone."""
    token = tokenizer.get_vocab().get(option)
    ids = tokenizer(option, add_special_tokens=False)["input_ids"] if token is None else [token]
    if len(ids) != 1:
        raise ValueError(
            f"the option {option!r} is {len(ids)} tokens to this tokenizer, and the probability of one is read; "
            "use the judge with its own tokenizer, or shorter options"
        )
    return ids[0]


def _check_context(model: Any, prompts: Sequence[Sequence[int]]) -> None:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
    for index, prompt in enumerate(prompts):
        if len(prompt) > context:
            raise ValueError(
                f"conversation {index} is {len(prompt)} tokens long and the model's context is {context}: "
                "clip the responses, or use another judge"
            )
