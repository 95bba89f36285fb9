"""What a run trains on and what it asks: requests drawn from a source and kept apart by content."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from divalign.config import Data
from divalign.data.build import filled
from divalign.data.examples import Request, Row
from divalign.data.sources import read_sources
from divalign.toy import world

DRAW = 0  # test prompts are one fixed draw, so that models of all seeds are measured on the same ones


class Corpus(NamedTuple):
    """Requests to align on, requests to measure on, and requests on topics that alignment never saw (may be empty)."""

    train: list[Request]
    test: list[Request]
    held_out: list[Request]


def read_corpus(data: Data, *, seed: int) -> Corpus:
    """Draw a run's requests; `seed` moves the training responses and nothing else.

    Raises ValueError where the source is unknown, its folder is missing, a class is empty or too little is left.
    """
    if data.source == "toy":
        train = world.requests("train", held_out=False, seed=seed)
        test = world.requests("test", held_out=False, seed=DRAW)
        held_out = balanced(world.requests("test", held_out=True, seed=DRAW), data.n_held_out)
        return Corpus(_all_or(train, data.n_train), balanced(test, data.n_test), held_out)
    found = read_sources(data.source, data.folder, download=data.download)
    test = balanced(found, data.n_test)
    asked = {request.prompt for request in test}
    train = filled([request for request in found if request.prompt not in asked], seed=seed)
    return Corpus(_all_or(train, data.n_train), filled(test, seed=DRAW), [])


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
    """Return the prompts that every model is asked, each with the id that records use."""
    return [
        {
            "id": f"{kind}-{number:04d}",
            "prompt": request.prompt,
            "harmful": request.harmful,
            "held_out": kind == "held-out",
            "cluster": request.cluster,
        }
        for kind, part in (("test", corpus.test), ("held-out", corpus.held_out))
        for number, request in enumerate(part)
    ]


def _all_or(requests: list[Request], n: int | None) -> list[Request]:
    return requests if n is None else balanced(requests, n)
