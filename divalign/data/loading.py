"""Training rows and labelled responses from a file: each one usable, or the first that is not in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from divalign.data.columns import truth
from divalign.data.convert import detect_format, find_format, read_row
from divalign.data.examples import Row
from divalign.data.files import stream_whole
from divalign.data.notes import Notes
from divalign.data.rendering import template_options
from divalign.data.training_rows import training_row


def load_training_rows(path: Path) -> list[Row]:
    """Return the rows of a file as TRL has them, for training and for estimates.

    TRL's own rows stay as they are, plain or conversational; rows of other formats become conversational. Raises
    ValueError where a line is no row, and where a row cannot be trained on: with the file, the line, fault and remedy
    of the first such row, and how many there are.
    """
    notes, rows, faults = Notes(), [], []
    for row in stream_whole(path, notes):
        try:
            rows += as_training_rows(row)
        except ValueError as error:
            faults.append((notes.line, error))
    if faults:
        (line, error), count = faults[0], len(faults)
        total = f" ({count} rows of {notes.rows} cannot be trained on)" if count > 1 else ""
        raise ValueError(f"{path}, line {line}: {error}{total}")
    return rows


def load_labelled(path: Path) -> list[Row]:
    """Return the rows of a file of labelled responses, with `refused` as true or false, however a table writes it.

    Raises ValueError, with the file and the line, where a line is no row, holds no text under `prompt` or `response`,
    or does not say whether it refused.
    """
    notes, rows = Notes(), []
    for row in stream_whole(path, notes):
        try:
            rows.append(_labelled_row(row))
        except ValueError as error:
            raise ValueError(f"{path}, line {notes.line}: {error}") from error
    return rows


def _labelled_row(row: Row) -> Row:
    for column in ("prompt", "response"):
        if not isinstance(row.get(column), str):
            state = f"holds {row[column]!r:.60}" if column in row else "is missing"
            raise ValueError(f"the column {column!r} {state}, expected text")
    if "refused" not in row:
        raise ValueError("it lacks the column 'refused' (true where it refuses)")
    return {**row, "refused": truth(row["refused"], "refused")}


def as_training_rows(row: Mapping) -> list[Row]:
    """Return the row as TRL's rows. Raises ValueError for a row that no format knows or that cannot be trained on."""
    name = detect_format(row)
    if not name.startswith("trl"):
        return [training_row(parsed) for parsed in read_row(dict(row), find_format(name))]
    template_options(training_row(row))
    label = {"label": truth(row["label"], "label")} if row.get("label") is not None else {}
    return [{**row, **label}]
