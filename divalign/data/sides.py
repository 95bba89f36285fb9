"""Which side a response is on, aligned or unaligned, by every column that says so.

Sets name this column in many ways. One that is overlooked turns an unaligned response into an aligned one, so all of
them are read, and a row is refused where two of them disagree or one says neither yes nor no.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from divalign.data.columns import truth

# Columns that are true for an aligned response, and columns that are true for an unaligned one.
ALIGNED = (
    "label", "kto_tag", "safe", "is_safe", "is_response_safe", "response_safe", "preferred", "is_preferred",
    "desirable", "is_desirable", "chosen", "is_chosen", "accepted", "is_accepted", "aligned", "is_aligned",
    "acceptable", "thumbs_up", "liked", "good", "is_good",
)  # fmt: skip
UNALIGNED = (
    "unsafe", "is_unsafe", "unaligned", "is_unaligned", "undesirable", "is_undesirable", "rejected",
    "is_rejected", "dispreferred", "thumbs_down", "disliked", "bad", "is_bad", "jailbroken", "is_jailbroken",
    "response_harmful", "is_response_harmful", "response_toxic",
)  # fmt: skip
READ_AND_LEFT = ("label", "kto_tag", "chosen", "rejected")  # flags that a row loses once `label` says the same


def side_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a row that say which side its response is on; texts under `chosen` say something else."""
    names = {*ALIGNED, *UNALIGNED}
    named = {name: value for name, value in row.items() if str(name).strip().lower() in names}
    return {
        name: value
        for name, value in named.items()
        if not (str(name).strip().lower() in ("chosen", "rejected") and isinstance(value, (str, list, dict)))
    }


def side_of_response(row: Mapping[str, Any]) -> bool | None:
    """Return whether a row's single response is aligned; None where no column says so.

    Raises ValueError where columns disagree, one is neither true nor false, or all of them are null.
    """
    columns = side_columns(row)
    stated = {name: _says(name, value) for name, value in columns.items() if value is not None}
    if columns and not stated:
        raise ValueError(f"{', '.join(columns)} is null; expected true or false, or no such column")
    if len(set(stated.values())) > 1:
        values = " and ".join(f"{name}={columns[name]!r}" for name in stated)
        raise ValueError(
            f"{values} disagree on whether the response is aligned; keep the one that does, drop the other"
        )
    return next(iter(stated.values()), None)


def check_pair(row: Mapping[str, Any]) -> None:
    """Raise ValueError where a column of a pair says that its chosen response is the unaligned one."""
    for name, value in side_columns(row).items():
        try:
            aligned = None if value is None else _says(name, value)
        except ValueError:
            continue  # of a pair, chosen and rejected say it: a label such as a topic is none of sides
        if aligned is False:
            raise ValueError(
                f"{name}={value!r} says that the response is unaligned, in a row with chosen and rejected; exchange "
                f"the two, or drop or rename the column {name!r} if it is about something else"
            )


def labelled(row: Mapping[str, Any], *, default: bool | None = None) -> dict[str, Any]:
    """Return the row of a single response with its `label`. Raises ValueError where nothing says it."""
    label = side_of_response(row)
    if label is None and default is None:
        raise ValueError("it lacks the column 'label' (true for an aligned response, false for an unaligned one)")
    read = [name for name in side_columns(row) if str(name).strip().lower() in READ_AND_LEFT]
    rest = {name: value for name, value in row.items() if name not in read}
    return {**rest, "label": default if label is None else label}


def _says(name: Any, value: Any) -> bool:
    return truth(value, str(name)) is (str(name).strip().lower() in ALIGNED)
