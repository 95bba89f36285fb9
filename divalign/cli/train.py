"""`divalign train`: one model, one method; under `accelerate launch -m divalign train` on many processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from divalign.cli.app import Overrides, app, console, progress_of

Config = Annotated[Path | None, typer.Argument(help="YAML configuration; the embedded world's if left out.")]
Rows = Annotated[Path | None, typer.Option(help="JSON lines of TRL rows, in place of the config's data.")]
HeldOut = Annotated[Path | None, typer.Option(help="TRL rows that are measured, not trained on.")]


@app.command(epilog="Example: divalign train --method dpo --set train.updates=20 --out runs/dpo")
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
) -> None:
    """Align one model with one method and save it, without measuring what it did.

    OUT can be named as a model by the other verbs.
    """
    from divalign.cli.files import read_jsonl
    from divalign.config import load_config
    from divalign.stages.corpus import read_corpus
    from divalign.stages.train import train as run_stage
    from divalign.study.plan import corpus_of, model_of, train_plan, training_rows

    resolved = load_config(config, overrides or [])
    plan = train_plan(resolved, method=method, recipe=recipe, seed=seed)
    chosen = read_jsonl(rows) if rows else training_rows(read_corpus(corpus_of(resolved.data), seed=seed).train, recipe)
    quiet = os.environ.get("RANK", "0") != "0"
    run_stage(
        model_of(resolved.model),
        chosen,
        plan,
        out,
        held_out=read_jsonl(held_out) if held_out else None,
        progress=progress_of(quiet=quiet),
    )
    if not quiet:
        console.print(str(out / "checkpoint"))
