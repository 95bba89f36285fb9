"""A data set at the trainer's door: what can be taken as rows, and whether each row holds what its columns promise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

PAIRED = {"prompt", "chosen", "rejected"}
UNPAIRED = {"prompt", "completion", "label"}
EXPECTED = "prompt, chosen, rejected (paired) or prompt, completion, label (unpaired)"


def as_rows(data: Any, name: str) -> Any:
    """Return a data set as a sequence of rows; a pandas DataFrame and an Arrow table become one.

    Raises ValueError, with what to give instead, for a path, several sets, columns in a dict, and a stream, whose end
    nobody knows: the reference is scored before training, so every row is needed.
    """
    if data is None:
        return None
    if isinstance(data, (str, bytes)) or hasattr(data, "__fspath__"):
        raise ValueError(
            f"{name} is the path {str(data)!r}, expected rows; read it: datasets.load_dataset('json', data_files=PATH, "
            "split='train')"
        )
    if isinstance(data, Mapping):
        raise ValueError(_not_one_set(data, name))
    if hasattr(data, "iterrows"):  # pandas.DataFrame
        return data.to_dict("records")
    for method in ("to_pylist", "to_dicts"):
        if hasattr(data, method):
            return getattr(data, method)()
    if not hasattr(data, "__len__"):
        raise ValueError(
            f"{name} is a stream ({type(data).__name__}), which has no length; the reference is scored before training "
            "and needs all rows: take a part of it, datasets.Dataset.from_list(list(stream.take(10_000)))"
        )
    return data


def checked_rows(rows: Iterable[Any]) -> list[Mapping[str, Any]]:
    """Return the rows as a list, each of which has the columns of the first and text in them.

    Raises ValueError, with the row's number, where one has not.
    """
    listed = list(rows)
    if not listed:
        raise ValueError(
            "the data set is empty; expected rows with prompt, chosen, rejected or prompt, completion, label"
        )
    for number, row in enumerate(listed):
        if not isinstance(row, Mapping):
            raise ValueError(f"row {number} is a {type(row).__name__}, expected a mapping with the columns {EXPECTED}")
    columns = next((kind for kind in (PAIRED, UNPAIRED) if kind <= set(listed[0])), None)
    if columns is None:
        raise ValueError(f"the data set has the columns {', '.join(sorted(listed[0]))}; expected {EXPECTED}")
    for number, row in enumerate(listed):
        _check_row(row, number, columns)
    return listed


def _check_row(row: Mapping[str, Any], number: int, columns: set[str]) -> None:
    for name in sorted(columns - {"label"}):
        if name not in row:
            raise ValueError(f"row {number} has no {name}, which row 0 has; add it or leave the row out")
        fault = _fault(row[name])
        if fault:
            raise ValueError(f"row {number}: {name} {fault}; mend the row or leave it out")
    if "label" in columns and row.get("label") not in (0, 1):
        raise ValueError(f"row {number} has the label {row.get('label')!r}, expected true or false (1 or 0)")


def _fault(value: Any) -> str | None:
    """Return what is wrong with a text or a list of messages, None where nothing is."""
    if isinstance(value, str):
        return None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return f"is {'null' if value is None else 'NaN'}, expected text or messages"
    if isinstance(value, Mapping):
        return "is an object, expected text or a list of messages, each with role and content"
    if not isinstance(value, Iterable):
        return f"is {value!r}, expected text or messages"
    messages = list(value)
    if not messages:
        return "is an empty list, expected at least one message"
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or "role" not in message:
            return f"has a message {index} without role, expected role and content"
        content = message.get("content")
        if not isinstance(content, str):
            kind = "null" if content is None else f"a {type(content).__name__}"
            return f"has a message {index} whose content is {kind}, expected text"
    return None


def _not_one_set(data: Mapping[str, Any], name: str) -> str:
    names = ", ".join(map(str, data))
    if "prompt" in data:
        return f"{name} is a dict of the columns {names}, expected rows; datasets.Dataset.from_dict(...) makes them"
    return f"{name} holds the sets {names}, expected one of them: {name}=data[{next(iter(data), 'train')!r}]"
