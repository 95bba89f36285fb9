"""The prompts of any file of rows: training rows of a known format, and evaluation sets with the usual columns.

Whatever compares prompts reads both sides here. Where one side joined `instruction` and `input` and the other did not,
a file would not even leak into itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from divalign.data.columns import turns_of
from divalign.data.convert import Conversion, find_format, format_of, read_row
from divalign.data.examples import Row
from divalign.data.files import stream_whole
from divalign.data.formats import Format
from divalign.data.notes import Notes
from divalign.data.words import text_of

PROMPT_COLUMNS = ("prompt", "goal", "behavior", "forbidden_prompt", "instruction", "question", "messages", "text")
HARMFUL = {"1", "1.0", "true", "yes", "harmful", "unsafe"}
BENIGN = {"0", "0.0", "false", "no", "safe", "benign", "unharmful", "harmless"}
CLASSES = {"harmful", "unsafe", "safe", "benign", "unharmful", "harmless"}  # what other values mean is their column's
# Columns that say whether a prompt is harmful: outright, by its contrary, or in one of these words.
HARM = ("harmful", "is_harmful", "prompt_harmful", "unsafe", "is_unsafe")
NO_HARM = ("safe", "is_safe", "benign", "is_benign")
WORDED = ("label", "prompt_label", "prompt_harm_label", "type", "class")
OPTIONAL = ("harmful", "target", "id", "cluster", "response")  # whose absence and null are one


def prompt_of(row: Row, source: Format | None = None, *, empty: bool = False) -> str:
    """Return what the user says in a row's prompt: as the format `source` reads it, or the one that knows the row.

    A row that no format can read is asked for a column of the usual names. Raises ValueError where it has none, and for
    a prompt without text unless it may be `empty`.
    """
    prompt = _by_format(row, source)
    prompt = _by_name(row) if prompt is None else prompt
    if not (empty or prompt.strip()):
        raise ValueError("its prompt is empty")
    return prompt


def _by_format(row: Row, source: Format | None) -> str | None:
    form = source or ((name := format_of(row)) and find_format(name))
    try:
        return text_of(read_row(row, form)[0]["prompt"]) if form else None
    except ValueError:
        if source:
            raise
        return None  # its responses may be at fault, or it has none: its prompt can be read all the same


def _by_name(row: Row) -> str:
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
    return between.join(text_of(part) for part in parts if part)


def load_prompts(path: Path) -> list[Row]:
    """Return the rows of a file of prompts, each with its `prompt` as text, as an attack asks them.

    The prompt is read as everywhere: from `prompt`, or from `goal` (AdvBench, JailbreakBench), `Behavior` (HarmBench,
    behind its context) and the other usual columns, in any case. `harmful` becomes true or false where a row says it,
    in that column or as a `label` of "safe" or "unsafe"; `target` is read in any case. Other columns pass through.

    Raises ValueError, with the file and the line, for a row without a prompt, a conversation of several turns, and a
    class that is neither.
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
    prompt = row.get("prompt")
    turns = turns_of(prompt, "user", "prompt") if isinstance(prompt, (list, dict)) else []
    if [turn["role"] for turn in turns] not in ([], ["user"]):
        roles = ", ".join(turn["role"] for turn in turns)
        raise ValueError(f"its prompt is a conversation ({roles}); expected the text of one turn of the user")
    named = {str(name).strip().lower(): value for name, value in row.items()}
    parsed = {**row, "prompt": prompt if isinstance(prompt, str) and prompt.strip() else prompt_of(row)}
    if (harmful := _harmful(named)) is not None:
        parsed["harmful"] = harmful
    if named.get("target"):
        parsed["target"] = named["target"]
    return {name: value for name, value in parsed.items() if not (name in OPTIONAL and value in (None, ""))}


def _harmful(named: Row) -> bool | None:
    """Return whether a row says that its prompt is harmful. Raises ValueError where two columns disagree."""
    stated: dict[str, bool] = {}
    words = {name: str(value).strip().lower() for name, value in named.items()}
    single = not any(name in named for name in ("response", "completion", "output"))  # then safe may be about that
    for name in (*HARM, *NO_HARM) if single else HARM[:3]:
        if named.get(name) not in (None, "") and words[name] not in CLASSES:
            stated[name] = class_of(named[name], name) is (name in HARM)
    classes = (*HARM, *NO_HARM, *WORDED) if single else (*HARM[:3], *WORDED)
    stated |= {name: words[name] in HARMFUL for name in classes if words.get(name) in CLASSES}
    if len(set(stated.values())) > 1:
        raise ValueError(
            f"{' and '.join(stated)} disagree on whether the prompt is harmful; keep the one that is right"
        )
    return next(iter(stated.values()), None)


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
