"""Stand-ins for data sets that are not here: requests of the same number and lengths, of random letters.

For what depends on sizes alone, as a cost does. Nothing of a set is in its stand-in but counts and mean lengths.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from divalign.data.examples import Request
from divalign.data.sources import Source

LETTERS = "abcdefghijklmnopqrstuvwxyz"
MODULE = "divalign.data.stand_in"


class TextLengths(NamedTuple):
    """Mean lengths of one class's texts, in characters; 0 where a set has none."""

    prompt: float
    compliance: float
    refusal: float
    worse: float = 0.0


class SetSize(NamedTuple):
    """How many requests of each class a set has, and how long they are."""

    requests: int
    harmful: TextLengths
    benign: TextLengths


def make(size: SetSize) -> list[Request]:
    """Return the requests of a stand-in, each with a prompt of its own."""
    return [*_side(size, harmful=True), *_side(size, harmful=False)]


def _side(size: SetSize, *, harmful: bool) -> Iterator[Request]:
    lengths = size.harmful if harmful else size.benign
    rng = random.Random(str(harmful))
    for _ in range(size.requests):
        compliance, refusal, worse = (_text(rng, mean) for mean in lengths[1:])
        yield Request(_text(rng, lengths.prompt), harmful, compliance, refusal, worse, "")


def _text(rng: random.Random, mean: float) -> str:
    """Return words of about five letters; lengths are exponential around the mean, from a third of it on."""
    size = round(mean / 3 + rng.expovariate(1.5 / mean)) if mean else 0
    words = []
    while sum(map(len, words)) + len(words) < size:
        words.append("".join(rng.choices(LETTERS, k=rng.randint(3, 7))))
    return " ".join(words)


def _source(name: str, size: SetSize) -> Source:
    return Source(partial(make, size), (), (), "none: random letters", f"the sizes of {name}")


# Counts and means of the committed files of github.com/rhaldarpurdue/KLDO at 526c247, computed 2026-11.
paper_cr = _source("paper_cr", SetSize(628, TextLengths(78.9, 1103.4, 88.9), TextLengths(60.2, 822.3, 49.0)))
paper_pref = _source("paper_pref", SetSize(628, TextLengths(78.9, 1103.4, 88.9), TextLengths(60.2, 822.3, 0.0, 750.7)))
STAND_INS = {"paper_cr": paper_cr, "paper_pref": paper_pref}


def stand_ins(names: str) -> str:
    """Return the names of sources, joined by "+", with the stand-in of each that has one."""
    return "+".join(f"{MODULE}:{name}" if name in STAND_INS else name for name in names.split("+"))
