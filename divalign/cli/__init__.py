"""The command line. Each module here holds a group of verbs; importing it registers them."""

from __future__ import annotations

import sys

import typer

from divalign.cli import data, estimating, health, loop, theory, training
from divalign.cli.app import app, console

VERBS = (loop, training, data, estimating, theory, health)


def main() -> None:
    """Run the command line; a ValueError is the user's to mend, anything else is ours."""
    try:
        # Out of standalone mode, typer returns the code of a typer.Exit where it would have exited with it.
        sys.exit(app(standalone_mode=False) or 0)
    except (ValueError, typer.BadParameter) as error:
        console.print(f"[bold red]error:[/] {_plain(error)}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        sys.exit(130)


def _plain(error: Exception) -> str:
    return str(error).replace("[", r"\[")
