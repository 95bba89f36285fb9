"""What a folder holds, for tests that compare before and after."""

from pathlib import Path

import pytest

from divalign.config import Config
from divalign.stages.folder import LOCK
from divalign.study.run import run


def times(folder: Path) -> dict[Path, int]:
    """Return when each file was last written; a lock that is taken counts as no writing."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != LOCK}


def folder_of(config: Config, factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run."""
    folder = factory.mktemp("run") / "out"
    run(config, folder)
    return folder


def assert_no_work(config: Config, folder: Path) -> None:
    """Run again, and hold that no stage works and no file is written."""
    before = times(folder)

    def refuse(stage: str, total: int, unit: str) -> None:
        raise AssertionError(f"the stage {stage!r} was done again")

    run(config, folder, progress=refuse)  # type: ignore[arg-type]
    assert times(folder) == before
