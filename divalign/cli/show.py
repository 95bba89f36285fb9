"""How numbers and tables are printed."""

from __future__ import annotations

from collections.abc import Iterable

from rich.markup import escape
from rich.table import Table

from divalign.core.stats import Estimate


def table(title: str, left: Iterable[str], right: Iterable[str]) -> Table:
    """Return an empty table whose first columns hold text, its last ones numbers."""
    result = Table(title=title, title_justify="left")
    for name in left:
        result.add_column(name)
    for name in right:
        result.add_column(name, justify="right")
    return result


def number(estimate: Estimate | None, digits: int = 2, *, undecided: str = "undecided") -> str:
    """Return an estimate with its interval, escaped for rich."""
    if estimate is None or estimate.value is None:
        return undecided
    return escape(f"{estimate.value:.{digits}f}{_interval(estimate, digits, 1.0)}")


def percent(rate: Estimate | None, *, digits: int = 1, n: bool = True, missing: str = "-") -> str:
    """Return a rate in percent with its interval and, if `n`, its count, escaped for rich."""
    if rate is None:
        return missing
    if rate.value is None:
        return "undecided"
    count = f" of {rate.n}" if n else ""
    return escape(f"{100 * rate.value:.{digits}f}{_interval(rate, digits, 100.0)}{count}")


def _interval(estimate: Estimate, digits: int, scale: float) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f" [{scale * estimate.low:.{digits}f}, {scale * estimate.high:.{digits}f}]"
