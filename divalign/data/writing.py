"""Rows into files: JSON lines, JSON, CSV, TSV or Parquet, each written beside its place and moved there whole."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from gzip import GzipFile
from io import BufferedWriter, BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from divalign.data.files import entry_for
from divalign.store import jsonl

Sink = BufferedWriter | GzipFile
Rows = Iterable[Mapping[str, Any]]
Writer = Callable[[Sink, Rows], int]


def write_file(path: Path, rows: Rows) -> int:
    """Write rows, as they come, to a file of the kind its name says; return how many.

    The path holds either the old file or all of the new one, compressed where its name ends in .gz. CSV holds lists and
    mappings as JSON; Parquet has every row's columns, empty where a row lacks one. Raises ValueError for another kind,
    and for a column that Parquet cannot hold.
    """
    writer = entry_for(WRITERS, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)  # a kill may have left it, and a link or a pipe would be written to
    try:
        with _opened(draft, path) as file:
            count = writer(file, rows)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return count


@contextmanager
def _opened(draft: Path, path: Path) -> Iterator[Sink]:
    """Open the draft of `path`: the same rows give the same bytes, so no time and no name go into an archive."""
    with draft.open("xb") as raw:
        if path.suffix.lower() == ".gz":
            with GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
                yield packed
        else:
            yield raw


def _write_lines(file: Sink, rows: Rows) -> int:
    return sum(bool(file.write(jsonl([row]))) for row in rows)


def _write_array(file: Sink, rows: Rows) -> int:
    count = 0
    for count, row in enumerate(rows, 1):
        file.write((b"[\n" if count == 1 else b",\n") + jsonl([row]).rstrip(b"\n"))
    file.write(b"\n]\n" if count else b"[]\n")
    return count


def _write_separated(delimiter: str) -> Writer:
    def write(file: Sink, rows: Rows) -> int:
        buffered = list(rows)
        text = TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.DictWriter(text, _columns(buffered), delimiter=delimiter)
        writer.writeheader()
        for row in buffered:
            writer.writerow({name: _as_cell(value) for name, value in row.items()})
        text.detach()  # it would close the file with itself
        return len(buffered)

    return write


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _as_cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value


def _write_parquet(file: Sink, rows: Rows) -> int:
    buffered = list(rows)
    columns = {name: _as_column(name, [row.get(name) for row in buffered]) for name in _columns(buffered)}
    parquet.write_table(pa.table(columns), file)
    return len(buffered)


def _as_column(name: str, values: Sequence[Any]) -> pa.Array:
    """Return the values as a column of one type, which Parquet needs. Raises ValueError where there is none."""
    try:
        column = pa.array(values)
        parquet.write_table(pa.table({name: column[:0]}), BytesIO())  # Arrow has types that Parquet lacks
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(
            f"Parquet cannot hold the column {name!r} ({str(error).splitlines()[0]}); write JSON lines (.jsonl)"
        ) from error
    return column


WRITERS: dict[str, Writer] = {
    ".jsonl": _write_lines,
    ".json": _write_array,
    ".csv": _write_separated(","),
    ".tsv": _write_separated("\t"),
    ".parquet": _write_parquet,
}
