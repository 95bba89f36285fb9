"""The prompts of any file of rows: training rows of a known format, and evaluation sets with the usual columns.

Whatever compares prompts reads both sides here. Where one side joined `instruction` and `input` and the other did not,
a file would not even leak into itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from divalign.data.columns import NO, SIDES, YES, is_absent, turns_of
from divalign.data.convert import Conversion, find_format, format_of, read_row
from divalign.data.examples import Row
from divalign.data.files import stream_whole
from divalign.data.formats import Format
from divalign.data.notes import Notes
from divalign.data.sides import ALIGNED, UNALIGNED
from divalign.data.training_rows import SYSTEM
from divalign.data.words import text_of

PROMPT_COLUMNS = ("prompt", "goal", "behavior", "forbidden_prompt", "instruction", "question", "messages", "text")
HARMFUL = {"1", "1.0", "true", "yes", "harmful", "unsafe"}
BENIGN = {"0", "0.0", "false", "no", "safe", "benign", "unharmful", "harmless"}
CLASSES = {"harmful", "unsafe", "safe", "benign", "unharmful", "harmless"}  # what other values mean is their column's
# Columns that say whether a prompt is harmful: outright, by its contrary, or in one of these words.
HARM = ("harmful", "is_harmful", "prompt_harmful", "unsafe", "is_unsafe")
NO_HARM = ("safe", "is_safe", "benign", "is_benign")
WORDED = ("label", "prompt_label", "prompt_harm_label", "type", "class")
# Words of a column's name that may say it too, in numbers or yes and no whose meaning only their maker knows, and words
# of names that number something else.
DOUBTFUL = frozenset((
    "harm", "harmful", "harmless", "harmfulness", "safe", "safety", "unsafe", "benign", "malicious", "toxic",
    "toxicity", "jailbreak", "jailbreaking",
))  # fmt: skip
NUMBERED = frozenset(("id", "index", "category", "categories", "type"))
NUMBER = re.compile(r"-?\d+(\.\d+)?")
TEXTS = (*PROMPT_COLUMNS, "input", "contextstring", "target")  # what they hold is no class
OF_SIDES = frozenset((*ALIGNED, *UNALIGNED))
UNSAFE_CONTRAST = "contrast_"  # how XSTest's types of unsafe prompts begin
RESPONSES = ("response", "completion", "output")
OF_RESPONSE = frozenset(("response", "completion", "output", "answer", "chosen", "rejected"))  # words of columns' names
BESIDE = (*SYSTEM, "history")  # what a model would see before the prompt
OPTIONAL = ("harmful", "target", "id", "cluster", "response")  # whose absence and null are one


def prompt_of(row: Row, source: Format | None = None, *, empty: bool = False) -> str:
    """Return what the user says in a row's prompt: as the format `source` reads it, or the one that knows the row.

    A row that no format can read is asked for a column of the usual names. Raises ValueError where it has none, and for
    a prompt without text unless it may be `empty`.
    """
    return _joined(*_parts(row, _by_format(row, source)), empty=empty)


def _joined(parts: Iterable[Any], between: str, *, empty: bool = False) -> str:
    prompt = between.join(text_of(part) for part in parts)
    if not (empty or prompt.strip()):
        raise ValueError("its prompt is empty")
    return prompt


def _by_format(row: Row, source: Format | None = None) -> Row | None:
    """Return the row as the format reads it, None where none does."""
    form = source or ((name := format_of(row)) and find_format(name))
    try:
        return read_row(row, form)[0] if form else None
    except ValueError:
        if source:
            raise
        return None  # its responses may be at fault, or it has none: its prompt can be read all the same


def _parts(row: Row, parsed: Row | None) -> tuple[list[Any], str]:
    """Return what makes up a row's prompt, each a text or messages, and what stands between two of them."""
    if parsed is not None:
        return [parsed["prompt"]], ""
    named = {str(name).strip().lower(): value for name, value in row.items()}
    names = [name for name in PROMPT_COLUMNS if name in named]
    if not names:
        columns = ", ".join(map(str, row))
        raise ValueError(f"a row has the columns {columns}; expected one of {', '.join(PROMPT_COLUMNS)}")
    name = next((name for name in names if named[name]), names[0])
    if name == "behavior":  # HarmBench: what some behaviors are about stands beside them
        parts, between = [named.get("contextstring"), named[name]], "\n\n"
    else:
        parts, between = [named[name], named.get("input") if name == "instruction" else None], "\n"
    return [part for part in parts if part], between


def load_prompts(path: Path) -> list[Row]:
    """Return the rows of a file of prompts, each with its `prompt` as text, as an attack asks them.

    The prompt is read as everywhere: from `prompt`, or from `goal` (AdvBench, JailbreakBench), `Behavior` (HarmBench,
    behind its context) and the other usual columns, in any case. `harmful` becomes true or false where a row says it,
    in that column or as a `label` of "safe" or "unsafe"; `target` is read in any case. Other columns pass through.

    Raises ValueError, with the file and the line, for a row without a prompt, a conversation of several turns in
    whichever column, a system text beside the prompt, a class that is neither, and, where no column says the class, one
    that may say it in an unknown way (`label: 0`).
    """
    notes, rows = Notes(), []
    for row in stream_whole(path, notes):
        try:
            rows.append(prompt_row(row))
        except ValueError as error:
            raise ValueError(f"{path}, line {notes.line}: {error}") from error
    return rows


def prompt_row(row: Row) -> Row:
    """Return the row with `prompt`, and where it says them `harmful` and `target`; null ones are left out."""
    named = {str(name).strip().lower(): value for name, value in row.items()}
    _refuse_beside(named)
    prompt, by_format = row.get("prompt"), _by_format(row)
    whole = isinstance(prompt, str) and prompt.strip()
    parts, between = ([prompt], "") if whole else _parts(row, by_format)
    for part in parts:
        _refuse_conversation(part)
    parsed = {**row, "prompt": _joined(parts, between)}
    if (harmful := _harmful(named, by_format)) is not None:
        parsed["harmful"] = harmful
    if named.get("target"):
        parsed["target"] = named["target"]
    return {name: value for name, value in parsed.items() if not (name in OPTIONAL and value in (None, ""))}


def _refuse_beside(named: Row) -> None:
    """Raise ValueError for a system text or earlier turns beside the prompt, without which it is another one."""
    for name in BESIDE:
        value = named.get(name)
        if not (is_absent(value) or str(value).strip() in ("", "[]")):
            raise ValueError(
                f"its column {name!r} holds {str(value)[:40]!r}, which would not be sent with the prompt; leave the "
                "row out, or drop the column (--system-prompt gives a served model one text for all prompts)"
            )


def _refuse_conversation(part: Any) -> None:
    roles = ["user"] if isinstance(part, str) else [turn["role"] for turn in turns_of(part, "user", "prompt")]
    if roles != ["user"]:
        raise ValueError(
            f"its prompt is a conversation ({', '.join(roles)}); expected the text of one turn of the user"
        )


def _harmful(named: Row, by_format: Row | None) -> bool | None:
    """Return whether a row says that its prompt is harmful, in a column or by its format.

    Raises ValueError where two columns disagree, and where none says it but one may.
    """
    stated: dict[str, bool] = {}
    words = {name: str(value).strip().lower() for name, value in named.items()}
    single = not any(_holds_text(named.get(name)) for name in RESPONSES)  # beside a response, safe may be about that
    for name in (*HARM, *NO_HARM) if single else HARM[:3]:
        if named.get(name) not in (None, "") and words[name] not in CLASSES:
            stated[name] = class_of(named[name], name) is (name in HARM)
    classes = (*HARM, *NO_HARM, *WORDED) if single else (*HARM[:3], *WORDED)
    stated |= {name: words[name] in HARMFUL for name in classes if words.get(name) in CLASSES}
    if len(set(stated.values())) > 1:
        raise ValueError(
            f"{' and '.join(stated)} disagree on whether the prompt is harmful; keep the one that is right"
        )
    if not stated and by_format is not None and isinstance(by_format.get("harmful"), bool):
        return by_format["harmful"]
    if not stated:
        texts = [(by_format or {}).get(name, named.get(name)) for name in (*SIDES, "completion")]
        _refuse_doubtful(named, beside_response=not single or any(map(_holds_text, texts)))
    return next(iter(stated.values()), None)


def _holds_text(value: Any) -> bool:
    """Tell a response from an empty cell: a text that is not blank, or a turn with content or tool calls."""
    if isinstance(value, Mapping):
        return _holds_text(value.get("content")) or bool(value.get("tool_calls"))
    if isinstance(value, list):
        return any(map(_holds_text, value))
    return not is_absent(value) and bool(str(value).strip())


def _refuse_doubtful(named: Row, *, beside_response: bool) -> None:
    """Raise ValueError for a column that may say the class of the prompt.

    Beside a response, the columns that say which side it is on, and those that name it, are about that.
    """
    for name, value in named.items():
        words, word = set(re.findall(r"[a-z]+", name)), str(value).strip().lower()
        of_response = beside_response and (name in OF_SIDES or bool(words & OF_RESPONSE)) and "prompt" not in words
        if name in TEXTS or is_absent(value) or not word or of_response:
            continue
        flag = bool(words & DOUBTFUL) and not words & NUMBERED and (word in YES | NO or NUMBER.fullmatch(word))
        worded = word.startswith(UNSAFE_CONTRAST) if name == "type" else name in WORDED
        denied = word.rpartition("_")[2] in CLASSES - HARMFUL  # HarmBench has a category of its own called harmful
        if flag or worded or denied:
            raise ValueError(
                f"{name}={value!r} may say whether the prompt is harmful, in a way that is not known; say it in a "
                f"column 'harmful' (true or false), or drop {name!r}"
            )


def class_of(value: Any, column: str = "harmful") -> bool:
    """Return whether a prompt is harmful: true or false, 1 or 0, or a word for either. Raises ValueError for others."""
    word = str(value).strip().casefold()
    if word not in HARMFUL | BENIGN:
        raise ValueError(f"{column} is {value!r}; expected true or false")
    return word in HARMFUL


def read_prompts(rows: Iterable[Row], source: str | None = None, done: Conversion | None = None) -> Iterator[str]:
    """Yield the prompt of each row, by the format `source` if one is given; a row without one is refused in `done`."""
    done = done or Conversion()
    form = None if source is None else find_format(source)
    for row in rows:
        done.read += 1
        try:
            prompt = prompt_of(row, form)
        except ValueError as error:
            done.refuse(done.number, error, row)
            continue
        yield prompt
