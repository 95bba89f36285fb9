"""One's own file as a source: its rows become requests."""

from __future__ import annotations

from typing import Any

from divalign.data.columns import cluster_name, truth
from divalign.data.examples import Request


def own(rows: list[dict[str, Any]]) -> list[Request]:
    """One's own file: columns prompt and harmful, and of compliance, refusal, worse and cluster what there is.

    Raises ValueError for a column of text that holds something else, with the row.
    """
    return [
        Request(
            _text(row, "prompt", number),
            truth(row["harmful"], "harmful"),
            *(_text(row, name, number, gap=True) for name in ("compliance", "refusal", "worse")),
            cluster=_text(row, "cluster", number, gap=True),
            worse_refusal=_text(row, "worse_refusal", number, gap=True),
        )
        for number, row in enumerate(rows, start=1)
    ]


def _text(row: dict[str, Any], name: str, number: int, *, gap: bool = False) -> str:
    """Return a row's text; where a `gap` is allowed, an absent one or None is empty. Clusters may be numbered."""
    text = row.get(name)
    if name == "cluster" and isinstance(text, (int, float)):
        return cluster_name(text)
    if gap and text is None:
        return ""
    if not isinstance(text, str):
        raise ValueError(f"row {number} has {name}={text!r}, expected a text" + (", or nothing" if gap else ""))
    return text
