"""From one trainer's rows to another's, saying what was lost: measured by reading back what was written."""

from __future__ import annotations

import json
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from divalign.core.names import find
from divalign.data.columns import NO, SIDES, YES, nearest, rest_of, truth
from divalign.data.examples import Row
from divalign.data.formats import FORMATS, Format
from divalign.data.notes import Notes, Rejected
from divalign.data.sides import check_pair, labelled, side_columns
from divalign.data.training_rows import same_turns, training_row, with_system
from divalign.store import digest

OPTIONAL = ("harmful", "cluster", "prefill")
KNOWN_COLUMNS = ("prompt", "chosen", "rejected", "completion", "label")
ROWS_TRIED = 100  # in search of one that a format knows


@dataclass
class Conversion:
    """What a conversion did, complete when its last row has gone by.

    `lost` counts, per column, the rows whose value the target does not hold; `refused` holds the rows that it cannot
    hold at all, or that found no partner, with their number and the reason. Rows are numbered as `notes` has them, the
    notes of the file that they come from, or else as they come, from 1.
    """

    source: str = ""
    target: str = ""
    read: int = 0
    written: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    refused: list[Rejected] = field(default_factory=list)
    notes: Notes | None = None

    @property
    def number(self) -> int:
        """Return the number of the row that was read last."""
        return self.notes.line if self.notes else self.read

    def refuse(self, number: int, reason: object, row: Row) -> None:
        self.refused.append(Rejected(number, str(reason), json.dumps(row, ensure_ascii=False, default=str)))


def find_format(name: str) -> Format:
    """Return the format called `name`, or "pkg.module:thing"; raise ValueError, naming the nearest, for no format."""
    return find(name, FORMATS, kind="format", of=Format)


def format_of(row: Mapping) -> str | None:
    """Return the name of the first format that knows this row, if one does."""
    plain = dict(row)
    return next((name for name, form in FORMATS.items() if form.detect(plain)), None)


def detect_format(row: Mapping) -> str:
    """Return the name of the first format that knows this row; raise ValueError where none does."""
    if name := format_of(row):
        return name
    columns = ", ".join(map(str, row)) or "(none)"
    empty = [str(name) for name, value in row.items() if value is None]
    if format_of({name: "" if value is None else value for name, value in row.items()}) is None:
        empty = [name for name in empty if name in KNOWN_COLUMNS]
    if empty:
        raise ValueError(f"{' and '.join(empty)} is null in the columns {columns}; fill it in or leave the row out")
    if {"chosen", "rejected"} <= row.keys() or "completion" in row:
        training_row(row)  # says what is wrong with it
    meant = [(name, near) for name in map(str, row) if (near := nearest(name, KNOWN_COLUMNS)) and near != name]
    guess = "".join(f"; is {name!r} meant to be {near!r}?" for name, near in meant)
    raise ValueError(
        f"no known format has the columns {columns}{guess or ';'} expected prompt, chosen and rejected, or prompt, "
        f"completion and label, or the columns of one of {', '.join(FORMATS)}"
    )


def read_rows(rows: Iterable[Row], source: str | None = None, done: Conversion | None = None) -> Iterator[Row]:
    """Yield our rows, read from rows of the format `source`; of the format of the first known row, if not given.

    A row that cannot be read is refused in `done`. Raises ValueError where none of the first rows is known.
    """
    done = done or Conversion()
    stream = iter(rows)
    for row in stream if source is None else ():
        if source := format_of(row):
            stream = chain([row], stream)
            break
        _refuse_unknown(row, done)
    if source is None:
        if done.refused:
            raise ValueError(_first_fault(done))
        return
    form, done.source = find_format(source), source
    for row in stream:
        done.read += 1
        try:
            yield from read_row(row, form)
        except ValueError as error:
            done.refuse(done.number, error, row)


def _refuse_unknown(row: Row, done: Conversion) -> None:
    """Refuse a row that no format knows. Raises ValueError where it is one of too many: then it is no bad first row."""
    done.read += 1
    try:
        detect_format(row)
    except ValueError as error:
        done.refuse(done.number, error, row)
        if done.read >= ROWS_TRIED:
            raise ValueError(f"{_first_fault(done)}; none of the first {ROWS_TRIED} rows is known") from error


def _first_fault(done: Conversion) -> str:
    first = done.refused[0]
    return f"{(done.notes or Notes()).place(first.line)}: {first.reason}"


def read_row(row: Row, form: Format) -> list[Row]:
    """Return our rows for one row of a format; raise ValueError for a row that it cannot read, whatever the fault."""
    try:
        return [_agreed(with_system(_plain_truth(parsed))) for parsed in form.reads(row)]
    except KeyError as error:
        raise ValueError(f"it lacks the column {error}") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error


def _agreed(row: Row) -> Row:
    """Return the row; raise ValueError where a column that was passed through denies which side a response is on."""
    if "completion" in row:
        return labelled(row)
    check_pair(row)
    return row


def convert(
    rows: Iterable[Row], target: str, *, source: str | None = None, done: Conversion | None = None
) -> Iterator[Row]:
    """Yield rows in the format `target`, from rows of the format `source` (detected if not given).

    A pair becomes two labelled rows; a labelled row is paired with the next one of the other label that has the same
    prompt. `done` is told what was lost and which rows were left out. Raises ValueError for a name that is no format.
    """
    done = done or Conversion()
    to, done.target = find_format(target), target
    for number, row in enumerate(_of_kind(read_rows(rows, source, done), to.kind, done), 1):
        try:
            written = to.writes(row, number)
            back = with_system(_plain_truth(to.reads(written)[0]))
        except ValueError as error:
            done.refuse(done.number, error, row)
            continue
        done.lost.update(name for name, value in row.items() if not _is_same(name, value, back.get(name)))
        done.written += 1
        yield written


def _is_same(name: str, value: Any, other: Any) -> bool:
    if name in ("prompt", "completion", *SIDES) and isinstance(value, list) and isinstance(other, list):
        return same_turns(value, other)  # keys that are null here are absent there
    return value == other


def _plain_truth(row: Row) -> Row:
    """Return the row with `harmful` as a bool; without our own columns that are empty, as a table may have them."""
    row = {name: value for name, value in row.items() if name not in OPTIONAL or value not in (None, "")}
    return {**row, "harmful": truth(row["harmful"], "harmful")} if "harmful" in row else row


def _of_kind(rows: Iterator[Row], kind: str, done: Conversion) -> Iterator[Row]:
    if kind == "paired":
        return _paired(rows, done)
    return _unpaired(rows, done) if kind == "unpaired" else _aligned(rows, done)


def _unpaired(rows: Iterable[Row], done: Conversion) -> Iterator[Row]:
    """Yield labelled responses, two for a pair, without the pair's flags, which would deny the label of one of them."""
    for row in rows:
        if "label" in row and "completion" in row:
            yield row
        else:
            flags = side_columns(row)
            done.lost.update(name for name, value in flags.items() if str(value).strip().lower() not in YES | NO)
            rest = rest_of(row, *SIDES, *flags)
            yield from ({**rest, "completion": row[side], "label": side == "chosen"} for side in SIDES)


def _aligned(rows: Iterable[Row], done: Conversion) -> Iterator[Row]:
    for row in rows:
        if "rejected" in row:
            done.lost["rejected"] += 1
            rest = {name: value for name, value in row.items() if name not in SIDES}
            yield {**rest, "completion": row["chosen"], "label": True}
        elif row["label"]:
            yield row
        else:
            done.refuse(done.number, "an unaligned response; this format holds aligned ones alone", row)


def _paired(rows: Iterable[Row], done: Conversion) -> Iterator[Row]:
    """Yield pairs; labelled responses wait, first in first out, for one of the other label to the same prompt."""
    waiting: defaultdict[tuple[str, bool], deque[tuple[int, Row]]] = defaultdict(deque)
    for row in rows:
        if "completion" not in row:
            yield row
            continue
        prompt = digest(row["prompt"])
        if partners := waiting[prompt, not row["label"]]:
            partner = partners.popleft()[1]
            yield _join(*((row, partner) if row["label"] else (partner, row)), done)
        else:
            waiting[prompt, row["label"]].append((done.number, row))
    for number, row in sorted(chain.from_iterable(waiting.values()), key=lambda item: item[0]):
        done.refuse(number, "no response of the other label to the same prompt", row)


def _join(aligned: Row, unaligned: Row, done: Conversion) -> Row:
    rest = [{k: v for k, v in row.items() if k not in ("completion", "label")} for row in (aligned, unaligned)]
    done.lost.update(name for name, value in rest[1].items() if rest[0].get(name, value) != value)
    return {**rest[1], **rest[0], "chosen": aligned["completion"], "rejected": unaligned["completion"]}
