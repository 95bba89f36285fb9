"""How a run tells what it is doing. The pipeline speaks to this; the command line draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

Advance = Callable[[int], None]


@runtime_checkable
class Progress(Protocol):
    """Announce a stage of `total` steps of some unit; what comes back is told how many more are done."""

    def __call__(self, stage: str, total: int, unit: str) -> AbstractContextManager[Advance]: ...


@contextmanager
def silent(stage: str, total: int, unit: str) -> Iterator[Advance]:
    """Say nothing."""
    yield lambda done: None
