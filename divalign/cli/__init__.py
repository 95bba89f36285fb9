"""The command line. Each module here holds a group of verbs; importing it registers them."""

from __future__ import annotations

import sys

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


def main() -> None:
    """Run the command line; a ValueError is the user's to mend, anything else is ours."""
    try:
        code = app(standalone_mode=False)  # a verb's typer.Exit comes back as its code, not as an exception
    except (ValueError, typer.BadParameter) as error:
        console.print(f"[bold red]error:[/] {_plain(error)}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        sys.exit(130)
    if code:
        sys.exit(code)


def _plain(error: Exception) -> str:
    return str(error).replace("[", r"\[")
