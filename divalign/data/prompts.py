"""What is asked in the rows of any file: training rows of a known format, and evaluation sets of the usual columns.

Whatever compares prompts reads both sides here. Where one side joined `instruction` and `input` and the other did not,
a file would not even leak into itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from divalign.data.convert import Conversion, find_format, format_of, read_row
from divalign.data.examples import Row
from divalign.data.formats import Format
from divalign.data.words import text_of

PROMPT_COLUMNS = ("prompt", "goal", "behavior", "forbidden_prompt", "instruction", "question", "messages", "text")


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
    known = source or ((name := format_of(row)) and find_format(name))
    try:
        return text_of(read_row(row, known)[0]["prompt"]) if known else None
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
    parts = [named[name], named.get("input") if name == "instruction" else None]
    return "\n".join(text_of(part) for part in parts if part)


def read_prompts(rows: Iterable[Row], source: str | None = None, done: Conversion | None = None) -> Iterator[str]:
    """Yield the prompt of each row, by the format `source` if one is given; a row without one is refused in `done`."""
    done = done or Conversion()
    known = None if source is None else find_format(source)
    for row in rows:
        done.read += 1
        try:
            prompt = prompt_of(row, known)
        except ValueError as error:
            done.refuse(done.number, error, row)
            continue
        yield prompt
