"""`divalign sweep`: many runs, and the verdict over all their models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from divalign.cli.app import Quiet, app, console, printed, progress_of, to_folder

Docs = Annotated[
    Path | None, typer.Option(help="Folder for study.md and figures/; the sweep's own if left out.", callback=to_folder)
]


@app.command(epilog="Example: divalign sweep configs/study.yaml --out runs/study")
def sweep(
    config: Annotated[Path, typer.Argument(help="YAML file of a sweep: run, grid, controls, abliterate.")],
    out: Annotated[
        Path, typer.Option(help="Folder of the sweep; one that was stopped there goes on.", callback=to_folder)
    ],
    docs: Docs = None,
    quiet: Quiet = False,
) -> None:
    """Do many runs and test over all their models whether separation predicts safety; write study.md."""
    from divalign.store import write_bytes
    from divalign.study.sweep import sweep as run_sweep
    from divalign.study.sweep_config import load_sweep
    from divalign.study.sweep_page import page

    results = run_sweep(load_sweep(config), out, progress=progress_of(quiet=quiet))
    folder = docs or out
    command = f"divalign sweep {config} --out {out}" + (f" --docs {docs}" if docs else "")
    for name, text in page(results, command=command).items():
        write_bytes(folder / name, text.encode())
    if not quiet:
        printed().print(_table(results["verdicts"], len(results["models"])))
        console.print(f"{out / 'sweep.json'} and {folder / 'study.md'}")


def _table(verdicts: dict[str, Any], models: int) -> Table:
    title = f"Does it predict fewer successful attacks? {models} models with controls; p by Holm"
    table = Table(title=title, title_justify="left")
    for name in ("indicator", "score", "p", "power", "conclusion"):
        table.add_column(name, justify="left" if name in ("indicator", "conclusion") else "right")
    for name, verdict in verdicts.items():
        numbers = ("-" if verdict[key] is None else f"{verdict[key]:.3f}" for key in ("value", "p_value", "power"))
        table.add_row(name, *numbers, verdict["conclusion"])
    return table
