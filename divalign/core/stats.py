"""Numbers with their uncertainty: an estimate, and the rate of yes among yes-or-no outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from scipy.stats import binomtest


class Estimate(NamedTuple):
    """A number, its interval and the count it rests on.

    `low` and `high` are None where no interval exists; `value` is None where the data cannot support a number:
    unknown is not zero.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


def rate(outcomes: Sequence[bool | None], *, confidence: float = 0.95) -> Estimate:
    """Share of True among the decided outcomes, with its Wilson score interval.

    The interval stays honest at the ends: 0 of 100 gives [0, 0.037], not [0, 0]. Undecided outcomes (None) count
    neither way; `n` is the decided count. Nothing decided gives value None with the interval [0, 1].

    Raises ValueError for an empty sequence: the rate of nothing is no rate.
    Source: Wilson 1927, JASA 22, eq. 8 (scipy's `proportion_ci(method="wilson")`).
    """
    if not outcomes:
        raise ValueError("the rate of nothing: got 0 outcomes, expected at least 1; is the prompt set empty?")
    decided = [outcome for outcome in outcomes if outcome is not None]
    if not decided:
        return Estimate(None, 0.0, 1.0, 0)
    result = binomtest(sum(decided), len(decided))
    interval = result.proportion_ci(confidence, method="wilson")
    return Estimate(sum(decided) / len(decided), float(interval.low), float(interval.high), len(decided))
