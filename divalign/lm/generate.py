"""Conversations in, responses out: greedy or sampled, in batches, the same for every batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch

from divalign.data.batching import Encoded, encode_conversation
from divalign.data.examples import Conversation
from divalign.lm.decoding import Row, decode, evaluating, network
from divalign.lm.responses import Response, missing, readable, texts_of, unreadable
from divalign.lm.thoughts import thought_marks
from divalign.store import digest


def generate(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    *,
    on_response: Callable[[int, str], None] | None = None,
    **options: Any,
) -> list[str]:
    """Return the texts of `generate_responses`, which takes the same options; `on_response` gets texts.

    Raises ValueError, before anything is generated, for a conversation that fills the context or is no Unicode text.
    """

    def report(index: int, response: Response) -> None:
        if not response.answered:
            raise ValueError(missing(index, response))
        if on_response is not None:
            on_response(index, response.text)

    return texts_of(generate_responses(model, tokenizer, conversations, on_response=report, **options))


def generate_responses(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    *,
    seeds: Sequence[int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_response: Callable[[int, Response], None] | None = None,
    **decoding: Any,
) -> list[Response]:
    """Return the model's response to each conversation, after its prefill, in the order given.

    Args:
        model: a causal language model with a cache.
        tokenizer: its tokenizer, with a chat template.
        conversations: what the model is shown.
        seeds: one whole number per conversation (0 for all by default). Equal conversations with equal seeds get equal
            responses, so give repeats different ones.
        on_progress: gets the numbers of finished and of all conversations.
        on_response: gets each index and response as soon as it is finished, so that a caller can save it.
        decoding: `max_new_tokens` (64), `batch_size` (64), `temperature` (0).

    At temperature 0 the likeliest token each time, else a draw from softmax(logits / temperature); without the
    penalties and cuts that a checkpoint's own generation configuration may ask for. A response ends ("stop") at any
    end-of-sequence token of that configuration or of the tokenizer, or is cut ("length") at `max_new_tokens` or at the
    end of the context. Special tokens are removed, but for those that mark thoughts (`lm.thoughts`). A conversation
    that fills the context is "too_long", one that is no Unicode text "unreadable"; the others are answered. When memory
    runs out, batches halve, and grow back later.

    Neither the batch size nor the other rows of a batch change a response, up to float rounding: a matrix product of
    another shape may round its last bit otherwise, and what was almost a tie between two tokens then falls the other
    way. In float32 that is rare. In bfloat16 it is common: batches of 8 and of 32 gave 64 of 96 responses of 16 tokens
    alike (SmolLM2-135M), each as near to float32's as the other. What all prompts of a batch begin with is computed
    once (`lm.prefix`), which rounds otherwise too.

    Raises ValueError for sizes under 1, a negative temperature, another number of seeds than of conversations, and a
    model without a cache; MemoryError where a single conversation is too large.

    """
    options = _Decoding(**decoding)
    responses: list[Response] = [Response("", "unreadable")] * len(conversations)
    done = 0

    def finish(index: int, response: Response) -> None:
        nonlocal done
        responses[index], done = response, done + 1
        if on_response is not None:
            on_response(index, response)
        if on_progress is not None:
            on_progress(done, len(responses))

    _check_seeds(seeds, len(conversations))
    prompts, failures = _encoded(model, tokenizer, conversations)
    for index, failure in failures.items():
        finish(index, failure)
    for row in _decoded(model, tokenizer, prompts, options, seeds):
        text = readable(_decoded_text(tokenizer, row.prompt, row.response))
        finish(row.index, Response(text, "length" if row.end is None else "stop"))
    return responses


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
    """Return samples from the model's own distribution as tokens, each with the token that ended it, in order.

    The distribution is that of responses cut at `max_new_tokens`: its log-probability is the sum over the tokens
    returned, so `sequence_log_probs` scores exactly what was sampled, where text would be tokenised anew.

    Raises what `generate` does.
    """
    _check_seeds(seeds, len(conversations))
    prompts, failures = _encoded(model, tokenizer, conversations)
    for index, failure in failures.items():
        raise ValueError(missing(index, failure))
    ordered = [prompts[index] for index in range(len(conversations))]
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "on_progress": on_progress}
    samples = sample_prompts(model, tokenizer, ordered, seeds=seeds, **options)
    return [response.tokens for response in samples]


class Sample(NamedTuple):
    """A sampled response with its prompt, as tokens; the token that ended it, if any, is its last.

    `log_prob` is its log-probability under the sampler as it computed, in nats; `ended` is False where it was cut.
    """

    tokens: Encoded
    log_prob: float
    ended: bool


def sample_prompts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    *,
    seeds: Sequence[int] | None = None,
    max_new_tokens: int = 64,
    batch_size: int = 64,
    on_progress: Callable[[int], None] | None = None,
) -> list[Sample]:
    """Return a response to each prompt of tokens from the model's own distribution, in order; see `sample`.

    Raises ValueError for a prompt that fills the context, and what `generate` does.
    """
    _check_seeds(seeds, len(prompts))
    for index, prompt in enumerate(prompts):
        if len(prompt) >= _context(model):
            raise ValueError(
                f"prompt {index} is {len(prompt)} tokens long and the model's context is {_context(model)}: nothing "
                "can be written after it; leave it out"
            )
    samples: dict[int, Sample] = {}
    options = _Decoding(max_new_tokens, batch_size, temperature=1.0)
    for row in _decoded(model, tokenizer, dict(enumerate(prompts)), options, seeds):
        response = row.response if row.end is None else [*row.response, row.end]
        samples[row.index] = Sample(Encoded(row.prompt, response), row.log_prob, row.end is not None)
        if on_progress is not None:
            on_progress(1)
    return [samples[index] for index in range(len(prompts))]


def sample_text(tokenizer: Any, response: Sample) -> str:
    """Return the text of a sampled response as it stands after its prompt, decoded as in `generate_responses`."""
    return readable(_decoded_text(tokenizer, response.tokens.prompt_ids, response.tokens.response_ids))


@dataclass(frozen=True)
class _Decoding:
    """How long, how many at a time and how randomly."""

    max_new_tokens: int = 64
    batch_size: int = 64
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.batch_size < 1 or self.temperature < 0:
            raise ValueError(
                f"got max_new_tokens={self.max_new_tokens}, batch_size={self.batch_size}, "
                f"temperature={self.temperature}; the first two must be at least 1, the last at least 0"
            )


def _encoded(
    model: Any, tokenizer: Any, conversations: Sequence[Conversation]
) -> tuple[dict[int, list[int]], dict[int, Response]]:
    """Return the token ids of the conversations that can be answered, and why the others cannot, both by index."""
    prompts: dict[int, list[int]] = {}
    failures: dict[int, Response] = {}
    context = _context(model)
    for index, conversation in enumerate(conversations):
        if (failure := unreadable(conversation)) is not None:
            failures[index] = failure
            continue
        prompt = encode_conversation(tokenizer, conversation)
        if len(prompt) >= context:
            reason = (
                f"it is {len(prompt)} tokens long and the model's context is {context}: nothing can be written after "
                "it; shorten it, leave it out or use another attack"
            )
            failures[index] = Response("", "too_long", error=reason)
        else:
            prompts[index] = prompt
    return prompts, failures


def _decoded(
    model: Any, tokenizer: Any, prompts: dict[int, list[int]], options: _Decoding, seeds: Sequence[int] | None
) -> Iterator[Row]:
    """Yield every prompt's row as it ends."""
    context = _context(model)
    limits = {index: min(options.max_new_tokens, context - len(prompt)) for index, prompt in prompts.items()}
    uniforms = _uniforms(prompts, limits, seeds) if options.temperature else dict.fromkeys(prompts)
    rows = [Row(index, prompt, limits[index], uniforms[index]) for index, prompt in prompts.items()]
    ends, net = end_tokens(model, tokenizer), network(model)
    with evaluating(model), torch.no_grad():
        yield from decode(net, rows, ends=ends, size=options.batch_size, temperature=options.temperature)


def _check_seeds(seeds: Sequence[int] | None, count: int) -> None:
    if seeds is not None and len(seeds) != count:
        raise ValueError(f"got {len(seeds)} seeds for {count} conversations; give one each, or none at all")


def _uniforms(prompts: dict[int, list[int]], limits: dict[int, int], seeds: Sequence[int] | None) -> dict[int, Any]:
    """Return each row's uniform numbers, from its own prompt and seed alone."""
    keys = {index: digest(0 if seeds is None else seeds[index], prompt) for index, prompt in prompts.items()}
    return {index: np.random.default_rng(int(key, 16)).random(limits[index]) for index, key in keys.items()}


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Return every token id that ends a response, by the model's generation configuration and by the tokenizer."""
    named = [getattr(getattr(model, "generation_config", None), "eos_token_id", None), tokenizer.eos_token_id]
    return {token for ids in named if ids is not None for token in (ids if isinstance(ids, list) else [ids])}


def _context(model: Any) -> int:
    """Return the longest sequence the model was made for; a model that names none has no limit here."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    return getattr(config, "max_position_embeddings", None) or 1 << 30


def _decoded_text(tokenizer: Any, prompt: Sequence[int], tokens: Sequence[int]) -> str:
    """Return the text of `tokens` as it stands after `prompt`, without special tokens but for marks of thoughts."""
    marks, before, text = thought_marks(tokenizer, tokens), prompt, ""
    for marked, run in groupby(tokens, key=marks.__contains__):
        part = list(run)
        text += "".join(marks[token] for token in part) if marked else _text_behind(tokenizer, before, part)
        before = before if marked else part
    return text


def _text_behind(tokenizer: Any, prompt: Sequence[int], tokens: Sequence[int]) -> str:
    """Return the text of `tokens` behind `prompt`, without special tokens.

    Decoded alone, a SentencePiece token at the start loses its leading space, and "Sure, here is" would be followed
    by "a plan" instead of " a plan".
    """
    before = tokenizer.decode(list(prompt), skip_special_tokens=True)
    whole = tokenizer.decode([*prompt, *tokens], skip_special_tokens=True)
    if whole.startswith(before):
        return whole[len(before) :]
    return tokenizer.decode(list(tokens), skip_special_tokens=True)
