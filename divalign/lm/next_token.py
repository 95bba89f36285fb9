"""What a model would write next, as probabilities of a few given tokens: for judges that grade and do not write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from divalign.data.batching import by_length, encode_conversation, pad_left
from divalign.data.examples import Conversation
from divalign.lm.decoding import Network, evaluating, network, out_of_memory


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

    Out of the whole vocabulary: a row's probabilities sum to less than 1, by what the model would write instead.
    `on_response` gets each index and row as soon as it is known. Batches are sorted by length and padded on the left,
    and halve when memory runs out; a model with a recurrent state is batched by equal length. As in `generate`, the
    company in a batch changes nothing but the last bits.

    Raises ValueError for no options, one that is no single token, a batch size under 1, a conversation over the
    model's context and probabilities that are not a number; MemoryError where a single one is too large.
    """
    if not options or batch_size < 1:
        raise ValueError(f"got {len(options)} options and batch_size={batch_size}; expected at least 1 of each")
    ids = [_token(tokenizer, option) for option in options]
    prompts = [encode_conversation(tokenizer, conversation) for conversation in conversations]
    _check_context(model, prompts)
    net, found = network(model), np.zeros((len(prompts), len(ids)))
    with evaluating(model), torch.no_grad():
        for batch in _batches(net, [len(prompt) for prompt in prompts], batch_size):
            for places, rows in _scored(net, prompts, batch, ids):
                _check_numbers(places, rows)
                found[places] = rows
                if on_response is not None:
                    for place in places:
                        on_response(place, found[place].tolist())
    return found


def _batches(net: Network, lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    if net.mergeable:
        yield from by_length(lengths, size)
        return
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    for _, group in groupby(order, key=lengths.__getitem__):
        alike = list(group)
        yield from (alike[start : start + size] for start in range(0, len(alike), size))


def _scored(
    net: Network, prompts: Sequence[Sequence[int]], batch: list[int], ids: Sequence[int]
) -> Iterator[tuple[list[int], Float[np.ndarray, "b k"]]]:
    """Yield the batch's places with their rows, in parts that halve when memory runs out."""
    done, size = 0, len(batch)
    while done < len(batch):
        part = batch[done : done + size]
        try:
            rows = _log_probs(net, [prompts[place] for place in part], ids)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(part) == 1:
                raise MemoryError("out of memory with a single conversation; use a smaller model or dtype") from error
            size = len(part) // 2
        else:
            yield part, rows
            done += len(part)


def _log_probs(net: Network, prompts: Sequence[Sequence[int]], ids: Sequence[int]) -> Float[np.ndarray, "b k"]:
    device = net.model.device
    mask = pad_left([[1] * len(prompt) for prompt in prompts], 0).to(device)
    told: dict[str, Any] = {"input_ids": pad_left(prompts, 0).to(device), "attention_mask": mask, "use_cache": False}
    if "position_ids" in net.accepts:
        told["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
    if "logits_to_keep" in net.accepts:
        told["logits_to_keep"] = 1
    logits: Tensor = net.model(**told).logits[:, -1]
    return logits.double().log_softmax(dim=-1)[:, list(ids)].cpu().numpy()


def _check_numbers(places: Sequence[int], rows: Float[np.ndarray, "b k"]) -> None:
    for place, row in zip(places, rows, strict=True):
        if not np.isfinite(row).all():
            raise ValueError(
                f"the probabilities after conversation {place} are not finite; "
                "load the model in float32 or bfloat16 (float16 overflows) and check its weights"
            )


def _token(tokenizer: Any, option: str) -> int:
    """Return the token that is spelt `option`; a tokenizer may put a space before what it is given alone."""
    token = tokenizer.get_vocab().get(option)
    found = tokenizer(option, add_special_tokens=False)["input_ids"] if token is None else [token]
    if len(found) != 1:
        raise ValueError(
            f"the option {option!r} is {len(found)} tokens to this tokenizer, and the probability of one is read; "
            "use the judge with its own tokenizer, or shorter options"
        )
    return found[0]


def _check_context(model: Any, prompts: Sequence[Sequence[int]]) -> None:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
    for index, prompt in enumerate(prompts):
        if len(prompt) > context:
            raise ValueError(
                f"conversation {index} is {len(prompt)} tokens long and the model's context is {context}: "
                "clip the responses, or use another judge"
            )
