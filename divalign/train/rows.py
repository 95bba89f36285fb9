"""Validate a data set for the trainer: convert it to rows, and check the columns of each row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from divalign.data.training_rows import training_row

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


def checked_rows(rows: Iterable[Any]) -> list[dict[str, Any]]:
    """Return the rows as `training_row` brings them to one form, all paired or all unpaired as the first one is.

    Raises ValueError, with the row's number from 0, where one is not.
    """
    listed = list(rows)
    if not listed:
        raise ValueError(
            "the data set is empty; expected rows with prompt, chosen, rejected or prompt, completion, label"
        )
    checked: list[dict[str, Any]] = []
    for number, row in enumerate(listed):
        checked.append(_checked(row, number, first=checked[0] if checked else None))
    return checked


def _checked(row: Any, number: int, *, first: Mapping[str, Any] | None) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise ValueError(f"row {number} is a {type(row).__name__}, expected a mapping with the columns {EXPECTED}")
    try:
        plain = training_row(row)
    except ValueError as error:
        raise ValueError(f"row {number}: {error}") from error
    paired = "chosen" in (plain if first is None else first)
    lacking = (PAIRED if paired else UNPAIRED) - set(plain)
    if lacking:
        raise ValueError(f"row {number} has no {min(lacking)}, which row 0 has; add it or leave the row out")
    if not paired and plain["label"] not in (0, 1):
        raise ValueError(f"row {number} has the label {plain['label']!r}, expected true or false (1 or 0)")
    return plain


def _not_one_set(data: Mapping[str, Any], name: str) -> str:
    names = ", ".join(map(str, data))
    if "prompt" in data:
        return f"{name} is a dict of the columns {names}, expected rows; datasets.Dataset.from_dict(...) makes them"
    return f"{name} holds the sets {names}, expected one of them: {name}=data[{next(iter(data), 'train')!r}]"
