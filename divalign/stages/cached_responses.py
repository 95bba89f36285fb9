"""What a model writes, or how likely it finds options, kept in a journal: a stopped stage asks nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from divalign.data.examples import Conversation
from divalign.lm.next_token import next_token_logprobs
from divalign.lm.responses import Response
from divalign.safety.journal import Journal, cached_generate
from divalign.stages.models import OpenModel


def cached_responses(
    model: OpenModel,
    journal: Journal,
    max_new_tokens: int,
    *,
    batch_size: int = 64,
    advance: Callable[[int], None] | None = None,
) -> Callable[[Sequence[Conversation]], list[Response]]:
    """Return the model's `generate` with a cache in `journal`; `advance` is called for each response that comes."""

    def write(
        conversations: Sequence[Conversation], *, on_response: Callable[[int, Any], None], **options: Any
    ) -> list[Response]:
        def on_each(index: int, response: Response) -> None:
            on_response(index, response.to_record())
            if advance is not None:
                advance(1)

        sizes = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
        return model.generate(conversations, on_response=on_each, **sizes, **options)

    recall = cached_generate(write, journal, made_from=["greedy", 2, model.key, max_new_tokens])

    def responses(conversations: Sequence[Conversation]) -> list[Response]:
        return [Response.from_record(record) for record in recall(conversations)]

    return responses


def cached_texts(
    model: OpenModel, journal: Journal, max_new_tokens: int, **options: Any
) -> Callable[[Sequence[Conversation]], list[str]]:
    """Return `cached_responses` as texts; a conversation without a response has an empty one."""
    recall = cached_responses(model, journal, max_new_tokens, **options)

    def texts(conversations: Sequence[Conversation]) -> list[str]:
        return [response.text for response in recall(conversations)]

    return texts


def cached_option_logprobs(
    model: OpenModel, journal: Journal, options: Sequence[str]
) -> Callable[[Sequence[Conversation]], list[list[float]]]:
    """Return what gives each conversation's log-probabilities of `options` as the next token, with a cache.

    Raises ValueError for a served model: the protocol gives a few likely tokens, never all that a judge needs.
    """
    if model.load is None:
        raise ValueError(f"{model.name} does not give the probabilities of chosen tokens; name a local model")

    def read(
        conversations: Sequence[Conversation], *, on_response: Callable[[int, list[float]], None], **_: Any
    ) -> list[list[float]]:
        lm = model.lm()
        return next_token_logprobs(lm.model, lm.tokenizer, conversations, options, on_response=on_response).tolist()

    return cached_generate(read, journal, made_from=["next token", model.key, list(options)])
