"""How long the processes of a run have worked, together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from divalign.store import read_json, write_json
from divalign.study.progress import Advance, Progress

PAUSE = 5.0  # seconds of work that a kill may lose from the count


class Clock:
    """Counts on from what the processes before left in a file.

    The file is written at the end of every stage and at times within, so a process that finds all work done writes
    nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.start = path, time.perf_counter()
        self.before, self.kept = _seconds_in(path), self.start

    @property
    def seconds(self) -> float:
        """Return the seconds of all processes so far, to a tenth."""
        return round(self.before + time.perf_counter() - self.start, 1)

    def around(self, progress: Progress) -> Progress:
        """Return a progress that tells `progress`, and keeps the time as the work goes on."""

        @contextmanager
        def timed(stage: str, total: int, unit: str) -> Iterator[Advance]:
            with progress(stage, total, unit) as advance:

                def told(done: int) -> None:
                    advance(done)
                    if time.perf_counter() - self.kept > PAUSE:
                        self._keep()

                try:
                    yield told
                finally:
                    self._keep()

        return timed

    def _keep(self) -> None:
        self.kept = time.perf_counter()
        write_json(self.path, {"seconds": self.seconds})


def _seconds_in(path: Path) -> float:
    try:
        return float(read_json(path)["seconds"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0.0
