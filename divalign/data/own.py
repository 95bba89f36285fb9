"""One's own file as a source: its rows become requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from divalign.data.columns import check_columns, cluster_name, truth
from divalign.data.examples import Request
from divalign.data.files import stream_file, warn_of
from divalign.data.notes import Notes


def read_own(path: Path) -> list[Request]:
    """Return the requests of one's own file: its columns prompt and harmful, and of the other texts what there is.

    These are compliance, refusal, worse, worse_refusal and cluster. Lines set aside are said in the log. Raises
    ValueError, with the file and the line, for a column of text that holds something else.
    """
    notes = Notes()
    lines = [(notes.line, row) for row in stream_file(path, notes)]
    warn_of(notes, path)
    requests = []
    for line, row in lines:
        check_columns(row, ("prompt", "harmful"), notes.place(line))
        try:
            requests.append(_request(row))
        except ValueError as error:
            raise ValueError(f"{notes.place(line)}: {error}") from error
    return requests


def _request(row: dict[str, Any]) -> Request:
    return Request(
        _text(row, "prompt"),
        truth(row["harmful"], "harmful"),
        *(_text(row, name, gap=True) for name in ("compliance", "refusal", "worse")),
        cluster=_text(row, "cluster", gap=True),
        worse_refusal=_text(row, "worse_refusal", gap=True),
    )


def _text(row: dict[str, Any], name: str, *, gap: bool = False) -> str:
    """Return a row's text; where a `gap` is allowed, an absent one or None is empty. Clusters may be numbered."""
    text = row.get(name)
    if name == "cluster" and isinstance(text, (int, float)):
        return cluster_name(text)
    if gap and text is None:
        return ""
    if not isinstance(text, str):
        raise ValueError(f"it has {name}={text!r}, expected a text" + (", or nothing" if gap else ""))
    return text
