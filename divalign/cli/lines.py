"""Progress where nobody watches: a line when a stage starts, one every 30 seconds, and one when it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PERIOD = 30.0  # seconds between two lines of one stage


@contextmanager
def progress_lines(
    stage: str, total: int, unit: str, *, write: Callable[[str], None], period: float = PERIOD
) -> Iterator[Callable[[int], None]]:
    """Report a stage in plain lines: done, total, rate and the time left, every `period` seconds.

    A thread writes them, so that a step that takes longer than the period is seen to go on.
    """
    done, begin, ended = 0, time.monotonic(), threading.Event()

    def advance(steps: int) -> None:
        nonlocal done
        done += steps

    def report() -> None:
        while not ended.wait(period):
            write(f"{stage}: {status(done, total, unit, time.monotonic() - begin)}")

    write(f"{stage}: started, {total} {unit}")
    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    outcome = "stopped"
    try:
        yield advance
        outcome = "done"
    finally:
        ended.set()
        thread.join()
        write(f"{stage}: {outcome}, {done} of {total} {unit} in {duration(time.monotonic() - begin)}")


def status(done: int, total: int, unit: str, seconds: float) -> str:
    """Return how far a stage is: done of total, steps per second, and the time left at that rate."""
    if not done:
        return f"0 of {total} {unit} after {duration(seconds)}"
    rate = done / seconds
    left = duration(max(0, total - done) / rate)
    return f"{done} of {total} {unit}, {rate:,.3g}/s, {left} left"


def duration(seconds: float) -> str:
    """Return a length of time as people say it: 42 s, 3 min 20 s, 1 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
