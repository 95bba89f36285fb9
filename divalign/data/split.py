"""Deterministic splits: a row's side depends on the hash of its cluster, so added rows move no other row.

Rows of one cluster (the column `cluster`) stay together; without one, the prompts that say the same words do, whatever
their case, punctuation, articles, endings and word order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import accumulate
from math import inf

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from divalign.data.columns import cluster_name
from divalign.data.examples import Request, Row
from divalign.data.overlap import near_duplicate_clusters
from divalign.data.prompts import prompt_of
from divalign.data.words import ARTICLES, stem, words_of

SHARES: Mapping[str, float] = {"train": 0.8, "validation": 0.1, "test": 0.1}


def cluster_of(row: Row) -> str:
    """Return what must stay on one side of a split: the row's cluster, or its prompt's words in order."""
    if row.get("cluster") not in (None, ""):
        return f"cluster {cluster_name(row['cluster'])}"
    prompt = prompt_of(row, empty=True)
    words = sorted(stem(word) for word in words_of(prompt) if word not in ARTICLES)
    return " ".join(["prompt", *(words or [prompt])])


def side_of(row: Row, shares: Mapping[str, float] = SHARES, *, seed: int = 0) -> str:
    """Return the name of the side that a row is on: of `shares`, whose values say how large the sides are.

    The hash of cluster and seed decides alone: it is the same in any file, in any order, on any machine. A side's size
    is therefore only nearly its share, the more nearly the more clusters there are. Raises ValueError for shares that
    are not positive.
    """
    check_shares(shares)
    mark = hashlib.sha256(f"{seed} {cluster_of(row)}".encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(mark[:8], "big") / 2**64 * sum(shares.values())
    ends = zip(shares, accumulate(shares.values()), strict=True)
    return next((name for name, end in ends if place < end), list(shares)[-1])


def check_shares(shares: Mapping[str, float]) -> None:
    if not shares or not all(0 < share < inf for share in shares.values()):
        raise ValueError(f"the shares are {dict(shares)}; expected at least one side, each above 0")


def share_clusters(requests: list[Request]) -> list[Request]:
    """Return the requests with one cluster, that of the first of them, for all that are near-duplicates or share one.

    Two prompts of different clusters that differ in case only would else come to both sides of a split.
    """
    if not requests:
        return []
    alike = near_duplicate_clusters([request.prompt for request in requests])
    named = np.unique([request.cluster for request in requests], return_inverse=True)[1] + alike.max() + 1
    size = int(named.max()) + 1
    part = connected_components(coo_array((np.ones(len(alike)), (alike, named)), shape=(size, size)), directed=False)[1]
    first: dict[int, str] = {}
    return [
        request._replace(cluster=first.setdefault(int(part[number]), request.cluster))
        for number, request in zip(alike, requests, strict=True)
    ]
