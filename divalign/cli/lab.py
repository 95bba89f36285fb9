"""`divalign lab`: the theory as an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from divalign.cli.app import app, print_line, printed, to_folder


@app.command(epilog="Example: divalign lab --worlds 3 --out runs/lab")
def lab(
    out: Annotated[Path, typer.Option(help="Folder for theory.md, theory.json and figures.", callback=to_folder)],
    worlds: Annotated[int, typer.Option(help="Finite worlds to draw.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the draw.", min=0)] = 0,
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
        printed().print(table)

    run_lab(worlds, seed, out, progress=show)
    print_line(str(out / "theory.md"))
