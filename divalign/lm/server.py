"""Conversations in, responses out, through an OpenAI-compatible server: vLLM, llama.cpp, a hosted model.

    vllm serve MODEL --port 8000 [--enable-lora --lora-modules NAME=ADAPTER]

Standard library only. A server's chat template may differ from the tokenizer's here, so its responses are another
model's: name the server in whatever a cache or a record is made from.
"""

from __future__ import annotations

import http.client
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any

from divalign.data.examples import Conversation

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
LONGEST_PAUSE = 60.0  # seconds


@dataclass(frozen=True)
class Server:
    """Where a model is served, and how patiently to ask. `url` ends before "/chat/completions", as in ".../v1"."""

    url: str
    model: str
    api_key: str | None = None
    concurrency: int = 16
    attempts: int = 6
    timeout: float = 120.0
    first_pause: float = 1.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error: following one would turn the question into a GET and hand the key to another host."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


class _Again(Exception):
    """A trouble that may pass, and how many seconds the server asked to wait."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


def generate_on_server(
    server: Server,
    conversations: Sequence[Conversation],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_response: Callable[[int, str], None] | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Return what the served model writes after each conversation, in the order given.

    Requests run `concurrency` at a time. Timeouts, broken or cut connections, rate limits, answers that are no JSON and
    errors of the server are tried again, up to `attempts` times in all, after pauses that double from `first_pause` and
    vary by chance, or as long as the server's Retry-After says (a minute at most). `on_response` gets each index and
    text as it comes, from this thread. A message without text (a content filter, a refusal field) gives that refusal
    or "".

    A prefill goes out as an unfinished assistant turn with vLLM's `continue_final_message`; servers that do not know
    it answer it as a finished turn, so attacks by prefill need vLLM.

    Raises ValueError where the server rejects the request itself (its URL, key, model or a prompt over the context),
    and ConnectionError where a request has failed `attempts` times. No new request is sent after the first that
    failed; those under way are awaited, and their responses reported.
    """
    texts = [""] * len(conversations)
    seeds = [0] * len(conversations) if seeds is None else seeds
    if len(seeds) != len(conversations):
        raise ValueError(
            f"got {len(seeds)} seeds for {len(conversations)} conversations; give one each, or none at all"
        )
    decoding = {"max_tokens": max_new_tokens, "temperature": temperature}
    jobs = (
        (index, {**_request(server, conversation), **decoding, "seed": seed})
        for index, (conversation, seed) in enumerate(zip(conversations, seeds, strict=True))
    )
    done, failure = 0, None
    with ThreadPoolExecutor(server.concurrency) as pool:
        running: dict[Future[str], int] = {}
        while True:
            free = 0 if failure else server.concurrency - len(running)
            running |= {pool.submit(_ask, server, body, pause): index for index, body in islice(jobs, free)}
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                index = running.pop(future)
                if error := future.exception():
                    failure = failure or error
                    continue
                texts[index], done = future.result(), done + 1
                if on_response is not None:
                    on_response(index, texts[index])
                if on_progress is not None:
                    on_progress(done, len(conversations))
    if failure:
        raise failure
    return texts


def _request(server: Server, conversation: Conversation) -> dict[str, Any]:
    messages: list[Any] = list(conversation.messages)
    if not conversation.prefill:
        return {"model": server.model, "messages": messages}
    opened = [*messages, {"role": "assistant", "content": conversation.prefill}]
    going_on = {"continue_final_message": True, "add_generation_prompt": False}
    return {"model": server.model, "messages": opened, **going_on}


def _ask(server: Server, body: dict[str, Any], pause: Callable[[float], None]) -> str:
    """Return the text of one completion, trying again where trouble may pass."""
    chance = random.Random(json.dumps(body, sort_keys=True))
    for attempt in range(1, server.attempts + 1):
        try:
            return _text(_post(server, body))
        except _Again as trouble:
            if attempt == server.attempts:
                raise ConnectionError(
                    f"{server.url} failed {attempt} times, last with: {trouble}. Responses that came are kept; "
                    "is the server up, and is it allowed as many requests at a time?"
                ) from None
            doubled = server.first_pause * 2 ** (attempt - 1) * chance.uniform(0.5, 1.0)
            pause(min(LONGEST_PAUSE, doubled if trouble.pause is None else trouble.pause))
    raise ValueError(f"got attempts={server.attempts}, expected at least 1")


def _post(server: Server, body: dict[str, Any]) -> bytes:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if server.api_key:
        headers["Authorization"] = f"Bearer {server.api_key}"
    url = f"{server.url.rstrip('/')}/chat/completions"
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"the server's url is {server.url!r}; expected something like http://localhost:8000/v1")
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with _OPENER.open(request, timeout=server.timeout) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        raise _status_error(server, error) from None
    except (OSError, http.client.HTTPException) as error:  # refused, reset, timed out, cut short
        raise _Again(f"{type(error).__name__}: {error}") from None


def _status_error(server: Server, error: urllib.error.HTTPError) -> Exception:
    try:
        said = " ".join(error.read(2000).decode(errors="replace").split())[:200]
    except (OSError, http.client.HTTPException):
        said = ""
    reason = f"status {error.code}, {said!r}"
    if error.code in RETRIED:
        return _Again(reason, _retry_after(error.headers.get("Retry-After")))
    advice = {401: "check the key", 403: "check the key", 404: "check the url, which ends in /v1, and the model's name"}
    other = "check the prompt length against the model, and the options"
    if 300 <= error.code < 400:
        other = f"it redirects to {error.headers.get('Location')!r}: give the final url"
    return ValueError(f"{server.url} rejected a request for {server.model}: {reason}; {advice.get(error.code, other)}")


def _retry_after(value: str | None) -> float | None:
    """Return the seconds a Retry-After header asks for: a number or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _text(content: bytes) -> str:
    try:
        message = json.loads(content)["choices"][0]["message"]
        text = message.get("content") or message.get("refusal") or ""
    except (ValueError, LookupError, TypeError, AttributeError):
        kind = "HTML" if content.lstrip()[:1] == b"<" else "something else"
        raise _Again(f"an answer that is no chat completion but {kind}: {content[:80]!r}") from None
    if not isinstance(text, str):
        raise _Again(f"a message whose content is {type(text).__name__}, not text")
    return text
