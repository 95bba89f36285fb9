"""`divalign check`: bounds on a run's numbers, for continuous integration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from divalign.cli.app import Quiet, app, print_line, printed, to_file


@app.command(epilog="Example: divalign check runs/tour --require 'asr.direct<=0.05' --require 'over_refusal<=0.10'")
def check(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    require: Annotated[
        list[str],
        typer.Option(help="NUMBER<=BOUND or NUMBER>=BOUND: asr.ATTACK, asr.*, over_refusal, held_out.asr.ATTACK, ..."),
    ],
    model: Annotated[
        list[str] | None, typer.Option(help="A model of the run; may be repeated. Without: every aligned one.")
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(help="Write the outcomes as JUnit XML to this file.", callback=to_file)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Hold a run's numbers against bounds. Exit 1 where one fails.

    The worse end of the 95 % interval counts: the upper one for <=, the lower one for >=. What is undecided fails.
    """
    from divalign.report.reading import read_results
    from divalign.report.requirements import check_requirements, junit_xml, parse_requirement
    from divalign.store import write_bytes

    requirements = [parse_requirement(text) for text in require]
    outcomes = check_requirements(read_results(run), requirements, model or [])
    if junit is not None:
        write_bytes(junit, junit_xml(outcomes, name=f"divalign check {run.resolve().name}").encode())
    failed = [outcome for outcome in outcomes if not outcome.passed]
    for outcome in failed if quiet else outcomes:
        mark = "[green]pass[/]" if outcome.passed else "[bold red]FAIL[/]"
        printed().print(mark, escape(outcome.words), highlight=False, soft_wrap=True)
    if failed:
        print_line(f"{len(failed)} of {len(outcomes)} requirements failed")
        raise typer.Exit(1)
