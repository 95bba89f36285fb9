"""The verbs: `divalign VERB --help` says what each takes. Exit 0 done, 1 the run failed, 2 bad input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console(stderr=True)

Config = Annotated[Path | None, typer.Argument(help="YAML configuration; the tour of the embedded world if left out.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the config.")
]
Out = Annotated[Path, typer.Option(help="Run folder; a run that was stopped there goes on.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]


@app.command()
def run(out: Out, config: Config = None, overrides: Overrides = None, quiet: Quiet = False) -> None:
    """Align, measure, attack and report: the whole loop, into a run folder."""
    from divalign.config import load_config
    from divalign.report import write_report
    from divalign.study.pipeline import run as run_pipeline
    from divalign.study.progress import silent

    resolved = load_config(config, overrides or [])
    results = run_pipeline(resolved, out, progress=silent if quiet else _drawn)
    page = write_report(out)
    if not quiet:
        Console().print(_table(results))
        console.print(results["verdict"]["words"])
        console.print(f"{out / 'results.json'} and {page}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    show_completions: Annotated[bool, typer.Option("--show-completions", help="Put model text into the page.")] = False,
) -> None:
    """Write RUN/report.html from the files of a run folder."""
    from divalign.report import write_report

    console.print(str(write_report(run, show_completions=show_completions)))


@app.command()
def lab(
    out: Annotated[Path, typer.Option(help="Folder for theory.md, theory.json and figures.")],
    worlds: Annotated[int, typer.Option(help="Finite worlds to draw.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
) -> None:
    """Try the theory on finite worlds: every claim with its target, what was reached, and whether it holds."""
    from divalign.lab.claims import run as run_lab

    def show(section: Any) -> None:
        table = Table(title=section.title, title_justify="left")
        for name in ("claim", "target", "reached", "gap", "verdict"):
            table.add_column(name, justify="left" if name in ("claim", "verdict") else "right")
        for claim in section.claims:
            numbers = (f"{claim.target:.6g}", f"{claim.reached:.6g}", f"{claim.gap:.1e}")
            table.add_row(claim.statement, *numbers, " ".join(filter(None, (claim.verdict, claim.condition))))
        Console().print(table)

    run_lab(worlds, seed, out, progress=show)
    console.print(str(out / "theory.md"))


def main() -> None:
    """Run the command line; a ValueError is the user's to mend, anything else is ours."""
    try:
        app(standalone_mode=False)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except (ValueError, typer.BadParameter) as error:
        console.print(f"[bold red]error:[/] {_plain(error)}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        sys.exit(130)


@contextmanager
def _drawn(stage: str, total: int, unit: str) -> Iterator:
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


def _table(results: dict) -> Table:
    """Return the final table: every number with its interval, held-in topics first."""
    attacks = list(results["models"][0]["asr"])
    held_out = any("held_out" in model for model in results["models"])
    table = Table(title="Attack success and over-refusal in %, with 95 % intervals; D_B in nats", title_justify="left")
    for name in ("model", "D_B paper", "probe AUC", *attacks, "over-refusal"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for model in results["models"]:
        parts = [("", model), *([("  unseen topics", model["held_out"])] if held_out and "held_out" in model else [])]
        for name, part in parts:
            table.add_row(
                name or model["name"],
                _number(part["separation"]["bhattacharyya_paper"]),
                _number(part["separation"]["probe_auc"]),
                *(_percent(part["asr"][attack]) for attack in attacks),
                _percent(part["over_refusal"]),
                style="dim" if name else "",
            )
    return table


def _number(estimate: dict) -> str:
    return "undecided" if estimate["value"] is None else f"{estimate['value']:.2f}"


def _percent(rate: dict) -> str:
    if rate["value"] is None:
        return "undecided"
    return f"{100 * rate['value']:.0f} [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"


def _plain(error: Exception) -> str:
    return str(error).replace("[", r"\[")
