"""Which side a response is on, aligned or unaligned, by every column that says so.

Sets name this column in many ways. One that is overlooked turns an unaligned response into an aligned one, so all of
them are read, and a row is refused where two of them disagree or one says neither yes nor no.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from divalign.data.columns import NO, SIDES, YES, truth

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
# Words of a column's name and whole values that may say it too, with a meaning that only their maker knows.
DOUBTFUL_NAMES = frozenset((
    "label", "labels", "tag", "class", "safe", "safety", "unsafe", "toxic", "toxicity", "harm", "harmful", "harmless",
    "jailbreak", "jailbroken", "preference", "preferred", "chosen", "rejected", "accepted", "aligned", "misaligned",
    "good", "bad", "liked", "disliked", "upvote", "downvote", "thumbs", "win", "winner", "correct", "wrong", "helpful",
    "feedback", "rating", "score", "reward", "quality", "rank", "flagged", "violation", "response", "target",
))  # fmt: skip
UNALIGNED_WORDS = frozenset((
    "unsafe", "rejected", "reject", "dispreferred", "unaligned", "misaligned", "undesirable", "bad", "disliked",
    "dislike", "jailbroken", "toxic", "thumbs_down", "negative",
))  # fmt: skip
OF_THE_PROMPT = frozenset(("prompt", "question", "request", "query", "user", "input", "instruction"))
# Words of a column that exists for chosen and for rejected, by which the two were ordered: larger or smaller is better.
LARGER_IS_BETTER = frozenset(("score", "scores", "rating", "ratings", "reward", "rewards", "safe", "label", "quality"))
SMALLER_IS_BETTER = frozenset(("unsafe", "toxic", "toxicity", "rank"))
OF_SAFETY = ("chosen_safe", "rejected_safe")  # is the response safe? TRL's pairs may be ordered by something else
UNALIGNED_SIDE = frozenset(("rejected", "reject", "dispreferred", "unaligned", "undesirable", "disliked"))
READ_AND_LEFT = ("label", "kto_tag", "chosen", "rejected")  # flags that a row loses once `label` says the same


def side_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a row that say which side its response is on; texts under `chosen` say something else."""
    names = {*ALIGNED, *UNALIGNED}
    named = {name: value for name, value in row.items() if str(name).strip().lower() in names}
    single = any(row.get(name) is not None for name in ("completion", "response", "messages"))
    return {
        name: value
        for name, value in named.items()
        if str(name).strip().lower() not in SIDES or value is None or is_flag(value, beside_response=single)
    }


def is_flag(value: Any, *, beside_response: bool) -> bool:
    """Tell a yes or no under `chosen` or `rejected` from a response, which "no" may be where there is no other."""
    if value is None or isinstance(value, str):
        return beside_response and str(value or "no").strip().lower() in YES | NO
    return isinstance(value, (bool, int, float))


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
    _check_order(row)
    for name, value in side_columns(row).items():
        try:
            aligned = None if value is None else _says(name, value)
        except ValueError:  # of a pair, chosen and rejected say it: a label such as a topic is none of sides
            aligned = False if str(value).strip().lower() in UNALIGNED_SIDE else None
        if aligned is False:
            raise ValueError(
                f"{name}={value!r} says that the response is unaligned, in a row with chosen and rejected; exchange "
                f"the two, or drop or rename the column {name!r} if it is about something else"
            )


def _check_order(row: Mapping[str, Any]) -> None:
    """Raise ValueError where a number that stands for both sides, such as a rating, is better for the rejected one."""
    names = {str(name).lower(): name for name in row}
    for small, name in names.items():
        words, beside = set(re.findall(r"[a-z]+", small)), names.get(small.replace("chosen", "rejected"))
        if "chosen" not in small or beside is None or not words & (LARGER_IS_BETTER | SMALLER_IS_BETTER):
            continue
        if small in OF_SAFETY:  # safedpo sorts pairs by them, and train.construction refuses them for other methods
            continue
        chosen, rejected = _number(row[name]), _number(row[beside])
        if chosen is None or rejected is None or chosen == rejected:
            continue
        if (chosen < rejected) is not bool(words & SMALLER_IS_BETTER):
            raise ValueError(
                f"{name}={row[name]!r} and {beside}={row[beside]!r} say that rejected is the better response; exchange "
                "the two, or drop both columns if they do not order them"
            )


def _number(value: Any) -> float | None:
    text = str(value).strip().lower()
    if text in ("true", "false"):
        return float(text == "true")
    try:
        return float(text) if isinstance(value, (str, int, float)) else None
    except ValueError:
        return None


def labelled(row: Mapping[str, Any], *, default: bool | None = None) -> dict[str, Any]:
    """Return the row of a single response with its `label`, which is `default` where no column says it.

    Raises ValueError where nothing says it, and where a column may say it that is not known.
    """
    label = side_of_response(row)
    if label is None and default is None:
        raise ValueError("it lacks the column 'label' (true for an aligned response, false for an unaligned one)")
    if label is None:
        _refuse_doubtful(row)
    read = [name for name in side_columns(row) if str(name).strip().lower() in READ_AND_LEFT]
    rest = {name: value for name, value in row.items() if name not in read}
    return {**rest, "label": default if label is None else label}


def _says(name: Any, value: Any) -> bool:
    return truth(value, str(name)) is (str(name).strip().lower() in ALIGNED)


def _refuse_doubtful(row: Mapping[str, Any]) -> None:
    """Raise ValueError for a column that may say which side a response is on, in a way that is not known."""
    for name, value in row.items():
        words = set(re.findall(r"[a-z]+", str(name).lower()))
        word = str(value).strip().lower()
        if str(name).strip().lower() == "harmful" or words & OF_THE_PROMPT or not isinstance(value, (str, int, float)):
            continue
        flag = word in YES | NO | {"-1", "-1.0", "harmful", "unhelpful"}
        if word in UNALIGNED_WORDS or (flag and words & DOUBTFUL_NAMES):
            raise ValueError(
                f"{name}={value!r} may say that the response is unaligned; say it in the column 'label' (true for an "
                f"aligned response, false for an unaligned one), or drop {name!r}"
            )
