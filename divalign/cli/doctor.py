"""`divalign doctor`: what this machine has, and whether the trainer is exact on it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from divalign.cli.app import app, printed


@app.command(epilog="Example: divalign doctor")
def doctor(
    trainer: Annotated[
        bool, typer.Option("--trainer", help="Run the trainer's equality checks, half a minute.")
    ] = False,
) -> None:
    """Say what this machine has; with --trainer, prove that updates do not depend on how they are computed."""
    table = Table(show_header=False, box=None)
    for name, value in _machine().items():
        table.add_row(name, value)
    printed().print(table)
    if trainer:
        _check_trainer()


def _machine() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    import torch

    from divalign import __version__

    cuda = torch.cuda.is_available()
    return {
        "divalign": __version__,
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "transformers": version("transformers"),
        "threads": str(torch.get_num_threads()),
        "accelerator": torch.cuda.get_device_name() if cuda else "none: everything runs on the CPU",
    }


def _check_trainer() -> None:
    from divalign.train.doctor import check_trainer

    failed = []
    for check in check_trainer():
        mark = "[green]ok[/]" if check.holds else "[red]NO[/]"
        printed().print(f"{mark}  {check.name}: apart by {check.distance:.1e}, allowed {check.allowed:.0e}")
        failed += [] if check.holds else [check.name]
    if failed:
        printed().print(f"{len(failed)} of the checks failed: do not trust training on this machine")
        raise typer.Exit(1)
