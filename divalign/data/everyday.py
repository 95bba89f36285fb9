"""The prompt set `everyday`: harmful and benign requests in matched pairs about one object, shipped with the package.

The requests were written for this project in plain English. A harmful request names its topic and nothing more; its
benign partner is of the same form, on the same object and of about the same length. docs/everyday.md is the data card.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from typing import NamedTuple

from divalign.data.examples import Request

PARTS = ("all", "train", "test")
TEST_PAIRS = 96  # the same number from each category


class EverydayRow(NamedTuple):
    """One request of the set.

    `pair` names its matched pair, `form` is question, imperative, context, chatty or terse, and `sounds_dangerous`
    marks a benign request whose words suggest harm ("kill time"); it is false for every harmful request.
    """

    id: str
    pair: str
    category: str
    prompt: str
    harmful: bool
    sounds_dangerous: bool
    form: str


def read_everyday(part: str = "all") -> list[EverydayRow]:
    """Return the rows of one of `PARTS`, pair by pair, the harmful request of each pair first.

    The test part holds `TEST_PAIRS` pairs, the same number from each category; the train part holds the others. Both
    requests of a pair are in one part. The split follows from a hash of the names of the pairs: it has no seed.

    Raises ValueError for an unknown part.
    """
    if part not in PARTS:
        raise ValueError(f"the prompt set 'everyday' has no part {part!r}; expected one of {', '.join(PARTS)}")
    text = files("divalign.data").joinpath("assets/everyday.jsonl").read_text(encoding="utf-8")
    rows = [EverydayRow(**json.loads(line)) for line in text.splitlines()]
    test = _test_pairs(rows)
    return [row for row in rows if part == "all" or (row.pair in test) == (part == "test")]


def everyday_requests(part: str = "all") -> list[Request]:
    """Return the requests of one part without responses; the pair is the cluster.

    Refusals come from the generator of `divalign.data.refusing`. A benign request has no answer: a model writes it.
    """
    return [Request(row.prompt, row.harmful, "", "", "", f"everyday {row.pair}") for row in read_everyday(part)]


EVERYDAY: Mapping[str, Callable[[], list[Request]]] = {
    "everyday": everyday_requests,
    "everyday_train": partial(everyday_requests, "train"),
    "everyday_test": partial(everyday_requests, "test"),
}


def _test_pairs(rows: Sequence[EverydayRow]) -> set[str]:
    """Return the pairs of the test part: in each category, those whose names have the smallest hashes."""
    by_category: dict[str, set[str]] = {}
    for row in rows:
        by_category.setdefault(row.category, set()).add(row.pair)
    size = TEST_PAIRS // len(by_category)
    return {pair for pairs in by_category.values() for pair in sorted(pairs, key=_hash)[:size]}


def _hash(pair: str) -> str:
    return hashlib.sha256(pair.encode()).hexdigest()
