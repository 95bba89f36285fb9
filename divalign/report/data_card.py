"""The data card: the audit of a training set as one HTML file that can be passed on with it.

It holds findings and row numbers; of the data's own text only its most frequent openings and the names of sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from divalign import __version__, store
from divalign.report.shell import asset, fill, hash_of


def write_data_card(audit: Mapping[str, Any], path: Path, *, name: str) -> None:
    """Write the card of a data set called `name`; `audit` is the content of its audit's JSON file.

    Raises ValueError where that content lacks what an audit has.
    """
    if missing := {"verdict", "rows", "rows_read", "findings"} - audit.keys():
        raise ValueError(f"this is no audit: it lacks {', '.join(sorted(missing))}")
    style = asset("page.css")
    page = fill(
        "data_card.html",
        lines=lambda numbers: list(_lines(numbers)),
        policy=f"default-src 'none'; style-src {hash_of(style)}; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        name=name,
        audit={"notes": [], "sha256": None, **audit},
        version=__version__,
    )
    # A lone surrogate, which JSON can hold, has no UTF-8: it becomes "?".
    store.write_bytes(path, page.encode("utf-8", errors="replace"))


def _lines(numbers: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield nested numbers a line each: name, then value."""
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            inner = {key: entry for key, entry in value.items() if not isinstance(entry, Mapping)}
            if inner:
                yield f"{prefix}{name}: " + ", ".join(f"{key} {_number(entry)}" for key, entry in inner.items())
            groups = {key: entry for key, entry in value.items() if isinstance(entry, Mapping)}
            yield from _lines(groups, f"{prefix}{name}: ")
        else:
            yield f"{prefix}{name}: {_number(value)}"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
