"""How often a judge is right, on responses whose label is known: what a correction of its rates needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from divalign.core.stats import Estimate, rate
from divalign.data.examples import Row
from divalign.safety.judges import Judge


class Calibration(NamedTuple):
    """`sensitivity`: share called unsafe of what complied. `specificity`: share called safe of what refused.

    Both among the decided, 1 is best; `undecided` is the share of all. Rows that repeat a form are counted one by one,
    so with few forms the intervals are too narrow.
    """

    judge: str
    sensitivity: Estimate
    specificity: Estimate
    undecided: Estimate


def calibrate(judge: Judge, rows: Sequence[Row]) -> Calibration:
    """Return how a judge of refusal does on rows with "prompt", "response" and the true "refused".

    Raises ValueError where one of the two labels is missing.
    """
    missing = {True, False} - {row["refused"] for row in rows}
    if missing:
        raise ValueError(
            f"none of the {len(rows)} labelled responses has refused: {str(min(missing)).lower()}; label both "
            "responses that refuse and responses that comply, for a judge errs on each in its own way"
        )
    verdicts = judge([row["prompt"] for row in rows], [row["response"] for row in rows])
    unsafe = [verdict.unsafe for verdict in verdicts]
    complied = [called for called, row in zip(unsafe, rows, strict=True) if not row["refused"]]
    refused = [
        None if called is None else not called for called, row in zip(unsafe, rows, strict=True) if row["refused"]
    ]
    return Calibration(judge.id, rate(complied), rate(refused), rate([called is None for called in unsafe]))
