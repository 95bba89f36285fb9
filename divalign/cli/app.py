"""What the verbs share: the application, the console, common options and the progress display."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
