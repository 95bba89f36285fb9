"""Numbers as a reader sees them. Rounding never turns something into nothing, nor nearly all into all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

Form = Callable[[float], str]
PERCENT = "\N{NO-BREAK SPACE}%"


@runtime_checkable
class Interval(Protocol):
    """A number with the ends of its interval; None where there is none."""

    @property
    def value(self) -> float | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


def percent(share: float) -> str:
    """Return a share as a percentage: 0 % only for exactly 0, 100 % only for exactly 1."""
    for decimals in (0, 1):
        text = f"{100 * share:.{decimals}f}"
        if (float(text) == 0) == (share == 0) and (float(text) == 100) == (share == 1):
            return f"{text}{PERCENT}"
    return f"<0.1{PERCENT}" if share < 0.5 else f">99.9{PERCENT}"


def significant(value: float, digits: int = 3) -> str:
    """Return a number to three significant digits, without an exponent where it stays readable."""
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-3:
        text = f"{value:.{digits - 1}e}"
    else:
        text = f"{value:,.0f}" if size >= 100 else f"{value:.{digits}g}"
    return text.replace("-", "−")


def share(value: float) -> str:
    """Return a number in [0, 1] that is no percentage, such as an AUC, to three decimals."""
    text = f"{value:.3f}"
    if abs(value) < 1 and text.endswith("1.000"):
        text = ">0.999" if value > 0 else "<-0.999"
    return significant(value) if 0 < abs(value) < 5e-4 else text.replace("-", "−")
