"""Anchor sets: safe and harmful prompts to read hidden states at, from files on this machine.

An anchor is a row {"prompt", "harmful", "cluster"}; a cluster is what must stay on one side of a split. Sets whose two
sides share topic and wording are worth most: words alone do not tell those apart.
"""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from divalign.core.names import find
from divalign.data.examples import Row, as_messages
from divalign.store import read_rows

AnchorSet = Callable[[Path], list[Row]]
YES, NO = {"1", "true", "yes", "harmful", "unsafe"}, {"0", "false", "no", "safe", "benign"}


class Seen(NamedTuple):
    """Anchors that stand among training prompts: how many, and the first of them."""

    many: int
    first: str


def jailbreakbench(folder: Path) -> list[Row]:
    """Return JailbreakBench's hundred pairs: a harmful goal and a benign one on the same theme; a pair is a cluster.

    Reads `harmful-behaviors.csv` and `benign-goals.csv` (column Goal), paired row by row.
    Source: Chao et al. 2024, arXiv 2404.01318.
    """
    sides = {True: folder / "harmful-behaviors.csv", False: folder / "benign-goals.csv"}
    goals = {harmful: [row["Goal"] for row in _csv(path, ("Goal",))] for harmful, path in sides.items()}
    if len(goals[True]) != len(goals[False]):
        raise ValueError(f"{folder} holds {len(goals[True])} harmful and {len(goals[False])} benign goals, not pairs")
    return [
        {"prompt": goal, "harmful": harmful, "cluster": f"pair {number}"}
        for harmful in (False, True)
        for number, goal in enumerate(goals[harmful])
    ]


def xstest(folder: Path) -> list[Row]:
    """Return XSTest's 250 safe prompts that sound unsafe and 200 unsafe ones; a focus word is a cluster.

    Reads `xstest_prompts.csv` (columns prompt, label, focus). Source: Roettger et al. 2024, arXiv 2308.01263.
    """
    path = folder / "xstest_prompts.csv"
    return [
        {
            "prompt": row["prompt"],
            "harmful": _flag(row["label"], path, number),
            "cluster": row["focus"].strip().casefold() or row["prompt"],
        }
        for number, row in enumerate(_csv(path, ("prompt", "label", "focus")), 2)
    ]


ANCHOR_SETS: dict[str, AnchorSet] = {"jailbreakbench": jailbreakbench, "xstest": xstest}


def read_anchors(source: str) -> list[Row]:
    """Return the anchors that `source` names: NAME:FOLDER of `ANCHOR_SETS`, or a .csv or JSON lines file of one's own.

    A file has the columns prompt (text), harmful (true or false), if prompts belong together cluster, and response
    where states of given responses are to be read.
    Raises ValueError where a file, a column or a class is missing, and for a prompt that stands twice.
    """
    name, _, folder = source.partition(":")
    if name in ANCHOR_SETS and folder:
        anchors = ANCHOR_SETS[name](Path(folder))
    elif Path(source).is_file():
        anchors = read_anchor_file(Path(source))
    else:
        find(name, {entry: None for entry in (*ANCHOR_SETS, "toy")}, kind="prompt set")
        raise ValueError(f"the prompt set {name!r} needs its files: write {name}:FOLDER")
    return checked(anchors, source)


def read_anchor_file(path: Path) -> list[Row]:
    """Return the anchors of a .csv file, or of JSON lines."""
    rows = _csv(path, ("prompt", "harmful")) if path.suffix == ".csv" else _json_lines(path)
    return [
        {
            "prompt": str(row["prompt"]),
            "harmful": _flag(row["harmful"], path, number),
            "cluster": str(row.get("cluster") or row["prompt"]),
            **({"response": str(row["response"])} if row.get("response") is not None else {}),
        }
        for number, row in enumerate(rows, 1)
    ]


def checked(anchors: Sequence[Row], source: str) -> list[Row]:
    """Return the anchors. Raises ValueError where a class is empty or a prompt stands twice."""
    for harmful, kind in ((True, "harmful"), (False, "safe")):
        if not any(row["harmful"] is harmful for row in anchors):
            raise ValueError(f"{source} holds no {kind} prompt among {len(anchors)}; separation needs both classes")
    seen: set[str] = set()
    for row in anchors:
        if row["prompt"] in seen:
            raise ValueError(f"{source}: a prompt stands twice: {row['prompt'][:60]!r}; drop one")
        seen.add(row["prompt"])
    return list(anchors)


def seen_in_training(anchors: Iterable[Row], rows: Iterable[Mapping[str, Any]]) -> Seen | None:
    """Return which anchors stand among the prompts of training rows, or None.

    Compared as they are and without case, punctuation and spacing: a training prompt with another full stop is
    the same prompt. Every message of a conversation counts. Raises ValueError where a row has no prompt.
    """
    trained = {normalised(text) for number, row in enumerate(rows) for text in _texts(row, number)}
    found = [row["prompt"] for row in anchors if normalised(row["prompt"]) in trained]
    return Seen(len(found), found[0]) if found else None


def normalised(text: str) -> str:
    """Return the text without case, accents' encodings, punctuation and extra spaces; as it is if nothing is left."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(sign if sign.isalnum() else " " for sign in plain).split()
    return " ".join(words) or text


def _texts(row: Mapping[str, Any], number: int) -> list[str]:
    if "prompt" not in row:
        raise ValueError(f"training row {number} has the columns {', '.join(map(str, row))}; expected prompt")
    return [message["content"] for message in as_messages(row["prompt"], "user")]


def _csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    with _existing(path).open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        _check_columns(path, reader.fieldnames or (), columns)
        return list(reader)


def _json_lines(path: Path) -> list[dict[str, Any]]:
    try:
        rows = read_rows(path)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON lines: {error}") from error
    for row in rows:
        _check_columns(path, row, ("prompt", "harmful"))
    return rows


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"no file {path}; name the folder that holds {path.name}")
    return path


def _check_columns(path: Path, found: Iterable[str], expected: Sequence[str]) -> None:
    names = list(found)
    missing = [column for column in expected if column not in names]
    if missing:
        raise ValueError(f"{path} lacks the column {missing[0]!r}; it has {', '.join(names)}")


def _flag(value: object, path: Path, number: int) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().casefold()
    if word not in YES | NO:
        raise ValueError(f"{path}, row {number}: harmful is {value!r}; expected true or false")
    return word in YES
