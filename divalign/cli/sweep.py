"""`divalign sweep`: many runs, and the verdict over all their models."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from divalign.cli.app import On, Overrides, Quiet, app, print_line, print_table, progress_of, to_folder, with_options
from divalign.cli.cost import show_gpu_cost

if TYPE_CHECKING:
    from divalign.records import SweepRecord
    from divalign.study.sweep_config import Sweep
    from divalign.study.sweep_runs import Execute

Docs = Annotated[
    Path | None, typer.Option(help="Folder for study.md and figures/; the sweep's own if left out.", callback=to_folder)
]


@dataclass(frozen=True)
class Forecasting:
    """Whether costs are printed in place of the work, and for which GPU."""

    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what each run would cost on a GPU, and do nothing; needs no network.")
    ] = False
    gpu: Annotated[str | None, typer.Option(help="With --dry-run: a100 (the default), h100 or h200.")] = None


RandomWeights = Annotated[
    bool,
    typer.Option("--random-weights", help="Walk the pipeline on small random models of the same architectures."),
]


@dataclass(frozen=True)
class Place:
    """Where runs are done: here or on a cluster, all of them or a shard."""

    on: On = None
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Do every N-th run only, from the I-th on, for an array of jobs."),
    ] = None


@app.command(epilog="Example: divalign sweep configs/study.yaml --out runs/study")
@with_options
def sweep(
    config: Annotated[Path, typer.Argument(help="YAML file of a sweep: run, grid, controls, abliterate, resources.")],
    forecasting: Forecasting,
    place: Place,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the sweep; one that was stopped there is resumed.", callback=to_folder),
    ] = None,
    docs: Docs = None,
    overrides: Overrides = None,
    random_weights: RandomWeights = False,
    quiet: Quiet = False,
) -> None:
    """Do many runs and test over all their models whether separation predicts safety; write study.md.

    A run that fails ends no other. After an array of shards the same command without --shard gathers their runs.
    """
    from divalign.forecast.random_weights import with_random_weights
    from divalign.study.sweep_config import load_sweep

    plan = load_sweep(config, overrides or ())
    if forecasting.dry_run:
        show_gpu_cost(plan, forecasting.gpu or "a100")
        return
    if forecasting.gpu:
        raise ValueError(f"--gpu {forecasting.gpu} is for --dry-run; where a sweep works, model.device says on what")
    if docs and place.shard:
        raise ValueError("--docs is for the sweep that gathers all shards; a shard writes no study.md")
    if out is None:
        raise typer.BadParameter("name the folder of the sweep: --out DIR (only --dry-run goes without)")
    if random_weights:
        plan = with_random_weights(plan, Path(f"{out}-models"))
    settings = [word for override in overrides or () for word in ("--set", override)]
    rest = [*(["--docs", str(docs)] if docs else []), *(["--random-weights"] if random_weights else [])]
    command = shlex.join(["divalign", "sweep", str(config), *settings, "--out", str(out), *rest])
    with _naming_failures():
        if place.shard:
            _do_shard(plan, out, place.shard, place.on, quiet=quiet)
        else:
            record = _do(plan, out, place.on, quiet=quiet)
            _publish(record, docs or out, command)
            if not quiet:
                print_table(_table(record))
                print_line(f"{out / 'sweep.json'} and {(docs or out) / 'study.md'}")


def _do(plan: Sweep, out: Path, on: str | None, *, quiet: bool) -> SweepRecord:
    from divalign.study.sweep import sweep as run_sweep

    return run_sweep(plan, out, execute=_executor(on), progress=progress_of(quiet=quiet))


def _do_shard(plan: Sweep, out: Path, shard: str, on: str | None, *, quiet: bool) -> None:
    from divalign.study.sweep import parse_shard, sweep_shard

    names = sweep_shard(plan, out, parse_shard(shard), execute=_executor(on), progress=progress_of(quiet=quiet))
    if not quiet:
        done = ", ".join(names) or "nothing, as there are fewer runs than shards"
        print_line(f"done: {done}; next, after all shards: the same command without --shard")


@contextmanager
def _naming_failures() -> Iterator[None]:
    """Print which runs failed, and exit 1."""
    from divalign.study.sweep_runs import FailedRunsError

    try:
        yield
    except FailedRunsError as error:
        print_line(f"failed: {error}")
        raise typer.Exit(1) from error


def _executor(on: str | None) -> Execute:
    from divalign.cluster.on_ray import ray_executor
    from divalign.study.sweep_runs import in_turn

    return ray_executor(on) if on else in_turn


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
