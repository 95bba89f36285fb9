"""What is claimed, what was reached, and the verdict that follows from the two."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from divalign.draw.chart import Chart

ClaimVerdict = Literal["holds", "holds only if", "fails"]
Conditions = Mapping[str, Callable[[], float]]
TOLERANCE = 1e-6  # nats; the solver itself stops at 1e-15


@dataclass(frozen=True)
class Claim:
    """One line of the lab's table, over all its worlds.

    `target` and `reached` are means over worlds, `gap` the worst world's distance between them (for "<=": by how much
    `reached` exceeds `target`, at worst), all in the unit of the statement, which is nats where none is named.
    `condition` completes "holds only if", and is empty otherwise.
    """

    name: str
    statement: str
    relation: Literal["=", "<="]
    target: float
    reached: float
    gap: float
    verdict: ClaimVerdict
    condition: str = ""


@dataclass(frozen=True)
class LabSection:
    """Claims that belong together: why they matter, their table, their figure."""

    name: str
    title: str
    text: str
    claims: tuple[Claim, ...]
    chart: Chart


@dataclass(frozen=True)
class Findings:
    """The results of one run of the lab, and the versions it ran with."""

    worlds: int
    seed: int
    beta: float
    seconds: float
    made_with: str
    sections: tuple[LabSection, ...] = field(default_factory=tuple)


def compare(
    name: str,
    statement: str,
    target: Float[Tensor, " w"],
    reached: Float[Tensor, " w"],
    *,
    relation: Literal["=", "<="] = "=",
    conditions: Conditions | None = None,
) -> Claim:
    """Judge a claim by its worst world.

    `conditions` maps a condition to a function that returns the worst gap where it is met; they are evaluated only if
    the claim does not hold, and the first that closes the gap is named.
    """
    apart = (target - reached).abs() if relation == "=" else (reached - target).clamp(min=0)
    gap = float(apart.max())
    verdict, condition = judge(gap, conditions or {})
    return Claim(name, statement, relation, float(target.mean()), float(reached.mean()), gap, verdict, condition)


def judge(gap: float, conditions: Conditions) -> tuple[ClaimVerdict, str]:
    """Return the verdict on a gap, and the first condition under which it closes."""
    if not math.isfinite(gap):
        raise ValueError(f"a gap is {gap}; expected a finite number: does a world give some response no probability?")
    if gap <= TOLERANCE:
        return "holds", ""
    sufficient = next((condition for condition, worst in conditions.items() if worst() <= TOLERANCE), "")
    return ("holds only if", sufficient) if sufficient else ("fails", "")
