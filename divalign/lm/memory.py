"""Batches that halve when memory runs out: one way for everything that runs a model over many rows."""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

GROWS_AFTER = 4  # batches without trouble before the size doubles again


def halving(
    batches: Iterable[Sequence[Item]],
    compute: Callable[[list[Item]], Result],
    *,
    item: str = "conversation",
    divisible: bool = True,
) -> Iterator[tuple[list[Item], Result]]:
    """Yield each batch with `compute` of it, in order; where memory runs out, in halves, which grow back later.

    `compute` is called again with fewer items after it has failed, so it must leave nothing behind. `item` names one
    item in the message.

    Raises MemoryError where a single item is too large, or a batch that is not `divisible`; every other error of
    `compute` passes through.
    """
    limit, calm = None, 0
    for batch in batches:
        done = 0
        while done < len(batch):
            part = list(batch[done : done + limit] if limit else batch[done:])
            outcome = _attempt(compute, part, item)
            if isinstance(outcome, int) and not divisible:
                raise MemoryError(
                    f"out of memory with {len(part)} {item}s in a batch, which the processes that hold a sharded model "
                    "cannot split each for itself; lower the batch size"
                )
            if isinstance(outcome, int):
                limit, calm = outcome, 0
                release()
                continue
            yield part, outcome.value
            done += len(part)
            calm += 1
            if limit and calm >= GROWS_AFTER:
                limit, calm = 2 * limit, 0


@dataclass
class _Done(Generic[Result]):
    value: Result


def _attempt(compute: Callable[[list[Item]], Result], part: list[Item], item: str) -> _Done[Result] | int:
    """Return the result, or the size to try next. After it no traceback refers to the failed attempt's tensors."""
    try:
        return _Done(compute(part))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return halved(len(part), error, item=item)


def halved(size: int, error: BaseException, *, item: str = "conversation") -> int:
    """Return half the size of the batch that was too large. Raises MemoryError for a batch of one."""
    if size == 1:
        raise MemoryError(
            f"out of memory with a single {item} in the batch; what has ended is kept. "
            "Shorten the prompt or the response, or load the model in a smaller dtype"
        ) from error
    return size // 2


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)  # the CPU allocator's words


def release() -> None:
    """Give back what only reference cycles hold, what torch caches, and what the C library keeps of freed memory.

    A trainer and its callbacks refer to each other: without this, eight models of 135 million parameters trained in one
    process held 7.8 GB. glibc keeps freed blocks below the last one in use: 1.5 GB after each such training, which a
    collection alone left at 2.2 GB and this leaves at .7.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
