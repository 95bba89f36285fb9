"""`divalign train`: one model, one method; under `accelerate launch -m divalign train` on many processes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from divalign.cli.app import Overrides, Quiet, app, console, progress_of, with_options

Config = Annotated[Path | None, typer.Argument(help="YAML configuration; the embedded world's if left out.")]


@dataclass(frozen=True)
class TrainingData:
    """What is trained on and what is measured."""

    recipe: Annotated[str, typer.Option(help="A name of RECIPES, for the config's own data.")] = "cr"
    rows: Annotated[
        Path | None,
        typer.Option(
            help="Training rows (.jsonl, .json, .csv, .parquet) of any known format, in place of the config's data."
        ),
    ] = None
    held_out: Annotated[Path | None, typer.Option(help="Rows that are measured, not trained on.")] = None


@app.command(epilog="Example: divalign train --method dpo --set train.updates=20 --out runs/dpo")
@with_options
def train(
    out: Annotated[
        Path, typer.Option(help="Folder for the checkpoint and metrics.jsonl; a stopped run goes on there.")
    ],
    data: TrainingData,
    config: Config = None,
    overrides: Overrides = None,
    method: Annotated[str, typer.Option(help="A name of METHODS, fdo:<divergence>, pkg.module:thing.")] = "kldo",
    seed: Annotated[int, typer.Option(help="Of data order and responses.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Align one model with one method and save it, without measuring what it did.

    OUT can be named as a model by the other verbs.
    """
    from divalign.config import load_config
    from divalign.data.loading import load_training_rows
    from divalign.stages.corpus import read_corpus
    from divalign.stages.train import train as run_stage
    from divalign.study.plan import corpus_of, model_of, train_plan, training_rows

    resolved = load_config(config, overrides or [])
    plan = train_plan(resolved, method=method, recipe=data.recipe, seed=seed)
    if data.rows:
        rows = load_training_rows(data.rows)
    else:
        rows = training_rows(read_corpus(corpus_of(resolved.data), seed=seed).train, data.recipe)
    held_out = load_training_rows(data.held_out) if data.held_out else None
    silently = quiet or os.environ.get("RANK", "0") != "0"
    run_stage(model_of(resolved.model), rows, plan, out, held_out=held_out, progress=progress_of(quiet=silently))
    if not silently:
        console.print(str(out / "checkpoint"))
