"""The command line. Each module here holds a group of verbs; importing it registers them."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import typer

from divalign.cli import (
    attacking,
    build,
    data,
    estimating,
    health,
    loop,
    separating,
    sweeping,
    theory,
    training,
    usefulness,
)
from divalign.cli.app import app, console

VERBS = (loop, training, data, build, estimating, separating, attacking, usefulness, sweeping, theory, health)


# Of click or, in later versions of typer, of its own copy of click: typer exports this child alone.
UsageError: Any = typer.BadParameter.__base__
INTERRUPTED = 130  # what typer makes of Ctrl-C


def main() -> None:
    """Run the command line; a ValueError is the user's to mend, anything else is ours."""
    try:
        code = app(standalone_mode=False)  # a verb's typer.Exit comes back as its code, not as an exception
    except ValueError as error:
        _refuse(str(error))
    except UsageError as error:
        _refuse(error.format_message())
    if code == INTERRUPTED:
        console.print("stopped; the same command goes on from here")
    if code:
        sys.exit(code)


def _refuse(sentence: str) -> NoReturn:
    """Say what is wrong, and end; without a verb the help has said it."""
    if sentence:
        plain = sentence.replace("[", r"\[")
        console.print(f"[bold red]error:[/] {plain}", highlight=False, soft_wrap=True)
    sys.exit(2)
