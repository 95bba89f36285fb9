"""A check and what it finds: one number that decides, the words that say it, and the numbers behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from divalign.data.audit.facts import Facts

VERDICTS = ("fine", "look", "do not train")
UNMEASURED = "not measured"
ROWS_SHOWN = 10


@dataclass(frozen=True)
class Found:
    """What a check saw: the deciding value (None where it could not be had), a sentence, numbers and row numbers."""

    value: float | None
    words: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Check:
    """A question to a data set.

    `measures` names the deciding value; above `look` it wants a look, above `stop` nobody should train on the set
    (None: this alone never says so). `why` gives the reason for both limits.
    """

    question: str
    measures: str
    look: float
    stop: float | None
    why: str
    run: Callable[[Facts], Found]

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
