"""What the verbs share: the application, the console, common options and the progress display."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The verbs: `divalign VERB --help` says what each takes. Exit 0 done, 1 the run failed, 2 bad input.",
)
console = Console(stderr=True)

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the config.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]


def to_file(path: Path | None) -> Path | None:
    """Return the file that an option says to write; refuse it before the work where it cannot be written."""
    if path is not None:
        if path.is_dir():
            raise typer.BadParameter(f"{path} is a folder, expected a file to write")
        to_folder(path.parent)
    return path


def to_folder(path: Path | None) -> Path | None:
    """Return the folder that an option says to write into; refuse it before the work where it cannot be made."""
    if path is not None:
        there = next(one for one in (path, *path.absolute().parents) if one.exists())
        if not there.is_dir():
            raise typer.BadParameter(f"{there} is a file, expected a folder to write {path} into")
        if not os.access(there, os.W_OK):
            raise typer.BadParameter(f"nothing can be written into {there}; name another place")
    return path


def printed() -> Console:
    """Return the console of results: stdout, and wide where nobody watches, so that no name is cut."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=160)


@contextmanager
def drawn(stage: str, total: int, unit: str) -> Iterator:
    """Draw a stage with its rate and the time left."""
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(stage, total=total, unit=unit, rate="")

        def advance(done: int) -> None:
            progress.advance(task, done)
            speed = progress.tasks[0].finished_speed or progress.tasks[0].speed
            progress.update(task, rate=f"{speed:,.1f}/s" if speed else "")

        yield advance
