"""Read the rows of a Parquet file, whose few bytes may stand for many: a dictionary's one text for every row.

What the file unpacks to is counted before any of it is: its declared sizes, its values, and the text that its
dictionaries stand for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as parquet

from divalign.data.examples import Row
from divalign.data.notes import Notes, counted
from divalign.limits import Limit, refuse_larger, unpacked_limit

BATCH = 1024  # rows
COUNTED = 2**16  # rows that are counted at once, as numbers of texts
SMALLEST = 8  # bytes of a value
DAMAGED_PARQUET = (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError)  # all that pyarrow raises
BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
DICTIONARIES = {"RLE_DICTIONARY", "PLAIN_DICTIONARY"}
DELTA = "DELTA_BYTE_ARRAY"  # text as what is shared with the text before, and the rest: long texts of few bytes each


def parquet_rows(path: Path, notes: Notes) -> Iterator[Row]:
    """Yield the rows of a Parquet file, times and decimals as text, NaN as null.

    Raises ValueError for a damaged file, one that unpacks to more than `limits.unpacked_limit`, a column that stands
    twice, and bytes.
    """
    try:
        file = parquet.ParquetFile(path)
    except DAMAGED_PARQUET as error:
        raise ValueError(f"{path} is no Parquet file: {error}") from error
    try:
        yield from _rows(file, path, notes)
    except DAMAGED_PARQUET as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is a damaged Parquet file after {counted(notes.rows, 'row')}: {reason}") from error


def _rows(file: parquet.ParquetFile, path: Path, notes: Notes) -> Iterator[Row]:
    with file:
        limit = unpacked_limit(path)
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        refuse_larger(sum(group.total_byte_size for group in groups), limit, path)
        chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
        refuse_larger(SMALLEST * sum(chunk.num_values for chunk in chunks), limit, path)
        _refuse_columns(file, path)
        _refuse_long_dictionaries(file, path, limit)
        schema = pa.schema([field.with_type(_as_text(field.type)) for field in file.schema_arrow])
        floats = [field.name for field in schema if "float" in str(field.type) or "double" in str(field.type)]
        size, rows = 0, 1 if any(DELTA in chunk.encodings for chunk in chunks) else BATCH
        for batch in file.iter_batches(batch_size=rows):
            size += batch.nbytes
            refuse_larger(size, limit, path)
            for row in batch.cast(schema).to_pylist():
                notes.line += 1
                for name in floats:
                    row[name] = _without_nan(row[name], name, notes)
                yield row


def _refuse_columns(file: parquet.ParquetFile, path: Path) -> None:
    names = file.schema_arrow.names
    if len(set(names)) < len(names):
        raise ValueError(f"{path} names a column twice: {', '.join(names)}; rename one of the two, or drop it")
    paths = Counter(file.schema.column(number).path for number in range(len(file.schema)))
    if twice := [name for name, count in paths.items() if count > 1]:  # pyarrow would take one for the other
        raise ValueError(f"{path} has two columns of text or numbers at the path {twice[0]!r}; rename one, or drop it")
    for field in file.schema_arrow:
        if _has_bytes(field.type):
            raise ValueError(
                f"{path} has bytes in the column {field.name!r}, expected text or numbers; drop the column, or "
                "write it as text"
            )


def _refuse_long_dictionaries(file: parquet.ParquetFile, path: Path, limit: Limit) -> None:
    """Raise ValueError where the text of all rows is over the limit, without making it: one text may serve them all."""
    texts = [file.schema.column(number).path for number in range(len(file.schema)) if _has_dictionary(file, number)]
    size = 0
    with parquet.ParquetFile(path, read_dictionary=texts) as numbered:
        for group in range(file.metadata.num_row_groups) if texts else ():  # pyarrow joins no dictionaries of two
            for batch in numbered.iter_batches(batch_size=COUNTED, row_groups=[group], columns=texts):
                size += sum(map(_text_bytes, batch.columns))
                refuse_larger(size, limit, path)


def _has_dictionary(file: parquet.ParquetFile, number: int) -> bool:
    """Tell whether a column of text may be read as numbers of texts, which pyarrow does of no deltas."""
    groups = range(file.metadata.num_row_groups)
    encodings = {name for group in groups for name in file.metadata.row_group(group).column(number).encodings}
    text = file.schema.column(number).physical_type == "BYTE_ARRAY"
    return text and bool(encodings & DICTIONARIES) and not any(name.startswith("DELTA") for name in encodings)


def _text_bytes(array: Any) -> int:
    """Return the bytes of an array once each number of a text is that text."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        lengths = compute.call_function("binary_length", [array.dictionary])
        return lengths.cast(pa.int64()).take(array.indices).sum().as_py() or 0
    if pa.types.is_struct(kind):
        return sum(map(_text_bytes, array.flatten()))
    if pa.types.is_map(kind):
        start, end = (array.offsets[place].as_py() for place in (0, -1))
        return sum(_text_bytes(part.slice(start, end - start)) for part in (array.keys, array.items))
    return _text_bytes(array.flatten()) if pa.types.is_nested(kind) else array.nbytes


def _without_nan(value: Any, column: str, notes: Notes) -> Any:
    """Return a value with null for NaN, which is how data frames write a missing number and JSON cannot."""
    if isinstance(value, float) and value != value:
        notes.missing[column] += 1
        return None
    if isinstance(value, list):
        return [_without_nan(item, column, notes) for item in value]
    if isinstance(value, dict):
        return {name: _without_nan(item, column, notes) for name, item in value.items()}
    return value


def _as_text(kind: pa.DataType) -> pa.DataType:
    """Return the type with text for what JSON has no numbers for, times and decimals, inside lists and structs too."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_as_text(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_as_text(kind.key_type), _as_text(kind.item_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_as_text(kind.value_type)), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        items = kind.value_field.with_type(_as_text(kind.value_type))
        return pa.list_(items) if pa.types.is_list(kind) else pa.large_list(items)
    return pa.string() if pa.types.is_temporal(kind) or pa.types.is_decimal(kind) else kind


def _has_bytes(kind: pa.DataType) -> bool:
    """Tell a type of bytes, or one that has bytes inside, which neither JSON nor a model of text can hold."""
    if pa.types.is_nested(kind):
        return any(_has_bytes(kind.field(number).type) for number in range(kind.num_fields))
    return any(test(kind) for test in BYTES)
