"""The command line: one file a verb, named as the verb; importing it registers the verb."""

from __future__ import annotations

import sys
import warnings
from typing import Any, NoReturn

import typer

from divalign.cli import (
    attack,
    audit,
    build,
    card,
    check,
    data,
    doctor,
    estimate,
    init,
    judge,
    lab,
    report,
    run,
    separate,
    sweep,
    train,
    utility,
)
from divalign.cli.app import app, console

VERBS = (
    run,
    init,
    data,
    audit,
    build,
    train,
    estimate,
    separate,
    attack,
    judge,
    utility,
    report,
    check,
    card,
    lab,
    sweep,
    doctor,
)


# Of click or, in later versions of typer, of its own copy of click: typer exports this child alone.
UsageError: Any = typer.BadParameter.__base__
INTERRUPTED = 130  # what typer makes of Ctrl-C


def main() -> None:
    """Run the command line; a ValueError is the user's to mend, anything else is ours."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # for its callers, not for users
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
    """Print what is wrong, and exit 2; without a verb the help has said it."""
    if sentence:
        plain = sentence.replace("[", r"\[")
        console.print(f"[bold red]error:[/] {plain}", highlight=False, soft_wrap=True)
    sys.exit(2)
