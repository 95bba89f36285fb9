"""How a command that failed ends: one sentence, what to do, and the exit code."""

from __future__ import annotations

import errno
from typing import Any, NamedTuple

import typer

from divalign.store import disk_is_full

# Of click or, in later versions of typer, of its own copy of click: typer exports this child alone.
UsageError: Any = typer.BadParameter.__base__
FAILED, BAD_INPUT = 1, 2
LESS_MEMORY = (
    "lower --batch-size or train.pairs_per_batch, train an adapter (train.lora), and with one set model.dtype=bfloat16"
)
OF_FILES = {
    errno.ENOSPC: "make room, or choose another --out; the same command resumes",
    errno.EDQUOT: "make room, or choose another --out; the same command resumes",
    errno.EACCES: "choose a place that you may read and write",
    errno.EPERM: "choose a place that you may read and write",
    errno.EROFS: "choose a place that you may write to",
    errno.ENAMETOOLONG: "choose a shorter --out, or shorter names",
    errno.EMFILE: "close other programs, or raise the limit of open files (ulimit -n)",
}


class Ending(NamedTuple):
    """The exit code, and the sentence to print: "" where all was said."""

    code: int
    sentence: str


def ending(error: Exception) -> Ending:
    """Return how an error ends the command. A ValueError is the user's to mend; what is unforeseen is ours."""
    if isinstance(error, UsageError):
        return Ending(BAD_INPUT, error.format_message())  # type: ignore[attr-defined]
    if isinstance(error, ValueError):
        return Ending(BAD_INPUT, str(error))
    if disk_is_full(error):
        return Ending(FAILED, f"the disk is full ({_first_line(error)}); {OF_FILES[errno.ENOSPC]}")
    own = isinstance(error, ConnectionError) and not error.errno  # of a server, as a loss that is not finite
    if own or isinstance(error, FloatingPointError):
        return Ending(FAILED, str(error))
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's is no MemoryError
        return Ending(FAILED, _with_hint(error, "" if "lower" in str(error) else LESS_MEMORY))
    if isinstance(error, OSError):
        return Ending(FAILED, _with_hint(error, OF_FILES.get(error.errno or 0, "check the path and the network")))
    if isinstance(error, ImportError):
        return Ending(FAILED, _with_hint(error, "install what is missing; `divalign doctor` names it"))
    hint = "this is a fault of divalign: run it again with --debug for the traceback, and report it"
    return Ending(FAILED, f"{type(error).__name__}: {_with_hint(error, hint)}")


def _with_hint(error: Exception, hint: str) -> str:
    return f"{_first_line(error)}; {hint}" if hint else _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
