"""Audit checks and their findings: a measured value, a sentence, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from divalign.data.audit.facts import Facts

VERDICTS = ("fine", "look", "do not train")
UNMEASURED = "not measured"
ROWS_SHOWN = 10


@dataclass(frozen=True)
class AuditFinding:
    """Result of a check: the measured value (None where there is none), a sentence, numbers, and row numbers."""

    value: float | None
    words: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class AuditCheck:
    """One check of a data set.

    `measures` names the measured value; above `look` the verdict is "look", above `stop` it is "do not train" (None:
    never from this check alone). `why` gives the reason for both limits.
    """

    question: str
    measures: str
    look: float
    stop: float | None
    why: str
    run: Callable[[Facts], AuditFinding]

    def verdict(self, value: float | None) -> str:
        if value is None:
            return UNMEASURED
        if self.stop is not None and value > self.stop:
            return "do not train"
        return "look" if value > self.look else "fine"


def share(part: int, whole: int) -> float | None:
    """Return part over whole; None where there is nothing: the share of nothing is unknown."""
    return part / whole if whole else None


def percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.3g} %"


def shown(facts: Facts, places: list[int]) -> tuple[int, ...]:
    """Return the first row numbers, as they stand in the file (from 1), for someone to look at."""
    return tuple(facts.numbers[place] for place in places[:ROWS_SHOWN])
