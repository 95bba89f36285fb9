"""What trainers call their columns: each format read into our rows, and written from them.

Our rows are TRL's, conversational: `prompt, chosen, rejected` (paired) or `prompt, completion, label` (unpaired), each
text a list of messages, with `harmful`, `cluster`, `prefill` and any other columns beside. A format's own columns come
and go; all others pass through, unless a format is checked for unknown ones where it is used (`strict`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from divalign.data.columns import NO, SIDES, one_turn, rest_of, truth, turns_of
from divalign.data.examples import Row
from divalign.data.llama_factory import read_alpaca, read_kto, read_sharegpt, write_alpaca, write_kto, write_sharegpt
from divalign.data.sides import is_flag, labelled, side_columns, side_of_response
from divalign.data.training_rows import SHARED_TEXT, training_row, whole_words
from divalign.store import digest


@dataclass(frozen=True)
class Format:
    """One way to write rows down.

    `reads` gives our rows for one of its rows, `writes` the reverse, with the row's number (a format may want an id);
    both raise ValueError for a row that cannot be held. `detect` tells its rows from those of others; `kind` says
    whether a row holds a pair, a labelled response or an aligned response alone; `note` what a user must know.
    """

    kind: Literal["paired", "unpaired", "aligned"]
    detect: Callable[[Row], bool]
    reads: Callable[[Row], list[Row]]
    writes: Callable[[Row, int], Row]
    note: str = ""


def has(*columns: str) -> Callable[[Row], bool]:
    return lambda row: all(row.get(column) is not None for column in columns)


def _trl(row: Row) -> list[Row]:
    """TRL's pairs, plain or conversational; without a prompt, it is what both responses share, in whole words."""
    return [_as_turns(whole_words(training_row(row)))]


def _trl_unpaired(row: Row) -> list[Row]:
    parsed = _as_turns(training_row(row))
    return [{**parsed, "label": truth(parsed["label"], "label")}]


def _as_turns(row: Row) -> Row:
    names = [name for name in (*SIDES, "completion") if name in row]
    sides = {name: turns_of(row[name], "assistant", name) for name in names}
    return {**rest_of(row, SHARED_TEXT), "prompt": turns_of(row["prompt"], "user", "prompt"), **sides}


def _write_plain(row: Row, number: int) -> Row:
    sides = (name for name in (*SIDES, "completion") if name in row)
    texts = {name: one_turn(row[name], "assistant", name) for name in sides}
    return {**row, "prompt": one_turn(row["prompt"], "user", "the prompt"), **texts}


def _halos_pairs(row: Row) -> list[Row]:
    """HALOs wants rewards where a pair may have none: 1 and 0 together stand for none."""
    order = ("A", "B") if truth(row["label"], "label") else ("B", "A")
    parsed = rest_of(row, "type", "label", *(f"{name}_{letter}" for name in ("output", "reward") for letter in "AB"))
    parsed["prompt"] = turns_of(row["prompt"], "user", "prompt")
    rewards = [row.get(f"reward_{letter}", usual) for letter, usual in zip(order, (1.0, 0.0), strict=True)]
    for side, letter, reward in zip(SIDES, order, rewards, strict=True):
        parsed[side] = turns_of(row[f"output_{letter}"], "assistant", f"output_{letter}")
        if rewards != [1.0, 0.0]:
            parsed[f"reward_{side}"] = reward
    return [_without_own_id(parsed)]


def _write_halos_pairs(row: Row, number: int) -> Row:
    return {
        **rest_of(row, "chosen", "rejected", "reward_chosen", "reward_rejected"),
        "type": "pairwise_feedback",
        "prompt_id": row.get("prompt_id", digest(row["prompt"])),
        "output_A": row["chosen"],
        "output_B": row["rejected"],
        "label": 1,
        "reward_A": row.get("reward_chosen", 1.0),
        "reward_B": row.get("reward_rejected", 0.0),
    }


def _halos_binary(row: Row) -> list[Row]:
    label = truth(row["label"], "label")
    parsed = {**rest_of(row, "type", "output"), "label": label}
    parsed |= {
        "prompt": turns_of(row["prompt"], "user", "prompt"),
        "completion": turns_of(row["output"], "assistant", "output"),
    }
    return [_without_own_id(rest_of(parsed, "reward") if row.get("reward", float(label)) == float(label) else parsed)]


def _write_halos_binary(row: Row, number: int) -> Row:
    return {
        **rest_of(row, "completion"),
        "type": "binary_feedback",
        "prompt_id": row.get("prompt_id", digest(row["prompt"])),
        "output": row["completion"],
        "label": int(row["label"]),
        "reward": row.get("reward", float(row["label"])),
    }


def _without_own_id(row: Row) -> Row:
    return rest_of(row, "prompt_id") if row.get("prompt_id") == digest(row["prompt"]) else row


def _openai_pair(row: Row) -> list[Row]:
    request = row["input"] if isinstance(row["input"], Mapping) else {"messages": row["input"]}
    sides = {
        side: turns_of(row[f"{word}_output"], "assistant", f"{word}_output")
        for side, word in zip(SIDES, ("preferred", "non_preferred"), strict=True)
    }
    own = ("input", "preferred_output", "non_preferred_output")
    rest = {name: request[name] for name in request if name != "messages" and request[name] is not None}
    return [{**rest_of(row, *own), **rest, "prompt": turns_of(request["messages"], "user", "input"), **sides}]


def _write_openai_pair(row: Row, number: int) -> Row:
    options = {name: row[name] for name in OPENAI if name in row}
    sides = {"preferred_output": row["chosen"], "non_preferred_output": row["rejected"]}
    return {"input": {"messages": row["prompt"], **options}, **sides}


def _openai_messages(row: Row) -> list[Row]:
    *prompt, answer = turns_of(row["messages"], "user", "messages")
    if not prompt or answer["role"] != "assistant":
        raise ValueError("the messages hold no prompt or do not end with the assistant's; nothing can be trained on")
    for name in ("weight", "train", "training", "loss"):
        if str(dict(answer).get(name)).lower() in NO:
            raise ValueError(
                f"the last message has the {name} {dict(answer)[name]!r}: it is not to be learnt; leave the row out"
            )
    if side_of_response(rest_of(answer, "role", "content")) is False:
        raise ValueError("the last message says of itself that it is unaligned; say it in the row, as label: false")
    beside = labelled({**rest_of(row, "messages"), "completion": [answer]}, default=True)
    return [{**beside, "prompt": prompt}]


def _write_openai_messages(row: Row, number: int) -> Row:
    options = {name: row[name] for name in OPENAI if name in row}
    if len(row["completion"]) != 1:
        raise ValueError(f"the completion has {len(row['completion'])} messages; this format wants one, the last")
    return {"messages": [*row["prompt"], *row["completion"]], **options}


def _paper(row: Row) -> list[Row]:
    """Pair response by response; those without a partner come as unpaired rows."""
    harmful = not truth(row["safety"], "safety")
    sides = ("rej_responses", "acc_responses") if harmful else ("acc_responses", "rej_responses")
    rest = {**rest_of(row, "safety", *sides), "prompt": turns_of(row["prompt"], "user", "prompt"), "harmful": harmful}
    aligned, unaligned = ([turns_of(text, "assistant", side) for text in _listed(row[side], side)] for side in sides)
    if not (aligned or unaligned):
        raise ValueError("it holds no response")
    shared = min(len(aligned), len(unaligned))
    alone = [(text, True) for text in aligned[shared:]] + [(text, False) for text in unaligned[shared:]]
    return [
        *({**rest, "chosen": a, "rejected": u} for a, u in zip(aligned, unaligned, strict=False)),
        *({**rest, "completion": text, "label": label} for text, label in alone),
    ]


def _listed(value: Any, column: str) -> list[Any]:
    if not isinstance(value, (str, list)):
        raise ValueError(f"the column {column!r} holds {type(value).__name__}, expected a list of responses")
    return [value] if isinstance(value, str) else value


def _write_paper(row: Row, number: int) -> Row:
    if not isinstance(row.get("harmful"), bool):
        raise ValueError("it does not say whether its prompt is harmful; add the column 'harmful' (true or false)")
    texts = [[one_turn(row[side], "assistant", side)] for side in SIDES]
    complied, refused = texts[::-1] if row["harmful"] else texts
    return {
        "id": number,
        **rest_of(row, "chosen", "rejected", "harmful"),
        "safety": int(not row["harmful"]),
        "prompt": one_turn(row["prompt"], "user", "the prompt"),
        "acc_responses": complied,
        "rej_responses": refused,
    }


def _is(*types: type) -> Callable[[Row], bool]:
    """Tell pairs (or completions) whose response is of these types; a flag under `chosen` is none."""

    def test(row: Row) -> bool:
        texts = (row.get(name) for name in ("chosen", "completion", "response"))
        return isinstance(next((text for text in texts if isinstance(text, (str, list))), None), types)

    return test


def _both(*tests: Callable[[Row], bool]) -> Callable[[Row], bool]:
    return lambda row: all(test(row) for test in tests)


def _labelled(row: Row) -> bool:
    """Tell a prompt with a single response, under either name, and a column that says which side it is on."""
    return has("prompt")(row) and bool(side_columns(row)) and ("completion" in row or "response" in row)


def _as_it_is(row: Row, number: int) -> Row:
    return row


def _pair(row: Row) -> bool:
    """Tell rows with two responses, whatever they have beside: UltraFeedback repeats the chosen one in `messages`."""
    return _PAIRS(row) and not any(is_flag(row[side], beside_response=True) for side in SIDES)


OPENAI = ("tools", "parallel_tool_calls")
_PAIRS = has("chosen", "rejected")
_ENTRY = 'register it in dataset_info.json with {"ranking": true, "columns": '
# The order is that of detection: the first that knows a row has it.
FORMATS: dict[str, Format] = {
    "openai_preference": Format(
        "paired", has("input", "preferred_output", "non_preferred_output"), _openai_pair, _write_openai_pair
    ),
    "openai_messages": Format(
        "aligned", lambda row: has("messages")(row) and not _pair(row), _openai_messages, _write_openai_messages
    ),
    "halos_pairwise": Format(
        "paired", has("output_A", "output_B", "label"), _halos_pairs, _write_halos_pairs, "HALOs reads .json alone"
    ),
    "halos_binary": Format(
        "unpaired",
        _both(has("output", "label"), lambda row: row.get("type") == "binary_feedback"),
        _halos_binary,
        _write_halos_binary,
        "HALOs reads .json alone",
    ),
    "paper": Format("paired", has("safety", "acc_responses", "rej_responses"), _paper, _write_paper),
    "llamafactory_kto": Format(
        "unpaired",
        _both(has("kto_tag"), lambda row: "conversations" in row or "output" in row),
        read_kto,
        write_kto,
        'register it in dataset_info.json with {"columns": {"prompt": "instruction", "query": "input", "response": '
        '"output", "system": "system", "history": "history", "kto_tag": "kto_tag"}}',
    ),
    "llamafactory_alpaca": Format(
        "paired",
        _both(has("instruction"), _PAIRS),
        read_alpaca,
        write_alpaca,
        _ENTRY + '{"prompt": "instruction", "query": "input", "system": "system", "history": "history", "chosen": '
        '"chosen", "rejected": "rejected"}}',
    ),
    "llamafactory_sharegpt": Format(
        "paired",
        _both(has("conversations"), _PAIRS),
        read_sharegpt,
        write_sharegpt,
        _ENTRY + '{"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}, "formatting": "sharegpt"}',
    ),
    "trl": Format("paired", _both(_PAIRS, _is(list)), _trl, _as_it_is),
    "trl_plain": Format("paired", _both(_PAIRS, _is(str)), _trl, _write_plain),
    "trl_unpaired": Format("unpaired", _both(_labelled, _is(list)), _trl_unpaired, _as_it_is),
    "trl_unpaired_plain": Format("unpaired", _both(_labelled, _is(str)), _trl_unpaired, _write_plain),
}
