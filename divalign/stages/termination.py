"""SIGTERM, which schedulers of pre-emptible machines send some seconds before SIGKILL: stop where work can be resumed.

Whatever is not training is written as it comes, so it stops at once. Training stops after the update under way and
saves a checkpoint. Either way the same command resumes.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

EXIT_CODE = 128 + signal.SIGTERM  # 143, as a shell reports a process that SIGTERM ended


class Terminated(SystemExit):
    """SIGTERM ended the work; the message says where it resumes."""

    def __init__(self, where: str = "") -> None:
        super().__init__(EXIT_CODE)
        self.where = where

    def __str__(self) -> str:
        return f"stopped by SIGTERM{self.where and ' ' + self.where}; the same command resumes"


class _Signal:
    """Whether SIGTERM came, and whether someone waits for a better moment than now."""

    came = False
    deferred = False

    def receive(self, *_: Any) -> None:
        self.came = True
        if not self.deferred:
            raise Terminated


_signal = _Signal()


def handle_sigterm() -> None:
    """Let SIGTERM raise Terminated in this process; called outside its main thread, this does nothing."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _signal.receive)


@contextmanager
def deferring() -> Iterator[Callable[[], bool]]:
    """Raise Terminated at the end of the block, and give a function that tells whether SIGTERM has come.

    It may come several times, from a scheduler and from a launcher: the later ones change nothing.
    """
    _signal.deferred = True
    try:
        yield lambda: _signal.came
    finally:
        _signal.deferred = False
    if _signal.came:
        raise Terminated
