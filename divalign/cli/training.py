"""`divalign train`: one model, one method; under `accelerate launch -m divalign train` on many processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from divalign.cli.app import Overrides, Quiet, app, console, drawn

Config = Annotated[Path | None, typer.Argument(help="YAML configuration; the embedded world's if left out.")]
Rows = Annotated[
    Path | None,
    typer.Option(
        help="Training rows (.jsonl, .json, .csv, .parquet) of any known format, in place of the config's data."
    ),
]
HeldOut = Annotated[Path | None, typer.Option(help="Rows that are measured, not trained on.")]


@app.command()
def train(
    out: Annotated[
        Path, typer.Option(help="Folder for the checkpoint and metrics.jsonl; a stopped run goes on there.")
    ],
    config: Config = None,
    overrides: Overrides = None,
    method: Annotated[str, typer.Option(help="A name of METHODS, fdo:<divergence>, pkg.module:thing.")] = "kldo",
    recipe: Annotated[str, typer.Option(help="A name of RECIPES, for the config's own data.")] = "cr",
    rows: Rows = None,
    held_out: HeldOut = None,
    seed: Annotated[int, typer.Option(help="Of data order and responses.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Align one model with one method and save it, without measuring what it did."""
    from divalign.config import load_config
    from divalign.core.losses import find_method
    from divalign.data.loading import load_training_rows
    from divalign.study.progress import silent
    from divalign.study.train_one import train_one

    find_method(method)
    silently = quiet or os.environ.get("RANK", "0") != "0"
    folder = train_one(
        load_config(config, overrides or []),
        out,
        method=method,
        recipe=recipe,
        rows=load_training_rows(rows) if rows else None,
        held_out=load_training_rows(held_out) if held_out else None,
        seed=seed,
        progress=silent if silently else drawn,
    )
    if not silently:
        console.print(str(folder))
