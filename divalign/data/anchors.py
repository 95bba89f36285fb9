"""Anchors: safe and harmful prompts to read hidden states at, from a source or from a file of one's own.

An anchor is a row {"prompt", "harmful", "cluster"}; a cluster is what must stay on one side of a split. Sets whose two
sides share topic and wording are worth most: words alone do not tell those apart.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from divalign.core.names import find
from divalign.data.columns import check_columns, plain_content, truth, turns_of
from divalign.data.convert import format_of
from divalign.data.examples import Row
from divalign.data.files import load_rows
from divalign.data.prompts import prompt_of, prompt_row
from divalign.data.sources import SOURCES, find_source, read_source


class AnchorsInTraining(NamedTuple):
    """Anchors that are training prompts too: their number `n`, and the first of them."""

    n: int
    first: str


def read_anchors(source: str) -> list[Row]:
    """Return the anchors that `source` names: a data source as NAME:FOLDER (NAME where it needs no files), or a file.

    NAME is one of `SOURCES` or "pkg.module:thing" and has prompts of both classes, such as jailbreakbench (a pair of
    goals is a cluster) and xstest (a focus word is one). A file has the columns prompt (text, or one of the names that
    prompts have elsewhere), harmful (true or false), if prompts belong together cluster, and response where states of
    given responses are to be read; prompts whose held_out is true are a part of their own.

    Raises ValueError where a file, a column or a class is missing, and for a prompt that stands twice.
    """
    path = Path(source.removeprefix("file:"))
    name, _, folder = source.rpartition(":")
    if path.is_file():
        anchors = read_anchor_file(path)
    elif source in SOURCES and not SOURCES[source].files:
        anchors = source_anchors(source, None)
    elif name and (name in SOURCES or ":" in name) and find_source(name):
        anchors = source_anchors(name, Path(folder))
    else:
        name = source.partition(":")[0]
        find(name, dict.fromkeys((*SOURCES, "toy")), kind="prompt set")
        raise ValueError(f"the prompt set {name!r} needs its files: write {name}:FOLDER")
    return checked(anchors, source)


def source_anchors(name: str, folder: Path | None) -> list[Row]:
    """Return the prompts of a source as anchors, the safe ones first."""
    requests = sorted(read_source(name, folder), key=lambda request: request.harmful)
    return [{"prompt": request.prompt, "harmful": request.harmful, "cluster": request.cluster} for request in requests]


def read_anchor_file(path: Path) -> list[Row]:
    """Return the anchors of a file of rows, of any kind that `load_rows` reads."""
    rows = load_rows(path)
    check_columns(rows[0], ("harmful",), path)
    return [_anchor(row, path, number) for number, row in enumerate(rows, 1)]


def _anchor(row: Row, path: Path, number: int) -> Row:
    try:
        parsed = prompt_row(row)
        stated = row.get("held_out")
        part = {"held_out": True} if stated not in (None, "") and truth(stated, "held_out") else {}
    except ValueError as error:
        raise ValueError(f"{path}, row {number}: {error}") from error
    if "harmful" not in parsed:
        raise ValueError(f"{path}, row {number}: harmful is {row.get('harmful')!r}; expected true or false")
    anchor = {
        "prompt": parsed["prompt"],
        "harmful": parsed["harmful"],
        "cluster": str(parsed.get("cluster", parsed["prompt"])),
    }
    return {**anchor, **part, **({"response": str(parsed["response"])} if "response" in parsed else {})}


def checked(anchors: Sequence[Row], source: str) -> list[Row]:
    """Return the anchors. Raises ValueError where a class is empty or a prompt stands twice."""
    for harmful, kind in ((True, "harmful"), (False, "safe")):
        if not any(row["harmful"] is harmful for row in anchors):
            raise ValueError(f"{source} holds no {kind} prompt among {len(anchors)}; separation needs both classes")
    prompts: set[str] = set()
    for row in anchors:
        if row["prompt"] in prompts:
            raise ValueError(f"{source}: a prompt stands twice: {row['prompt'][:60]!r}; drop one")
        prompts.add(row["prompt"])
    return list(anchors)


def anchors_in_training(anchors: Iterable[Row], rows: Iterable[Mapping[str, Any]]) -> AnchorsInTraining | None:
    """Return which anchors stand among the prompts of training rows, or None.

    Compared as they are and without case, punctuation and spacing: a training prompt with another full stop is
    the same prompt. Every message of a conversation counts. Raises ValueError where a row has no prompt.
    """
    trained = {normalised(text) for number, row in enumerate(rows) for text in _texts(row, number)}
    repeated = [row["prompt"] for row in anchors if normalised(row["prompt"]) in trained]
    return AnchorsInTraining(len(repeated), repeated[0]) if repeated else None


def normalised(text: str) -> str:
    """Return the text without case, accents' encodings, punctuation and extra spaces; as it is if nothing is left."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(sign if sign.isalnum() else " " for sign in plain).split()
    return " ".join(words) or text


def _texts(row: Mapping[str, Any], number: int) -> list[str]:
    if row.get("prompt") is not None:
        return [plain_content(message["content"]) for message in turns_of(row["prompt"], "user", "prompt")]
    if format_of(row) is None:
        raise ValueError(f"training row {number} has the columns {', '.join(map(str, row))}; expected prompt")
    return [prompt_of(dict(row))]
