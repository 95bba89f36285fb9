"""LLaMA-Factory's rows: alpaca and sharegpt rankings, and responses with a KTO tag.

Source: hiyouga/LLaMA-Factory, data/README.md.
"""

from __future__ import annotations

from typing import Any

from divalign.data.columns import SIDES, one_turn, rest_of, turns_of
from divalign.data.examples import Message, Row, as_messages
from divalign.data.sides import labelled
from divalign.data.training_rows import with_system

ALPACA = ("instruction", "input", "history")
SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}


def _prompt(row: Row) -> list[Message]:
    """Return history, and instruction with input, joined by a line break as LLaMA-Factory joins them."""
    turns: list[Message] = []
    history = row.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise ValueError(f"its history is {str(history)[:60]!r}, expected a list of pairs of question and answer")
    for question, answer in history:
        turns += [*as_messages(question, "user"), *as_messages(answer, "assistant")]
    parts = [row["instruction"], row["input"]] if row.get("input") else [row["instruction"]]
    if not all(isinstance(part, str) for part in parts):
        kinds = " and ".join(type(part).__name__ for part in parts)
        raise ValueError(f"its instruction and input are {kinds}, expected text")
    return [*turns, *as_messages("\n".join(parts), "user")]


def _write_prompt(messages: list[Message]) -> Row:
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    roles = [message["role"] for message in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2) + ["user"]:
        raise ValueError(f"the prompt's turns are {', '.join(roles)}; this format wants user and assistant in turn")
    if turns is not messages and not str(messages[0]["content"]).strip():
        raise ValueError("its system turn is blank, which this format reads as none; drop the turn")
    texts = [message["content"] for message in turns]
    columns: Row = {"instruction": texts[-1], "input": ""}
    columns |= {"system": messages[0]["content"]} if turns is not messages else {}
    pairs = [list(pair) for pair in zip(texts[:-1:2], texts[1::2], strict=True)]
    return columns | ({"history": pairs} if pairs else {})


def read_alpaca(row: Row) -> list[Row]:
    sides = {side: turns_of(row[side], "assistant", side) for side in SIDES}
    return [with_system({**rest_of(row, *ALPACA), "prompt": _prompt(row), **sides})]


def write_alpaca(row: Row, number: int) -> Row:
    sides = {side: one_turn(row[side], "assistant", side) for side in SIDES}
    return {**rest_of(row, "prompt"), **_write_prompt(row["prompt"]), **sides}


def read_kto(row: Row) -> list[Row]:
    if "conversations" in row:
        *prompt, answer = _from_sharegpt(row["conversations"])
        rest = labelled(rest_of(row, "conversations"))
        return [with_system({**rest, "prompt": prompt, "completion": _response(answer)})]
    completion = turns_of(row["output"], "assistant", "output")
    rest = labelled(rest_of(row, *ALPACA, "output"))
    return [with_system({**rest, "prompt": _prompt(row), "completion": completion})]


def write_kto(row: Row, number: int) -> Row:
    output = one_turn(row["completion"], "assistant", "the completion")
    rest = rest_of(row, "prompt", "completion", "label")
    return {**rest, **_write_prompt(row["prompt"]), "output": output, "kto_tag": row["label"]}


def read_sharegpt(row: Row) -> list[Row]:
    sides = {side: _from_sharegpt([row[side]]) for side in SIDES}
    prompt = _from_sharegpt(row["conversations"])
    return [with_system({**rest_of(row, "conversations"), "prompt": prompt, **sides})]


def write_sharegpt(row: Row, number: int) -> Row:
    sides = {side: as_messages(one_turn(row[side], "assistant", side), "assistant") for side in SIDES}
    turns = {side: _to_sharegpt(messages)[0] for side, messages in sides.items()}
    return {**rest_of(row, "prompt"), "conversations": _to_sharegpt(row["prompt"]), **turns}


def _response(message: Message) -> list[Message]:
    if message["role"] != "assistant":
        raise ValueError(f"the conversation ends with a turn of {message['role']}; expected one of the assistant")
    return [message]


def _from_sharegpt(turns: Any) -> list[Message]:
    names = {theirs: ours for ours, theirs in SHAREGPT.items()}
    if not isinstance(turns, list) or not all(isinstance(turn, dict) and "value" in turn for turn in turns):
        raise ValueError(f"its conversation is {str(turns)[:60]!r}, expected a list of turns with from and value")
    for turn in turns:
        if turn.get("from") not in names:
            raise ValueError(f"a turn is from {turn.get('from')!r}, expected {', '.join(names)}")
    return [Message(role=names[turn["from"]], content=turn["value"]) for turn in turns]


def _to_sharegpt(messages: list[Message]) -> list[dict[str, str]]:
    for message in messages:
        if message["role"] not in SHAREGPT:
            raise ValueError(f"a message of role {message['role']!r}; this format holds {', '.join(SHAREGPT)}")
    return [{"from": SHAREGPT[message["role"]], "value": message["content"]} for message in messages]
