"""How numbers and tables are printed."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from divalign.core.stats import Estimate

WIDEST = 1000  # signs that a table may want


def table(title: str, left: Iterable[str], right: Iterable[str]) -> Table:
    """Return an empty table whose first columns hold text, its last ones numbers."""
    result = Table(title=title, title_justify="left")
    for name in left:
        result.add_column(name)
    for name in right:
        result.add_column(name, justify="right")
    return result


def fitted(content: Table, console: Console) -> RenderableType:
    """Return a table, or where the console is too narrow for its numbers, a paragraph for each of its rows.

    A row's first cell is its heading there, and stands above "column value" for each other cell that is not empty.
    """
    if Measurement.get(console, console.options.update(max_width=WIDEST), content).maximum <= console.width:
        return content
    heads = [f"{column.header}".replace("\n", " ") for column in content.columns]
    lines: list[RenderableType] = [Text.from_markup(f"{content.title}", style="italic")] if content.title else []
    for cells in zip(*(map(str, column.cells) for column in content.columns), strict=True):
        values = [f"{head} {cell.strip()}" for head, cell in zip(heads[1:], cells[1:], strict=True) if cell.strip()]
        lines += [Text.from_markup(cells[0], style="bold"), Padding(Text.from_markup("; ".join(values)), (0, 0, 0, 2))]
    return Group(*lines)


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
