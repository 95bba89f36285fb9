"""Tables of the formats that sets come in: CSV, JSON, JSON lines, Parquet, and a line of text per row."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read_table(path: Path, columns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return a file's rows; each has at least `columns`.

    Raises ValueError where the file is missing, of another kind or broken (naming the line), or lacks a column (naming
    the nearest).
    """
    if not path.is_file():
        raise ValueError(f"no file {path}; expected CSV, JSON, JSON lines, Parquet or a text of one prompt a line")
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind not in READERS:
        raise ValueError(f"{path} ends in .{kind}; known: {', '.join(READERS)}")
    rows = READERS[kind](path)
    if not rows:
        raise ValueError(f"{path} holds no rows")
    for number, row in enumerate(rows, 1):
        missing = [column for column in columns if column not in row]
        if missing:
            near = difflib.get_close_matches(missing[0], row, n=1)
            guess = f"; did you mean {near[0]!r}?" if near else ";"
            raise ValueError(f"{path}, row {number} lacks the column {missing[0]!r}{guess} it has {', '.join(row)}")
    return rows


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); write it anew as UTF-8") from error


def _csv(path: Path) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(_text(path), newline="")))


def _json(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds a {type(rows).__name__}, expected a list of rows")
    return rows


def _jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number} is not JSON ({error.msg}); mend or delete the line") from error
    return rows


def _parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


def _lines(path: Path) -> list[dict[str, Any]]:
    return [{"text": line.strip()} for line in _text(path).split("\n") if line.strip()]


READERS = {"csv": _csv, "json": _json, "jsonl": _jsonl, "parquet": _parquet, "txt": _lines}
