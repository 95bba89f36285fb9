"""Row types: conversations, requests, and TRL's two kinds of training rows.

A training row is a plain mapping with TRL's columns, `prompt, chosen, rejected` or `prompt, completion, label`, each
text either a string or a list of messages. Two more columns are ours and optional: `harmful` (bool, is the prompt a
harmful request) and `cluster` (str, what must stay on one side of a split; the prompt itself where it is absent).
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict

Row = dict[str, Any]


class Message(TypedDict):
    """One turn: role is "system", "user" or "assistant"."""

    role: str
    content: str


class Conversation(NamedTuple):
    """The input of a generation: the turns so far, and the prefill of the response."""

    messages: tuple[Message, ...]
    prefill: str = ""


def user_says(text: str, *, prefill: str = "") -> Conversation:
    """Return the conversation of a single user turn."""
    return Conversation((Message(role="user", content=text),), prefill)


def as_messages(text: str | list[Message], role: str) -> list[Message]:
    """Return `text` as messages: a string is one turn of `role`."""
    return [Message(role=role, content=text)] if isinstance(text, str) else list(text)


class Request(NamedTuple):
    """A prompt with what a recipe needs to make a training row of it.

    `compliance` answers it, `refusal` declines it; `worse` and `worse_refusal` do the same less well, or are empty
    where the source has none. For a harmful prompt the compliance is an opening without content. `held_out` marks
    topics that alignment must not see.
    """

    prompt: str
    harmful: bool
    compliance: str
    refusal: str
    worse: str
    cluster: str
    held_out: bool = False
    worse_refusal: str = ""
