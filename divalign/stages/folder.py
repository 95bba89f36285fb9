"""A folder that one process works in: lock, owner, clock and progress callbacks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

from filelock import FileLock, Timeout

from divalign.limits import refuse_links
from divalign.store import read_json, write_json

LOCK = ".lock"
PAUSE = 5.0  # seconds of work that a kill may lose from the count
Advance = Callable[[int], None]


@runtime_checkable
class Progress(Protocol):
    """Announces a stage of `total` steps of some unit; the function that it yields is called with steps done since."""

    def __call__(self, stage: str, total: int, unit: str) -> AbstractContextManager[Advance]: ...


@contextmanager
def silent(stage: str, total: int, unit: str) -> Iterator[Advance]:
    """Report nothing."""
    yield lambda done: None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process out of `folder`, which need not exist, for as long as this one works there.

    The lock is the kernel's, on a file that stays: it ends with the process, however that ends. Where there can be
    none, as nothing can be written there or the file system knows no locks, work goes on without. Raises ValueError
    where another process holds the lock, and where a link in the folder leads out of it.
    """
    refuse_links(folder)
    lock = FileLock(folder / LOCK)
    if _writable(folder):
        try:
            with suppress(NotImplementedError):
                lock.acquire(blocking=False)
        except Timeout:
            raise ValueError(
                f"another process is at work in {folder}; wait until it ends, or choose another --out"
            ) from None
    try:
        yield
    finally:
        lock.release()


def check_unclaimed(folder: Path, kind: str) -> None:
    """Raise ValueError where `folder` is a file or holds files: it is something else than a new `kind` folder.

    Hidden files do not count: a kill may leave one, and the lock is one.
    """
    if folder.exists() and (not folder.is_dir() or any(path.name[0] != "." for path in folder.iterdir())):
        raise ValueError(f"{folder} exists and is no {kind} folder; choose another --out")


class Clock:
    """Counts the seconds that all processes of a run have worked, in a file.

    The file is written at the end of every stage and at times within, so a process that finds all work done writes
    nothing. It counts each finished stage too, less the stages that ran inside it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.start = path, time.perf_counter()
        self.before, self.written = _seconds_in(path), self.start
        self.stages, self.inside = _stages_in(path), [0.0]

    @property
    def seconds(self) -> float:
        """Return the seconds of all processes so far, to a tenth."""
        return round(self.before + time.perf_counter() - self.start, 1)

    def around(self, progress: Progress) -> Progress:
        """Return a progress that passes everything on to `progress`, and writes the time as the work goes on."""

        @contextmanager
        def timed(stage: str, total: int, unit: str) -> Iterator[Advance]:
            began = time.perf_counter()
            self.inside.append(0.0)
            with progress(stage, total, unit) as advance:

                def advance_and_write(done: int) -> None:
                    advance(done)
                    if time.perf_counter() - self.written > PAUSE:
                        self._write()

                try:
                    yield advance_and_write
                finally:
                    self._finish(stage, time.perf_counter() - began)

        return timed

    def _finish(self, stage: str, seconds: float) -> None:
        """Count a stage that ended after so many seconds."""
        own = seconds - self.inside.pop()
        self.inside[-1] += seconds
        self.stages[stage] = round(self.stages.get(stage, 0.0) + own, 1)
        self._write()

    def _write(self) -> None:
        self.written = time.perf_counter()
        write_json(self.path, {"seconds": self.seconds, "stages": self.stages})


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK).touch()
    except OSError:
        return False
    return True


def _seconds_in(path: Path) -> float:
    try:
        return float(read_json(path)["seconds"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0.0


def _stages_in(path: Path) -> dict[str, float]:
    try:
        return {str(name): float(seconds) for name, seconds in read_json(path)["stages"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
