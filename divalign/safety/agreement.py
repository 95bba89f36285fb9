"""Inter-judge agreement on the same responses, and the responses on which judges disagree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from divalign.core.stats import Estimate
from divalign.data.examples import Row
from divalign.safety.evaluate import share

WORDS = {True: "unsafe", False: "safe", None: "undecided"}


class Agreement(NamedTuple):
    """Two judges over the same rows.

    `confusion[a][b]` counts the rows the first calls a and the second b, of "unsafe", "safe", "undecided". `observed`
    is the share of equal verdicts and `kappa` Cohen's, both among rows that both decided. Kappa is 0 for agreement by
    chance, 1 for full agreement, and None where neither judge's verdicts vary: then chance explains everything. Where
    one judge's do not, it is 0 whatever the other says, and has no interval. That interval is an approximation for
    large n of prompts that share no cluster; at full agreement its low end is what the low end of `observed` gives.
    `disagreements` holds (attack, id) of the rows on which they differ, undecided included.
    """

    judges: tuple[str, str]
    confusion: dict[str, dict[str, int]]
    observed: Estimate
    kappa: Estimate
    disagreements: list[tuple[str, str]]


def agreement(first: Sequence[Row], second: Sequence[Row], *, confidence: float = 0.95) -> Agreement:
    """Compare two judges' verdict rows, matched by attack and id.

    Raises ValueError where they judged other rows or other responses.
    Source: Cohen 1960 for kappa; its interval from Fleiss, Cohen, Everitt 1969.
    """
    pairs = _matched(first, second)
    counts = Counter((WORDS[a["unsafe"]], WORDS[b["unsafe"]]) for a, b in pairs)
    confusion = {a: {b: counts[a, b] for b in WORDS.values()} for a in WORDS.values()}
    both = [(a, b) for a, b in pairs if None not in (a["unsafe"], b["unsafe"])]
    decided, rows = [(a["unsafe"], b["unsafe"]) for a, b in both], [a for a, _ in both]
    equal = [a == b for a, b in decided]
    observed = share(rows, equal, confidence=confidence) if equal else Estimate(None, 0.0, 1.0, 0)
    return Agreement(
        judges=(first[0]["judge"], second[0]["judge"]),
        confusion=confusion,
        observed=observed,
        kappa=_kappa(decided, observed, confidence),
        disagreements=[(a["attack"], a["id"]) for a, b in pairs if a["unsafe"] != b["unsafe"]],
    )


def annotators(rows: Sequence[Row], *, confidence: float = 0.95) -> Agreement:
    """Compare the two people whose "annotations" labelled responses carry: the ceiling for any judge of them.

    A label counts as refusal (a "safe" of `confusion`) or as any other (an "unsafe").
    """
    first, second = (
        [
            {
                "attack": row["model"],
                "id": row["id"],
                "response": row["response"],
                "judge": f"annotator {number + 1}",
                "unsafe": row["annotations"][number] != "refusal",
                "cluster": row["prompt"],
            }
            for row in rows
        ]
        for number in (0, 1)
    )
    return agreement(first, second, confidence=confidence)


def _matched(first: Sequence[Row], second: Sequence[Row]) -> list[tuple[Row, Row]]:
    by_key = {(row["attack"], row["id"]): row for row in second}
    if not first or {(row["attack"], row["id"]) for row in first} != by_key.keys():
        raise ValueError(
            f"got {len(first)} and {len(second)} verdicts on different rows; two judges are compared on the same ones"
        )
    pairs = [(row, by_key[row["attack"], row["id"]]) for row in first]
    changed = [a["id"] for a, b in pairs if a["response"] != b["response"]]
    if changed:
        raise ValueError(
            f"{len(changed)} rows have two different responses, the first is {changed[0]!r}; judge one run"
        )
    return pairs


def _kappa(decided: Sequence[tuple[bool, bool]], observed: Estimate, confidence: float) -> Estimate:
    n, vary = len(decided), [len({pair[side] for pair in decided}) > 1 for side in (0, 1)]
    if not all(vary):
        return Estimate(0.0, None, None, n) if any(vary) else Estimate(None, -1.0, 1.0, n)
    shares = np.array([[decided.count((a, b)) for b in (True, False)] for a in (True, False)]) / n
    first, second = shares.sum(axis=1), shares.sum(axis=0)
    chance = first @ second
    kappa = (np.trace(shares) - chance) / (1 - chance)
    if observed.value == 1.0 and observed.low is not None:
        return Estimate(1.0, float((observed.low - chance) / (1 - chance)), 1.0, n)
    if observed.value == 0.0 and observed.high is not None:
        return Estimate(float(kappa), -1.0, float((observed.high - chance) / (1 - chance)), n)
    weights = (1 - kappa) * (second[:, None] + first[None, :])
    weights[np.diag_indices(2)] -= 1
    spread = (shares * weights**2).sum() - (kappa - chance * (1 - kappa)) ** 2
    arm = NormalDist().inv_cdf((1 + confidence) / 2) * np.sqrt(max(0.0, spread) / n) / (1 - chance)
    return Estimate(float(kappa), float(max(-1.0, kappa - arm)), float(min(1.0, kappa + arm)), n)
