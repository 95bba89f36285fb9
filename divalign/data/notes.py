"""What was met while reading a file: lines that are no rows, and what a user must be told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from divalign.store import write_rows


class Rejected(NamedTuple):
    """A line that is no row: where it stands, why, and what it says."""

    line: int
    reason: str
    text: str


@dataclass
class Notes:
    """What was met while reading: filled as the rows go by, complete when the last one has.

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
        """Return how a line is called in a message: with its file, where that is known."""
        return f"{self.path}, line {line}" if self.path else f"row {line}"

    def reject(self, line: int, reason: str, text: str) -> None:
        self.rejected.append(Rejected(line, reason, text))

    def sentences(self, path: Path) -> list[str]:
        """Return what a user must be told of the file, one sentence each."""
        said = []
        if self.rejected:
            first = self.rejected[0]
            said.append(
                f"{path}: {counted(len(self.rejected), 'line')} of {len(self.rejected) + self.rows} set aside in "
                f"{aside_of(path).name}; the first is line {first.line}: {first.reason}"
            )
        if others := {name: count for name, count in self.encodings.items() if name != "utf-8"}:
            parts = ", ".join(f"{counted(count, 'line')} in {name}" for name, count in others.items())
            said.append(f"{path} is not all UTF-8: {parts}")
        for column, count in self.missing.items():
            said.append(f"{path}: {counted(count, 'value')} of the column {column!r} not a number (NaN), read as null")
        if self.removed:
            said.append(f"{path} has no bad lines any more; {self.removed.name} of an earlier reading was removed")
        return said


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
        write_rows(path, (one._asdict() for one in rejected))
    elif ours:
        path.unlink()
    return ours and not rejected


def _is_list_of_rejected(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline()
    try:
        return set(json.loads(first)) == set(Rejected._fields)
    except (ValueError, TypeError, RecursionError):
        return False


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
