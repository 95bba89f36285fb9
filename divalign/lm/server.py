"""Responses of a model behind one or several OpenAI-compatible servers: vLLM, SGLang, llama.cpp, a hosted model.

    vllm serve MODEL --port 8000 [--enable-lora --lora-modules NAME=ADAPTER]

A server's chat template may differ from the tokenizer's here, so its responses are another model's: name the server
(`Server.identity`) in whatever a cache or a record is made from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from divalign.data.examples import Conversation
from divalign.lm.chat_completions import request_body
from divalign.lm.dispatch import send_all
from divalign.lm.endpoint import ServedModel, Server, ServerOptions, served_model
from divalign.lm.responses import Response, texts_of, unreadable

__all__ = [
    "ServedModel",
    "Server",
    "ServerOptions",
    "generate_on_server",
    "generate_responses_on_server",
    "served_model",
]


def generate_on_server(
    server: Server,
    conversations: Sequence[Conversation],
    *,
    on_response: Callable[[int, str], None] | None = None,
    **options: Any,
) -> list[str]:
    """Return the texts of `generate_responses_on_server`, whose options these are; `on_response` gets texts.

    Raises ValueError at the end where a conversation got no response (blocked, too long, unreadable), with its index
    and reason; the others have then been reported to `on_response`.
    """

    def report(index: int, response: Response) -> None:
        if on_response is not None and response.answered:
            on_response(index, response.text)

    return texts_of(generate_responses_on_server(server, conversations, on_response=report, **options))


def generate_responses_on_server(
    server: Server,
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int = 64,
    temperature: float | None = None,
    seeds: Sequence[int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_response: Callable[[int, Response], None] | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> list[Response]:
    """Return the served model's response to each conversation, in the order given.

    Requests run `concurrency` at a time at each of the model's servers; what fails on one, or is declined by it,
    goes to another, see `dispatch`. Retries after timeouts, broken or cut connections, HTTP 429 and 5xx and
    replies that are no JSON, up to `attempts` requests in all, after pauses that double from `first_pause` with jitter,
    or as long as Retry-After says (a minute at most). `on_response` gets each index and response as it comes, from this
    thread. `temperature` overrides the server's own.

    A prompt that the server blocks, that is over the context, or that cannot be read is recorded in its response and
    ends nothing. A server that refuses `max_tokens` gets `max_completion_tokens`; one that refuses `seed` gets none,
    which `Response.dropped` records.

    A prefill goes out as an unfinished assistant turn with vLLM's `continue_final_message`; servers that do not know
    it answer it as a finished turn, so attacks by prefill need vLLM.

    Raises ValueError where the server refuses every request (its URL, key, model, quota or options), and
    ConnectionError where a request has failed `attempts` times on every server. No new request is sent after the first
    that failed; those under way are awaited, and their responses reported.
    """
    seeds = [0] * len(conversations) if seeds is None else seeds
    if len(seeds) != len(conversations):
        raise ValueError(
            f"got {len(seeds)} seeds for {len(conversations)} conversations; give one each, or none at all"
        )
    decoding = {
        "max_tokens": max_new_tokens,
        "temperature": server.temperature if temperature is None else temperature,
    }
    results = _ServerResults([None] * len(conversations), on_response, on_progress)
    for index, conversation in enumerate(conversations):
        if (outcome := unreadable(conversation)) is not None:
            results.add(index, outcome)
    bodies = {
        index: _body(server, conversation, {**decoding, "seed": seed})
        for index, (conversation, seed) in enumerate(zip(conversations, seeds, strict=True))
        if results.responses[index] is None
    }
    if bodies:
        send_all(server, bodies, results.add, pause)
    return [response for response in results.responses if response is not None]


def _body(server: Server, conversation: Conversation, options: dict[str, Any]) -> dict[str, Any]:
    return request_body(conversation, model=server.model, system_prompt=server.system_prompt, options=options)


@dataclass
class _ServerResults:
    """Responses so far, reported as they come."""

    responses: list[Response | None]
    on_response: Callable[[int, Response], None] | None
    on_progress: Callable[[int, int], None] | None
    done: int = 0

    def add(self, index: int, response: Response) -> None:
        self.responses[index] = response
        self.done += 1
        if self.on_response is not None:
            self.on_response(index, response)
        if self.on_progress is not None:
            self.on_progress(self.done, len(self.responses))
