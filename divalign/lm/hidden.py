"""Prompts in, hidden states out: one forward of the backbone per prompt, batched by length, never the head.

Dropout is off in all of it, also for a model that is in training.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from divalign.data.batching import (
    Encoded,
    by_length,
    closed,
    encode_conversation,
    pad_right,
    plain_ids,
    render_turns,
)
from divalign.data.examples import Conversation
from divalign.lm.backbone import backbone_of, refuse_prefix
from divalign.lm.decoding import evaluating, keeps_keys_and_values
from divalign.lm.memory import halving
from divalign.lm.prefix import Prefixes

POSITIONS = ("instruction", "generation")  # of prompts alone; with responses there is "response" as well
Reader = Callable[[Tensor], Tensor]  # states of a batch of texts [b, t, d] -> one state of each [b, d]


@torch.no_grad()
def hidden_states(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    *,
    responses: Sequence[str] | None = None,
    batch_size: int = 64,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Float[np.ndarray, "l n d"]]:
    """Return the states of every layer (embeddings first, the last after the final norm) at two positions, float32.

    `"instruction"` is the last token of the rendered turns, before the generation prompt: the position of the
    paper's code. `"generation"` is the last token of the generation prompt (of the prefill, if there is one), from
    which the model generates. Where a template has no generation prompt the two are one. With `responses`, one
    to each conversation, `"response"` is the mean over the response's tokens, the end of the sequence included.

    Batches halve when memory runs out. Raises ValueError where a state is not finite, with the prompt's index.
    """
    refuse_prefix(model)
    prompts = [encode_conversation(tokenizer, conversation) for conversation in conversations]
    turns = [
        _turn_length(tokenizer, conversation, ids) for conversation, ids in zip(conversations, prompts, strict=True)
    ]
    whole = prompts if responses is None else _with_responses(tokenizer, prompts, responses)
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    out: dict[str, np.ndarray] = {}
    prefixes = _prefixes(causal) if responses is None else None

    def compute(indices: list[int]) -> dict[str, Float[np.ndarray, "l b d"]]:
        ends = {"instruction": [turns[i] - 1 for i in indices], "generation": [len(prompts[i]) - 1 for i in indices]}
        if prefixes and (states := _after_prefix(prefixes, [prompts[i] for i in indices], list(ends.values()))):
            return dict(zip(ends, states, strict=True))
        ids = pad_right([whole[index] for index in indices], tokenizer.pad_token_id or 0)
        mask = pad_right([[1] * len(whole[index]) for index in indices], 0)
        readers = {position: _at(places) for position, places in ends.items()}
        if responses is not None:
            readers["response"] = _mean([(len(prompts[i]), len(whole[i])) for i in indices], ids.shape[1])
        states = _states_at(backbone_of(causal), ids.to(model.device), mask.to(model.device), list(readers.values()))
        return dict(zip(readers, states, strict=True))

    with evaluating(model):
        for indices, states in halving(by_length([len(ids) for ids in whole], batch_size), compute):
            for position, rows in states.items():
                shape = (len(rows), len(whole), rows.shape[-1])
                out.setdefault(position, np.zeros(shape, np.float32))[:, indices] = rows
            if on_progress:
                on_progress(len(indices))
    _check_finite(out)
    return out


def _prefixes(causal: Any) -> Prefixes | None:
    """Return the prefixes that batches share; None for a backbone that cannot be told where a row's tokens stand."""
    backbone = backbone_of(causal)
    accepts = inspect.signature(backbone.forward).parameters
    shares = {"past_key_values", "position_ids"} <= set(accepts) and keeps_keys_and_values(causal)
    return Prefixes(backbone) if shares else None


def _after_prefix(
    prefixes: Prefixes, prompts: Sequence[list[int]], ends: Sequence[Sequence[int]]
) -> list[Float[np.ndarray, "l b d"]] | None:
    """Return the states at each list of ends, computing the common prefix once; None where prompts share little."""
    batch = prefixes.prefilled(prompts, most=min(map(min, ends)))
    if batch is None:
        return None
    offsets = [batch.tokens.shape[1] - len(prompt) for prompt in prompts]  # a prompt ends where the batch does
    readers = [_at([end + offset for end, offset in zip(places, offsets, strict=True)]) for places in ends]
    return _states_at(prefixes.model, batch.tokens, batch.mask, readers, past_key_values=batch.cache)


@torch.no_grad()
def response_states(
    model: Any,
    rows: Sequence[Encoded],
    pad_id: int,
    *,
    batch_size: int = 64,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Float[np.ndarray, "n d"]]:
    """Return two last-layer states of each row: "prompt" (its last token) and "response" (its mean); float32.

    What a frozen model makes of a response to its prompt: features for a divergence between two sets of responses.
    Raises ValueError where a state is not finite, with the row's index.
    """
    refuse_prefix(model)
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = backbone_of(causal)
    lengths = [len(row.prompt_ids) + len(row.response_ids) for row in rows]
    shape = (len(rows), causal.config.get_text_config().hidden_size)
    out = {"prompt": np.zeros(shape, np.float32), "response": np.zeros(shape, np.float32)}

    def compute(indices: list[int]) -> tuple[Float[np.ndarray, "b d"], Float[np.ndarray, "b d"]]:
        batch = [rows[index] for index in indices]
        ids = pad_right([[*row.prompt_ids, *row.response_ids] for row in batch], pad_id).to(model.device)
        in_response = pad_right([[0] * len(row.prompt_ids) + [1] * len(row.response_ids) for row in batch], 0)
        mask = pad_right([[1] * lengths[index] for index in indices], 0).to(model.device)
        with evaluating(model):
            states = backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
        weights = in_response.to(states)[..., None]
        ends = [len(row.prompt_ids) - 1 for row in batch]
        at_prompt, mean = states[range(len(indices)), ends], (states * weights).sum(1) / weights.sum(1)
        return at_prompt.cpu().numpy(), mean.cpu().numpy()

    for indices, (at_prompt, mean) in halving(by_length(lengths, batch_size), compute, item="row"):
        out["prompt"][indices], out["response"][indices] = at_prompt, mean
        if on_progress:
            on_progress(len(indices))
    _check_finite({name: rows[None] for name, rows in out.items()})
    return out


def _with_responses(tokenizer: Any, prompts: Sequence[list[int]], responses: Sequence[str]) -> list[list[int]]:
    """Return token ids of prompts and what follows; an empty response is the end of the sequence alone."""
    ends = [plain_ids(tokenizer, closed(tokenizer, text)) for text in responses]
    for number, ids in enumerate(ends):
        if not ids:
            raise ValueError(f"response {number} is empty and the tokenizer has no end of sequence; leave it out")
    return [[*ids, *end] for ids, end in zip(prompts, ends, strict=True)]


def _at(ends: Sequence[int]) -> Reader:
    def read(states: Tensor) -> Tensor:
        return states[torch.arange(len(states), device=states.device), torch.tensor(ends, device=states.device)].float()

    return read


def _mean(spans: Sequence[tuple[int, int]], width: int) -> Reader:
    weights = torch.zeros(len(spans), 1, width)
    for number, (start, end) in enumerate(spans):
        weights[number, 0, start:end] = 1 / (end - start)
    return lambda states: (weights.to(states.device) @ states.float())[:, 0]


def _states_at(
    backbone: Any, ids: Tensor, mask: Tensor, readers: Sequence[Reader], **options: Any
) -> list[Float[np.ndarray, "l b d"]]:
    """Return, for each reader, what it takes of every layer's states; `options` are arguments of the forward.

    What enters each layer is read by a hook that stores this alone: all states of 64 prompts of 200 tokens are
    6.6 GB in a model of 32 layers of width 4,096, and these 67 MB. Without one list of layers, all are stored.
    """
    layers = _layers(backbone)
    by_layer: list[list[Tensor]] = []

    def read_layer(states: Tensor) -> None:
        by_layer.append([read(states).cpu() for read in readers])

    def before(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        read_layer(arguments[0] if arguments else named["hidden_states"])

    handles = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    try:
        cached = "past_key_values" in options
        if cached:
            options["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        options |= {"use_cache": cached, "output_hidden_states": not layers}
        result = backbone(input_ids=ids, attention_mask=mask, **options)
    finally:
        for handle in handles:
            handle.remove()
    for states in [result.last_hidden_state] if layers else result.hidden_states:
        read_layer(states)
    return [torch.stack([layer[number] for layer in by_layer]).numpy() for number in range(len(readers))]


def _layers(backbone: Any) -> list[Any]:
    """Return the backbone's blocks in order, or nothing where it has no one list of as many as its config says."""
    count = getattr(backbone.config.get_text_config(), "num_hidden_layers", None)
    lists = [m for m in backbone.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    return list(lists[0]) if len(lists) == 1 else []


def _turn_length(tokenizer: Any, conversation: Conversation, whole: list[int]) -> int:
    """Return how many tokens of `whole` belong to the turns: what is left without the generation prompt."""
    text = render_turns(tokenizer, list(conversation.messages), generation=False)
    ids = plain_ids(tokenizer, text)
    shared = next((i for i, (a, b) in enumerate(zip(ids, whole, strict=False)) if a != b), min(len(ids), len(whole)))
    return max(shared, 1)


def _check_finite(states: dict[str, np.ndarray]) -> None:
    for position, array in states.items():
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            layer, prompt = int(bad[0][0]), int(bad[0][1])
            raise ValueError(
                f"the hidden state at layer {layer}, position {position!r}, of prompt {prompt} is not finite; "
                "load the model in float32 or bfloat16 (float16 overflows) and check its weights"
            )
