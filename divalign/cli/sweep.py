"""`divalign sweep`: many runs, and the verdict over all their models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from divalign.cli.app import On, Quiet, app, console, failing, printed, progress_of, to_folder

if TYPE_CHECKING:
    from divalign.records import SweepRecord

Docs = Annotated[
    Path | None, typer.Option(help="Folder for study.md and figures/; the sweep's own if left out.", callback=to_folder)
]


Part = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Do every N-th run only, from the I-th on, for an array of jobs."),
]


@app.command(epilog="Example: divalign sweep configs/study.yaml --out runs/study")
def sweep(
    config: Annotated[Path, typer.Argument(help="YAML file of a sweep: run, grid, controls, abliterate, resources.")],
    out: Annotated[
        Path, typer.Option(help="Folder of the sweep; one that was stopped there is resumed.", callback=to_folder)
    ],
    docs: Docs = None,
    on: On = None,
    shard: Part = None,
    quiet: Quiet = False,
) -> None:
    """Do many runs and test over all their models whether separation predicts safety; write study.md.

    A run that fails ends no other. After an array of shards the same command without --shard gathers their runs.
    """
    from divalign.study.sweep import parse_shard, sweep_shard
    from divalign.study.sweep import sweep as run_sweep
    from divalign.study.sweep_config import load_sweep
    from divalign.study.sweep_runs import FailedRunsError, in_turn

    options = {"execute": _executor(on) if on else in_turn, "progress": progress_of(quiet=quiet)}
    plan = load_sweep(config)
    try:
        with failing():
            if shard:
                names = sweep_shard(plan, out, parse_shard(shard), **options)
                if not quiet:
                    console.print(f"done: {', '.join(names)}; next, after all shards: the same command without --shard")
                return
            record = run_sweep(plan, out, **options)
    except FailedRunsError as error:
        console.print("[bold red]failed:[/]", end=" ")
        console.print(str(error), highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    command = f"divalign sweep {config} --out {out}" + (f" --docs {docs}" if docs else "")
    _publish(record, docs or out, command)
    if not quiet:
        printed().print(_table(record))
        console.print(f"{out / 'sweep.json'} and {(docs or out) / 'study.md'}")


def _executor(on: str) -> Any:
    from divalign.study.on_ray import ray_executor

    return ray_executor(on)


def _publish(record: SweepRecord, folder: Path, command: str) -> None:
    from divalign.report.study_page import study_page
    from divalign.store import write_bytes

    for name, text in study_page(record, command=command).items():
        write_bytes(folder / name, text.encode())


def _table(record: SweepRecord) -> Table:
    models = len(record.models)
    title = f"Does it predict fewer successful attacks? {models} models with controls; p by Holm"
    table = Table(title=title, title_justify="left")
    for name in ("indicator", "t", "p", "power", "conclusion"):
        table.add_column(name, justify="left" if name in ("indicator", "conclusion") else "right")
    for name, verdict in record.verdicts.items():
        numbers = (verdict.value, verdict.p_value, verdict.power)
        table.add_row(name, *("-" if number is None else f"{number:.3f}" for number in numbers), verdict.conclusion)
    return table
