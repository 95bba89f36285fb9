"""Files that the user names: read whole, or refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines; raise ValueError where it is missing, empty or something else."""
    from divalign.store import read_rows

    if not path.is_file():
        raise ValueError(f"no file at {path}; expected JSON lines, a row each")
    try:
        rows = read_rows(path)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON lines: {error}") from error
    if not rows:
        raise ValueError(f"{path} holds no rows")
    return rows
