"""Columns and turns, as files of many makers hold them, checked where they are read."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from divalign.data.examples import Message, Row, as_messages

SIDES = ("chosen", "rejected")
# Columns of known formats that hold lists of something else than turns.
LISTS = ("history", "acc_responses", "rej_responses", "tools")
TURNS = ({"role", "content"}, {"from", "value"})


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the name that `name` was probably meant to be, if there is one."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=0.7)), None)


def check_columns(found: Iterable[str], expected: Iterable[str], where: object) -> None:
    """Raise ValueError for the first expected column that is not there, naming the nearest one that is."""
    names = [str(name) for name in found]
    for column in expected:
        if column not in names:
            near = nearest(column, names)
            guess = f"; is it {near!r}?" if near else ";"
            raise ValueError(f"{where} lacks the column {column!r}{guess} it has {', '.join(names) or 'none'}")


def truth(value: Any, column: str) -> bool:
    """Return yes or no as files write it: true, 1, "True", "1", and their contraries. Raises ValueError for others."""
    said = str(value).strip().lower()
    if said not in ("true", "false", "1", "0", "1.0", "0.0"):
        raise ValueError(f"the column {column!r} holds {value!r}, expected true or false")
    return said in ("true", "1", "1.0")


def one_turn(messages: list[Message], role: str, where: str) -> str:
    """Return the text of messages that are one turn of `role`; raise ValueError where they are more or another's."""
    if [message["role"] for message in messages] != [role]:
        roles = ", ".join(message["role"] for message in messages) or "nothing"
        raise ValueError(f"{where} is {roles}; this format holds one {role} turn there; use a conversational format")
    if not isinstance(text := messages[0]["content"], str):
        raise ValueError(
            f"{where} holds {type(text).__name__}, expected text; pictures and tool calls have no place here"
        )
    return text


def rest_of(row: Mapping[str, Any], *own: str) -> Row:
    return {name: value for name, value in row.items() if name not in own}


def turns_of(value: Any, role: str, column: str) -> list[Message]:
    """Return a column as messages; raise ValueError where it is neither text nor messages."""
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, str):
        return as_messages(value, role)
    if not isinstance(value, list) or not value:
        raise ValueError(f"the column {column!r} holds {type(value).__name__}, expected text or a list of messages")
    for message in value:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise ValueError(f"the column {column!r} holds a message without role and content: {str(message)[:60]}")
    return value


def value_of(name: str, text: str) -> Any:
    """Return the turns, or the column's list, that a cell holds as JSON, or else its text.

    Numbers and yes or no stay text, and so does all other JSON: a prompt may be a piece of code.
    """
    if text[:1] not in ("[", "{"):
        return text
    try:
        value = json.loads(text, parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        return text
    return value if _is_turns(value) or (name in LISTS and isinstance(value, list)) else text


def _is_turns(value: Any) -> bool:
    """Tell one turn or many, of role and content or of LLaMA-Factory's names, and what OpenAI puts around them."""
    turns = value.get("messages", [value]) if isinstance(value, dict) else value
    return bool(turns) and all(
        isinstance(turn, dict) and any(names <= turn.keys() for names in TURNS)
        for turn in (turns if isinstance(turns, list) else [turns])
    )


def refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
