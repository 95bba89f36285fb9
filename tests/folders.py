"""What a folder holds, for tests that compare before and after."""

from pathlib import Path

from divalign.store import LOCK


def times(folder: Path) -> dict[Path, int]:
    """Return when each file was last written; a lock that is taken counts as no writing."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != LOCK}
