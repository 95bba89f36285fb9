"""Read a user's files: rows of JSON lines, JSON, CSV, TSV or Parquet, and the lines that cannot be read.

Rows come one at a time, so a file may be larger than memory (a JSON array excepted, which is one value). A line that
cannot be read is set aside with its number and the reason; the good lines are kept.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from divalign.data.columns import TURNS, once, refuse_constant, value_of
from divalign.data.examples import Row
from divalign.data.lines import ended_anyhow, lines_of, whole_text
from divalign.data.notes import Notes, aside_of, counted, set_aside
from divalign.data.parquet_file import parquet_rows
from divalign.limits import LINE
from divalign.store import jsonl

SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# Columns of known formats: where a JSON object holds text or turns under one of them, it is a row.
TEXTS = frozenset((
    "prompt", "chosen", "rejected", "completion", "response", "messages", "conversations", "instruction", "question",
    "goal", "behavior", "forbidden_prompt", "preferred_output", "output_a", "acc_responses",
))  # fmt: skip
logger = logging.getLogger(__name__)


class Reading(NamedTuple):
    """A file's rows, and notes on lines that could not be read."""

    rows: list[Row]
    notes: Notes


def read_file(path: Path) -> Reading:
    """Return all rows of a file; lines that are no rows are written to FILE.rejected.jsonl beside it.

    The kind of file is read off its name: .jsonl, .ndjson, .json, .csv, .tsv, .txt (a prompt a line), .parquet, and all
    but the last also with .gz.
    Text that is not UTF-8 is read by its byte order mark, or as UTF-16 where every other byte is zero, or line by line
    as Windows-1252: `notes` says how often. Raises ValueError for a missing file, another kind, and no row at all.
    """
    notes = Notes()
    return Reading(list(stream_file(path, notes)), notes)


def load_rows(path: Path) -> list[Row]:
    """Return all rows of a file of which each line must be one; log everything else as warnings.

    Raises ValueError, as `read_file` does and where a line is no row: with the first one, the fault and the remedy.
    """
    notes = Notes()
    return list(stream_whole(path, notes))


def stream_whole(path: Path, notes: Notes) -> Iterator[Row]:
    """Yield the rows of a file one at a time, as `load_rows` returns them, and raise ValueError where it does."""
    for row in _rows_of(path, notes):
        if notes.rejected:
            break
        yield row
    if notes.rejected:
        first = notes.rejected[0]
        raise ValueError(f"{path}, line {first.line}: {first.reason}; mend the line, or delete it")
    _refuse_empty(path, notes)
    warn_of(notes, path)


def warn_of(notes: Notes, path: Path) -> None:
    """Log what a user must be told of a file that was read."""
    for sentence in notes.sentences(path):
        logger.warning(sentence)


def stream_file(path: Path, notes: Notes | None = None) -> Iterator[Row]:
    """Yield the rows of a file one at a time, and set lines aside as `read_file` does when the last one has gone by."""
    notes = Notes() if notes is None else notes
    yield from _rows_of(path, notes)
    if set_aside(aside_of(path), notes.rejected):
        notes.removed = aside_of(path)
    _refuse_empty(path, notes)


def _rows_of(path: Path, notes: Notes) -> Iterator[Row]:
    notes.path = path
    try:
        for row in _reader(path)(path, notes):
            notes.rows += 1
            yield row
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is a damaged .gz file after {counted(notes.rows, 'row')}: {error}") from error


def _refuse_empty(path: Path, notes: Notes) -> None:
    if not notes.rows:
        first = f"; line {notes.rejected[0].line}: {notes.rejected[0].reason}" if notes.rejected else ""
        raise ValueError(f"{path} holds no rows{first}")


def _reader(path: Path) -> Callable[[Path, Notes], Iterator[Row]]:
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected a file of rows")
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1)
        raise ValueError(f"no file at {path}" + (f"; did you mean {near[0]}?" if near else ""))
    return entry_for(READERS, path)


def entry_for(table: Mapping[str, Any], path: Path) -> Any:
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix not in table or (suffix == ".parquet" and path.suffix.lower() == ".gz"):
        raise ValueError(f"{path} ends in {path.suffix or 'nothing'}; expected one of {', '.join(table)}")
    return table[suffix]


def _json_lines(path: Path, notes: Notes) -> Iterator[Row]:
    for number, line in enumerate(lines_of(path, notes.encodings), 1):
        if line.strip():
            row, reason = _parsed(line.rstrip("\r\n"))
            if row is None:
                notes.reject(number, reason, line.rstrip("\r\n"))
            else:
                notes.line = number
                yield row


def _text_lines(path: Path, notes: Notes) -> Iterator[Row]:
    """Yield the lines of a text file, as the sets of prompts that are kept so have them: one each."""
    for number, line in enumerate(ended_anyhow(lines_of(path, notes.encodings)), 1):
        if line.strip():
            notes.line = number
            yield {"text": line.strip()}


def _parsed(text: str) -> tuple[Row | None, str]:
    """Return the row that a line of JSON holds, or None and why there is none."""
    try:
        row = json.loads(text, parse_constant=refuse_constant, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        return None, f"not JSON ({error.msg.removesuffix(' at')} at character {error.colno})"
    except (ValueError, RecursionError) as error:
        return None, f"not JSON ({error})"
    return _checked(row, escapes=_has_escapes(text))


def _has_escapes(text: str) -> bool:
    """Tell whether JSON text escapes halves of characters, of which one may stand alone."""
    return SURROGATE.search(text) is not None


def _checked(row: Any, *, escapes: bool) -> tuple[Row | None, str]:
    if not isinstance(row, dict):
        return None, f"expected an object with columns, got {type(row).__name__}"
    try:
        if escapes:
            jsonl([row])
    except UnicodeEncodeError:
        return None, "it holds half a character (a lone surrogate), which no file can hold"
    except RecursionError:
        return None, "it is nested too deeply"
    return row, ""


def _as_json(item: Any) -> str:
    """Return what is no row as text, for the list of rejected ones; empty where it is nested too deeply."""
    try:
        return json.dumps(item)
    except RecursionError:
        return ""


def _json(path: Path, notes: Notes) -> Iterator[Row]:
    """Yield the rows of a JSON array, of the one list in an object, or of JSON lines under the name .json."""
    text = whole_text(path, notes.encodings)
    try:
        content = json.loads(text, parse_constant=refuse_constant, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("["):  # the lines of an array are no rows
            raise ValueError(f"{path} is a JSON array that cannot be read: {error}") from error
        notes.encodings.clear()
        yield from _json_lines(path, notes)
        return
    escapes = _has_escapes(text)  # once: the text of all rows is long
    for number, item in enumerate(_items(content, path), 1):
        row, reason = _checked(item, escapes=escapes)
        if row is None:
            notes.reject(number, reason, _as_json(item))
        else:
            notes.line = number
            yield row


def _items(content: Any, path: Path) -> list[Any]:
    """Return an array's items, those of the one list of rows in an object, or the object, which is then a row.

    An object with a text or turns in a column of a known format is a row, whatever lists (of tools, of documents) it
    has beside.
    """
    if not isinstance(content, dict):
        return content if isinstance(content, list) else [content]
    if any(name.strip().lower() in TEXTS and _is_text(value) for name, value in content.items()):
        return [content]
    lists = {name: value for name, value in content.items() if isinstance(value, list)}
    if lists.keys() == content.keys() and len(lists) == 1 and not any(lists.values()):
        return []
    rows = {name: value for name, value in lists.items() if value and all(map(_is_row, value))}
    if len(rows) > 1:
        raise ValueError(f"{path} holds the lists {', '.join(rows)}; expected one: give each a file of its own")
    return next(iter(rows.values())) if rows and len(lists) == 1 else [content]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and bool(value) and not any(map(_is_row, value)))


def _is_row(item: Any) -> bool:
    return isinstance(item, dict) and not any(names <= item.keys() for names in TURNS)


def _separated(delimiter: str) -> Callable[[Path, Notes], Iterator[Row]]:
    def read(path: Path, notes: Notes) -> Iterator[Row]:
        records = _records(path, notes, delimiter)
        header = next(records, [])
        if notes.rejected:
            first = notes.rejected[0]
            raise ValueError(f"{path} has no header that can be read: line {first.line} is {first.reason}")
        if len(header) == 1 and (other := next((m for m in ";\t|," if m in header[0] and m != delimiter), None)):
            raise ValueError(
                f"{path} has the one column {header[0]!r}; its cells seem to be separated by {other!r}, expected "
                f"{delimiter!r}: write it anew, or name it .tsv where they are tabs"
            )
        if len(set(header)) < len(header):
            raise ValueError(f"{path} names a column twice: {', '.join(header)}")
        for cells in records:
            if len(cells) == len(header):
                yield {name: value_of(name, cell) for name, cell in zip(header, cells, strict=True)}
            else:
                reason = f"{counted(len(cells), 'cell')} under {counted(len(header), 'column')}"
                notes.reject(notes.line, reason, delimiter.join(cells))

    return read


def _records(path: Path, notes: Notes, delimiter: str) -> Iterator[list[str]]:
    """Yield the records of a table, `notes.line` where each begins.

    One that cannot be taken apart is set aside line by line: a quote that is never closed swallows all that follow.
    """
    csv.field_size_limit(LINE.bytes)
    pending: list[str] = []
    lines = (pending.append(line) or line for line in ended_anyhow(lines_of(path, notes.encodings)))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        notes.line = reader.line_num + 1
        pending.clear()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            where = f" of a record that begins in line {notes.line}" if len(pending) > 1 else ""
            for number, line in enumerate(pending, notes.line):
                notes.reject(number, f"no row of a table{where} ({error})", line.rstrip("\r\n"))
            continue
        if cells is None:
            return
        if cells:
            yield cells


Reader = Callable[[Path, Notes], Iterator[Row]]
READERS: dict[str, Reader] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".txt": _text_lines,
    ".parquet": parquet_rows,
}
