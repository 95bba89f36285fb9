"""Rows into files: JSON lines, JSON, CSV, TSV or Parquet, each written beside its place and moved there whole."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from divalign.data.files import entry_for
from divalign.store import jsonl


def write_file(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows, as they come, to a file of the kind its name says; return how many.

    The path holds either the old file or all of the new one. CSV holds lists and mappings as JSON. Raises ValueError
    for another kind of file.
    """
    writer = entry_for(WRITERS, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    try:
        count = writer(draft, rows)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return count


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    with path.open("wb") as file:
        return sum(bool(file.write(jsonl([row]))) for row in rows)


def _write_array(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    with path.open("wb") as file:
        for count, row in enumerate(rows, 1):
            file.write((b"[\n" if count == 1 else b",\n") + jsonl([row]).rstrip(b"\n"))
        file.write(b"\n]\n" if count else b"[]\n")
    return count


def _write_separated(delimiter: str) -> Callable[[Path, Iterable[Mapping[str, Any]]], int]:
    def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
        held = list(rows)
        columns = list(dict.fromkeys(name for row in held for name in row))
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, delimiter=delimiter)
            writer.writeheader()
            for row in held:
                writer.writerow({name: _as_cell(value) for name, value in row.items()})
        return len(held)

    return write


def _as_cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value


def _write_parquet(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    table = pa.Table.from_pylist([dict(row) for row in rows])
    parquet.write_table(table, path)
    return table.num_rows


Writer = Callable[[Path, Iterable[Mapping[str, Any]]], int]
WRITERS: dict[str, Writer] = {
    ".jsonl": _write_lines,
    ".json": _write_array,
    ".csv": _write_separated(","),
    ".tsv": _write_separated("\t"),
    ".parquet": _write_parquet,
}
