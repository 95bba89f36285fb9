"""Requests to train on and prompts to measure on, drawn from a source and kept apart by content."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from divalign.data.build import filled
from divalign.data.examples import Request, Row
from divalign.data.overlap import find_overlap
from divalign.data.sources import read_sources
from divalign.toy import world

OPENING_WORDS = 6
DRAW = 0  # test prompts are one fixed draw, so that models of all seeds are measured on the same ones


@dataclass(frozen=True)
class CorpusSpec:
    """Where requests come from and how many are drawn.

    `source` is "toy", or names of data.sources.SOURCES and file:PATH joined by "+", read from `folder`. Prompts to
    measure on are a part of `source`, or those of `measure_on`; `n_*` count prompts of both classes together. With
    `answers` "model" the requests come without answers: stages.answers lets the base model write them.
    """

    source: str = "toy"
    folder: Path | None = None
    download: bool = False
    measure_on: str | None = None
    allow_overlap: bool = False
    answers: str = "source"
    n_train: int | None = None
    n_test: int = 256
    n_held_out: int = 160


class Corpus(NamedTuple):
    """Requests to align on, requests to measure on, and requests on topics that alignment never saw (may be empty).

    `overlap` counts leaks by kind and the prompts asked, where another set is measured on. `unanswered` are prompts of
    `test` that the base, which writes the answers, left empty or refused.
    """

    train: list[Request]
    test: list[Request]
    held_out: list[Request]
    overlap: dict[str, int] | None = None
    unanswered: frozenset[str] = frozenset()

    def rows_of_test(self) -> list[Request]:
        """Return the test requests that held-out rows are made of."""
        return [request for request in self.test if request.prompt not in self.unanswered]


def read_corpus(data: CorpusSpec, *, seed: int) -> Corpus:
    """Draw requests to train and to measure on; `seed` moves the training responses and nothing else.

    Raises ValueError where the source is unknown, its folder is missing, a class is empty or too little is left.
    """
    corpus = _draw(data, seed)
    if data.answers == "source":
        return corpus
    train, test = ([r._replace(compliance="", worse="") for r in part] for part in (corpus.train, corpus.test))
    return corpus._replace(train=train, test=test)


def _draw(data: CorpusSpec, seed: int) -> Corpus:
    if data.source == "toy":
        train = world.requests("train", held_out=False, seed=seed)
        test = world.requests("test", held_out=False, seed=DRAW)
        held_out = balanced(world.requests("test", held_out=True, seed=DRAW), data.n_held_out)
        return Corpus(_all_or(train, data.n_train), balanced(test, data.n_test), held_out)
    requests = read_sources(data.source, data.folder, download=data.download)
    if data.measure_on is not None:
        test = balanced(read_sources(data.measure_on, data.folder, download=data.download), data.n_test)
        overlap = _check_overlap(requests, test, allowed=data.allow_overlap)
        return Corpus(_all_or(filled(requests, seed=seed), data.n_train), filled(test, seed=DRAW), [], overlap)
    test = balanced(requests, data.n_test)
    train = filled(_without_overlap(requests, test), seed=seed)
    return Corpus(_all_or(train, data.n_train), filled(test, seed=DRAW), [])


def _check_overlap(train: Sequence[Request], test: Sequence[Request], *, allowed: bool) -> dict[str, int]:
    """Return how many test prompts were trained on, by kind. A paraphrase is a guess and stops nothing.

    Raises ValueError where others were, unless that is allowed.
    """
    overlap = find_overlap([request.prompt for request in train], [request.prompt for request in test])
    certain = [leak for leak in overlap.leaks if leak.kind != "paraphrased"]
    if certain and not allowed:
        first = test[certain[0].evaluation].prompt
        raise ValueError(
            f"{len(certain)} of the {len(test)} prompts to measure on are in the training set, the first begins "
            f"{first[:40]!r}; leave them out, or set data.allow_overlap, and every number will be marked"
        )
    return {**overlap.counts, "n": overlap.n}


def _without_overlap(requests: Sequence[Request], test: Sequence[Request]) -> list[Request]:
    """Return the requests whose prompts overlap with none of `test`: a split leaves no near-duplicates."""
    questions = [request.prompt for request in test]
    rest = [request for request in requests if request.prompt not in set(questions)]
    while leaks := find_overlap([request.prompt for request in rest], questions).leaks:
        duplicates = {leak.train for leak in leaks}  # one for each question, so there may be more
        rest = [request for number, request in enumerate(rest) if number not in duplicates]
    return rest


def balanced(requests: Sequence[Request], n: int) -> list[Request]:
    """Return n requests, half of each class, in a fixed random order; fewer where a class has fewer.

    Raises ValueError where a class has none.
    """
    sides = [[request for request in requests if request.harmful is harmful] for harmful in (True, False)]
    for side, name in zip(sides, ("harmful", "benign"), strict=True):
        if not side:
            raise ValueError(f"no {name} prompt among {len(requests)}; a run needs both classes")
    size = min(n // 2, *map(len, sides))
    return [request for side in sides for request in random.Random(DRAW).sample(side, size)]


def prompt_rows(corpus: Corpus) -> list[Row]:
    """Return the prompts that every model is asked, each with the id that records use.

    A harmful prompt on a topic of the training data brings its "target", the opening of a compliance that GCG makes
    likely.
    """
    rows: list[Row] = []
    for kind, part in (("test", corpus.test), ("held-out", corpus.held_out)):
        for number, request in enumerate(part):
            row = {
                "id": f"{kind}-{number:04d}",
                "prompt": request.prompt,
                "harmful": request.harmful,
                "held_out": kind == "held-out",
                "cluster": request.cluster,
            }
            searchable = request.harmful and kind == "test" and request.compliance.strip()
            rows.append(row | {"target": opening(request.compliance)} if searchable else row)
    return rows


def opening(text: str) -> str:
    """Return how a compliance opens: as few whole sentences as make six words.

    "Certainly." consents to anything, and an answer that only had to open with it stays off the topic.
    """
    sentences = re.split(r"(?<=[.!?])\s+", text.strip())
    heads = [" ".join(sentences[:count]) for count in range(1, len(sentences) + 1)]
    return next((head for head in heads if len(head.split()) >= OPENING_WORDS), heads[-1])


def _all_or(requests: list[Request], n: int | None) -> list[Request]:
    return requests if n is None else balanced(requests, n)
