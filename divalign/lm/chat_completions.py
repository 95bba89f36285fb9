"""The OpenAI chat-completions protocol as servers speak it: request bodies out, responses and kinds of errors in.

Pure functions of JSON; `server` sends and receives. Servers differ in how they name a blocked prompt, one over the
context, and a parameter that they do not take; the patterns here are those of OpenAI, Azure, vLLM, llama.cpp, SGLang,
TGI, Mistral, Gemini, Anthropic and OpenRouter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from divalign.data.examples import Conversation
from divalign.limits import parse_json
from divalign.lm.responses import FinishReason, Response, readable

ErrorKind = Literal["retry", "quota", "parameter", "temperature", "blocked", "too_long", "server", "row"]

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
OPTIONAL = {"max_tokens": "max_completion_tokens", "seed": None}  # parameters servers may refuse, and their other name
FINISHES: dict[str, FinishReason] = {
    **dict.fromkeys(("length", "max_tokens", "model_length"), "length"),
    **dict.fromkeys(("content_filter", "safety", "prohibited_content", "blocklist", "recitation", "spii"), "blocked"),
}

_QUOTA = re.compile(r"insufficient[_ ](quota|balance|credits)|billing_hard_limit|credit balance is too low")
_UNSUPPORTED = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|extra (inputs|fields)"
)
_BLOCKED = re.compile(
    r"content[_ -]?(filter|management policy|policy)|responsibleai|moderation|flagged|usage polic|data_?inspection|"
    r"safety (system|filter|setting)|prohibited content|inappropriate content"
)
_TOO_LONG = re.compile(
    r"context[_ ](length|size|window)|maximum (model|sequence) length|(prompt|input|request) (is )?too (long|large)|"
    r"tokens? .{0,60}(exceed|longer than|must be <=)|exceeds? .{0,60}(number of tokens|token limit)"
)


class UnusableReplyError(Exception):
    """A well-formed reply without a usable message. `response` is the outcome to record if it stays so."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.error)
        self.response = response


class NotACompletionError(Exception):
    """A reply that is no chat completion at all: HTML, half a JSON, something else."""


def request_body(
    conversation: Conversation, *, model: str, system_prompt: str | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the JSON of one request; options that are None are left to the server.

    A system prompt comes before the conversation's own system turn, in one turn with it, as templates take only one.
    A prefill goes out as an unfinished assistant turn.
    """
    messages = [dict(message) for message in conversation.messages]
    if system_prompt:
        own = messages.pop(0)["content"] if messages and messages[0]["role"] == "system" else ""
        messages.insert(0, {"role": "system", "content": f"{system_prompt}\n\n{own}" if own else system_prompt})
    body: dict[str, Any] = {"model": model, "messages": messages}
    if conversation.prefill:
        messages.append({"role": "assistant", "content": conversation.prefill})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body | {name: value for name, value in options.items() if value is not None}


def without(body: Mapping[str, Any], refused: set[str]) -> dict[str, Any]:
    """Return the body without the parameters that the server refuses, under their other name where they have one."""
    renamed = {name: OPTIONAL[name] if name in refused else name for name in body}
    return {other: body[name] for name, other in renamed.items() if other is not None}


def read_completion(content: bytes, *, max_tokens: int | None = None) -> Response:
    """Return the response of a chat completion.

    A finish reason that is missing counts as "length" where the usage counts `max_tokens` tokens, else "stop".

    Raises UnusableReplyError for a completion without choices or with content of an unknown shape, and
    NotACompletionError for anything else; see `error_in` for an error in the place of a completion.
    """
    try:
        reply = parse_json(content)
        choices = reply["choices"]
    except (ValueError, LookupError, TypeError):
        kind = "HTML" if content.lstrip()[:1] == b"<" else "something else"
        raise NotACompletionError(f"a reply that is no chat completion but {kind}: {content[:80]!r}") from None
    if choices in ([], None):
        raise UnusableReplyError(Response("", "blocked", error=f"the server returned no choices{_feedback(reply)}"))
    try:
        choice = choices[0]
        message = choice["message"] or {}
        if not isinstance(message, dict):
            raise TypeError
        finish = _finish(choice, reply.get("usage"), max_tokens)
    except (LookupError, TypeError, AttributeError):
        raise NotACompletionError(f"a completion without a message: {content[:80]!r}") from None
    if choice.get("finish_reason") == "error":
        raise NotACompletionError(f"a completion that failed: {error_words(content)[:80]!r}")
    text, thought = _text_and_reasoning(message)
    error = "the server's content filter stopped the response" if finish == "blocked" else ""
    return Response(readable(text), finish, readable(thought), error)


def error_in(content: bytes) -> tuple[int, bytes] | None:
    """Return the status and body of an error that came in a reply of status 200, as proxies send it; else None."""
    try:
        reply = parse_json(content)
        error = reply["error"]
        if not error or reply.get("choices"):
            return None
        code = error.get("code") if isinstance(error, dict) else None
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return (code if isinstance(code, int) and 400 <= code < 600 else 500), content


def classify(status: int, content: bytes) -> ErrorKind:
    """Return what an error of this status and body means for the request: see `server` for what follows from each."""
    words = error_words(content).lower()
    if status == 402 or (status in (400, 403, 429, 500) and _QUOTA.search(words)):
        return "quota"
    if status in (400, 422) and _UNSUPPORTED.search(words):
        if refused_parameters(content):
            return "parameter"
        if re.search(r"\btemperature\b", words):
            return "temperature"
    if status == 451 or (status in (400, 403, 422, 500) and _BLOCKED.search(words) and content.lstrip()[:1] == b"{"):
        return "blocked"  # a firewall's page may say so too, but it is no JSON
    if status == 413 or (status in (400, 422, 500) and _TOO_LONG.search(words)):
        return "too_long"
    if status == 429 and "request too large" in words:
        return "too_long"  # more tokens than a minute's allowance: no pause makes it fit
    if status in RETRIED:
        return "retry"
    return "row" if status in (400, 422) else "server"


def refused_parameters(content: bytes) -> set[str]:
    """Return those of the `OPTIONAL` parameters that an error message names."""
    words = error_words(content).lower()
    return {name for name in OPTIONAL if re.search(rf"\b{name}\b", words)}


def error_words(content: bytes) -> str:
    """Return what a server's error says: its messages, codes and locations, without the input that some repeat."""
    try:
        reply = parse_json(content)
    except ValueError:
        return " ".join(content[:2000].decode(errors="replace").split())
    return " ".join(" ".join(_leaves(reply)).split())


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            if name not in ("input", "messages", "prompt", "body"):
                yield from _leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    elif isinstance(value, str):
        yield value


def _finish(choice: Mapping[str, Any], usage: Any, max_tokens: int | None) -> FinishReason:
    finish = choice.get("finish_reason")
    if isinstance(finish, str):
        return FINISHES.get(finish.lower(), "stop")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return "length" if max_tokens and isinstance(tokens, int) and tokens >= max_tokens else "stop"


def _text_and_reasoning(message: Mapping[str, Any]) -> tuple[str, str]:
    """Return a message's text and reasoning; its content is a string, null, or a list of parts."""
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    reasoning = reasoning if isinstance(reasoning, str) else ""
    content = message.get("content")
    if isinstance(content, list):
        parts = [_part(part) for part in content]
        text = "".join(part for kind, part in parts if kind == "text")
        reasoning += "".join(part for kind, part in parts if kind == "reasoning")
    elif isinstance(content, str) or content is None:
        text = content or ""
    else:
        raise _unknown_shape(f"content of type {type(content).__name__}")
    refusal = message.get("refusal")
    return (text or (refusal if isinstance(refusal, str) else "")), reasoning


def _part(part: Any) -> tuple[str, str]:
    """Return a content part's kind, "text" or "reasoning", and its text."""
    if isinstance(part, str):
        return "text", part
    kind = part.get("type", "text") if isinstance(part, dict) else None
    if kind in ("text", "output_text", "refusal"):
        text = part.get("refusal" if kind == "refusal" else "text")
        if isinstance(text, str):
            return "text", text
    if kind in ("thinking", "reasoning"):
        inner = part.get("thinking", part.get("text")) or ""
        return "reasoning", inner if isinstance(inner, str) else "".join(_part(item)[1] for item in inner)
    raise _unknown_shape(f"a content part of type {kind or type(part).__name__} without text")


def _unknown_shape(shape: str) -> UnusableReplyError:
    return UnusableReplyError(Response("", "unreadable", error=f"the server returned {shape}, expected text"))


def _feedback(reply: Mapping[str, Any]) -> str:
    """Return what a reply without choices says about the prompt, where it says anything."""
    names = ("prompt_feedback", "promptFeedback", "prompt_filter_results")
    notes = {name: reply[name] for name in names if name in reply}
    return f", with {json.dumps(notes)[:200]}" if notes else ", as content filters do"
