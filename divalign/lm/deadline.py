"""A deadline over a whole HTTP exchange, however its parts trickle in or out.

httpx's timeouts are for single reads and writes: a server that sends a letter now and then, or `102 Processing` for
ever, never exceeds them. So each connection's stream is bounded where httpcore's trace extension reports it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

CHUNK = 2**16  # bytes that are written between two looks at the clock
STREAMS = (".connect_tcp.complete", ".start_tls.complete")  # events that report a new stream

_ends: ContextVar[float] = ContextVar("ends", default=math.inf)  # of the exchange that runs in this thread


@contextmanager
def deadline(seconds: float) -> Iterator[dict[str, Any]]:
    """Yield the extensions of a request whose exchange, in the body of the `with`, ends in so many seconds.

    It raises TimeoutError then. Every request of a client needs it, since connections are used again.
    """
    token = _ends.set(time.monotonic() + seconds)
    try:
        yield {"trace": _bound}
    finally:
        _ends.reset(token)


def _bound(event: str, info: dict[str, Any]) -> None:
    """Let a new stream's reads and writes end at the deadline of the exchange that they belong to."""
    if not event.endswith(STREAMS):
        return
    stream = info["return_value"]
    read, write = stream.read, stream.write

    def read_in_time(max_bytes: int, timeout: float | None = None) -> bytes:
        return read(max_bytes, timeout=_remaining(timeout))

    def write_in_time(buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), CHUNK):
            write(buffer[start : start + CHUNK], timeout=_remaining(timeout))

    stream.read, stream.write = read_in_time, write_in_time


def _remaining(timeout: float | None) -> float:
    """Return the seconds that an operation may take. Raises TimeoutError where none are left."""
    seconds = _ends.get() - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("the exchange is over its deadline")
    return seconds if timeout is None else min(seconds, timeout)
