"""Columns and turns, as files of many makers hold them, checked where they are read."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np

from divalign.data.examples import Message, Row, as_messages

SIDES = ("chosen", "rejected")
# Columns of known formats that hold lists of something else than turns.
LISTS = ("history", "acc_responses", "rej_responses", "tools")
TURNS = ({"role", "content"}, {"from", "value"})
YES, NO = frozenset(("true", "yes", "y", "1", "1.0")), frozenset(("false", "no", "n", "0", "0.0"))
# What other tools call the three roles.
ROLES = {"human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant"}


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the name that `name` was probably meant to be, if there is one."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=0.7)), None)


def check_columns(columns: Iterable[str], expected: Iterable[str], where: object) -> None:
    """Raise ValueError for the first expected column that is not there, naming the nearest one that is."""
    names = [str(name) for name in columns]
    for column in expected:
        if column not in names:
            near = nearest(column, names)
            guess = f"; is it {near!r}?" if near else ";"
            raise ValueError(f"{where} lacks the column {column!r}{guess} it has {', '.join(names) or 'none'}")


def truth(value: Any, column: str) -> bool:
    """Return yes or no as files write it: true, 1, "True", "1", "yes", and their contraries. Raises for others."""
    text = str(value).strip().lower()
    if text not in YES | NO:
        raise ValueError(f"the column {column!r} holds {value!r}, expected true or false")
    return text in YES


def is_absent(value: Any) -> bool:
    """Tell whether a cell holds nothing: None, or the NaN of a data frame."""
    return value is None or (isinstance(value, float) and isnan(value))


def cluster_name(value: Any) -> str:
    """Return a cluster's name as text: 7 and 7.0 are one, as a table with gaps types whole numbers as floats."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def truth_of(row: Mapping[str, Any], column: str) -> bool | None:
    """Return a column as true or false, None where it is empty. Raises ValueError for others, with the row's prompt."""
    if is_absent(row[column]) or row[column] == "":
        return None
    try:
        return truth(row[column], column)
    except ValueError as error:
        raise ValueError(f"the row with the prompt {str(row['prompt'])[:60]!r} cannot be read: {error}") from error


def one_turn(messages: list[Message], role: str, where: str) -> str:
    """Return the text of messages that are one turn of `role`; raise ValueError where they are more or another's."""
    if [message["role"] for message in messages] != [role]:
        roles = ", ".join(message["role"] for message in messages) or "nothing"
        raise ValueError(f"{where} is {roles}; this format holds one {role} turn there; use a conversational format")
    if messages[0].get("tool_calls"):
        raise ValueError(f"{where} calls a tool, which this format cannot hold; use a conversational format")
    return plain_content(messages[0]["content"])


def rest_of(row: Mapping[str, Any], *own: str) -> Row:
    return {name: value for name, value in row.items() if name not in own}


def turns_of(value: Any, role: str, column: str) -> list[Message]:
    """Return a column as a list of messages with role and content; text is one turn of `role`.

    Also read: a single message, a dict of the lists `role` and `content` (what `datasets` makes of a sequence of
    messages), and LLaMA-Factory's `from` and `value`. Raises ValueError for null, an empty list, anything else, and a
    message without content (null is allowed where it calls a tool instead).
    """
    if isinstance(value, str):
        return as_messages(value, role)
    if is_absent(value):
        kind = "null" if value is None else "NaN"
        raise ValueError(f"the column {column!r} is {kind}, expected text or messages; fill it in or leave the row out")
    if isinstance(value, np.ndarray):
        value = value.tolist()  # messages in a data frame that was read from parquet
    if isinstance(value, Mapping):
        value = _transposed(value, column)
    if not isinstance(value, Sequence) or isinstance(value, bytes) or not value:
        kind = "an empty list" if isinstance(value, Sequence) else type(value).__name__
        raise ValueError(f"the column {column!r} holds {kind}, expected text or a list of messages")
    return [_message(message, column) for message in value]


def _transposed(value: Mapping[str, Any], column: str) -> list[Any]:
    """Return one message as a list of it, and a dict of lists as a list of messages."""
    lists = {name: items for name, items in value.items() if isinstance(items, list)}
    if not any(names <= lists.keys() for names in TURNS) or isinstance(value.get("role", value.get("from")), str):
        return [value]
    if len({len(items) for items in lists.values()}) > 1:
        lengths = ", ".join(f"{len(items)} of {name}" for name, items in lists.items())
        raise ValueError(f"the column {column!r} is a dict of lists of different lengths: {lengths}")
    return [dict(zip(lists, items, strict=True)) for items in zip(*lists.values(), strict=True)]


def _message(message: Any, column: str) -> Message:
    if isinstance(message, Mapping) and {"from", "value"} <= message.keys() and "role" not in message:
        message = {"role": message["from"], "content": message["value"], **rest_of(message, "from", "value")}
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise ValueError(f"the column {column!r} holds a message without role and content: {str(message)[:60]}")
    role, content = message["role"], message["content"]
    if not isinstance(role, str):
        raise ValueError(f"the column {column!r} holds a message whose role is {role!r}, expected a name such as user")
    if content is None and not message.get("tool_calls"):
        raise ValueError(
            f"the column {column!r} holds a turn of {role} whose content is null; fill it in or leave the row out"
        )
    if content is not None and not isinstance(content, (str, list)):
        kind = type(content).__name__
        raise ValueError(
            f"the column {column!r} holds a turn of {role} whose content is {kind}; expected text, in one piece or in "
            "parts"
        )
    standard_role = ROLES.get(role, role)
    return message if standard_role == role and isinstance(message, dict) else {**message, "role": standard_role}  # type: ignore[return-value]


def plain_content(content: Any) -> str:
    """Return a message's content as text: parts of text are put together, null is empty.

    Raises ValueError for what is no text, such as a picture.
    """
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"a message holds {kind}; expected text, in one piece or in parts of type text")
        texts.append(part["text"])
    return "".join(texts)


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


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object of these columns. Raises ValueError where one stands twice, with two values perhaps."""
    row = dict(pairs)
    if len(row) < len(pairs):
        before: set[str] = set()
        twice = next(name for name, _ in pairs if name in before or before.add(name))
        raise ValueError(f"the column {twice!r} stands twice")
    return row
