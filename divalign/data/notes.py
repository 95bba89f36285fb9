"""Notes on reading a file: rejected lines, and warnings for the user."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from divalign.limits import LINE
from divalign.store import write_rows


class Rejected(NamedTuple):
    """A rejected line: its number, the reason and its text."""

    line: int
    reason: str
    text: str


@dataclass
class Notes:
    """Notes on one pass over a file: filled while rows are streamed, complete after the last one.

    `line` says where the last row stands: in which line of a text file it begins, or which record it is of a JSON array
    or a Parquet file, from 1. `missing` counts, per column, the numbers that were NaN and are read as null; `removed`
    is a list of rejected lines from before, which no longer held.
    """

    rows: int = 0
    line: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    encodings: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    removed: Path | None = None
    path: Path | None = None

    def place(self, line: int) -> str:
        """Return the name of a line in messages: with its file, where that is known."""
        return f"{self.path}, line {line}" if self.path else f"row {line}"

    def reject(self, line: int, reason: str, text: str) -> None:
        self.rejected.append(Rejected(line, reason, text))

    def sentences(self, path: Path) -> list[str]:
        """Return the warnings for the user, one sentence each."""
        sentences = []
        if self.rejected:
            first = self.rejected[0]
            sentences.append(
                f"{path}: {counted(len(self.rejected), 'line')} of {len(self.rejected) + self.rows} set aside in "
                f"{aside_of(path).name}; the first is line {first.line}: {first.reason}"
            )
        if encodings := {name: count for name, count in self.encodings.items() if name != "utf-8"}:
            parts = ", ".join(f"{counted(count, 'line')} in {name}" for name, count in encodings.items())
            sentences.append(f"{path} is not all UTF-8: {parts}")
        for column, count in self.missing.items():
            sentences.append(
                f"{path}: {counted(count, 'value')} of the column {column!r} not a number (NaN), read as null"
            )
        if self.removed:
            sentences.append(f"{path} has no bad lines any more; {self.removed.name} of an earlier reading was removed")
        return sentences


def aside_of(path: Path) -> Path:
    """Return where the lines of `path` go that are no rows."""
    return path.with_name(f"{path.name}.rejected.jsonl")


def set_aside(path: Path, rejected: Sequence[Rejected]) -> bool:
    """Write what was rejected to `path`. Where nothing was, remove such a list from before; tell whether there was one.

    A file of that name that is no such list is the user's: it is left alone, or, where lines must be written, refused.
    """
    ours = path.is_file() and _is_list_of_rejected(path)
    if rejected:
        if path.is_file() and not ours:
            raise ValueError(f"{path} holds something else, and rejected lines would replace it; rename it")
        write_rows(path, (line._asdict() for line in rejected))
    elif ours:
        path.unlink()
    return ours and not rejected


def _is_list_of_rejected(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline(LINE.bytes)
    try:
        return set(json.loads(first)) == set(Rejected._fields)
    except (ValueError, TypeError, RecursionError):
        return False


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
