"""`divalign train`: one model, one method; under `accelerate launch -m divalign train` on many processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from divalign.cli.app import Cluster, Overrides, Quiet, app, print_line, progress_of, to_folder, with_options

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


@dataclass(frozen=True)
class Training(Cluster):
    """How, how long and where it is trained."""

    method: Annotated[
        str, typer.Option(help="A name of METHODS, fdo:DIVERGENCE, on_policy:DIVERGENCE, pkg.module:thing.")
    ] = "kldo"
    baseline: Annotated[
        Literal["own", "prompt"] | None,
        typer.Option(help="prompt: a learned function of the prompt for the method's own (train.baseline)."),
    ] = None
    seed: Annotated[int, typer.Option(help="Of data order and responses.", min=0)] = 0
    epochs: Annotated[
        float | None, typer.Option(help="Passes over the rows, in place of train.updates and updates_on.")
    ] = None

    def overrides(self) -> list[str]:
        """Return the baseline and the length as --set takes them."""
        baseline = [f"train.baseline={self.baseline}"] if self.baseline else []
        if self.epochs is None:
            return baseline
        return [*baseline, f"train.epochs={self.epochs}", "train.updates=null", "train.updates_on={}"]


@app.command(epilog="Example: divalign train --method dpo --set train.updates=20 --out runs/dpo")
@with_options
def train(
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the checkpoint and metrics.jsonl; a stopped run goes on there.", callback=to_folder
        ),
    ],
    data: TrainingData,
    training: Training,
    config: Config = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Align one model with one method and save it, without measuring what it did.

    OUT can be named as a model by the other verbs.
    """
    from divalign.config import load_config
    from divalign.data.loading import load_training_rows
    from divalign.stages.tracking import with_probes
    from divalign.study.plan import model_of, train_plan

    resolved, trainer = load_config(config, [*(overrides or []), *training.overrides()]), training.trainer()
    silently = quiet or os.environ.get("RANK", "0") != "0"
    progress = progress_of(quiet=silently)
    plan = train_plan(resolved, method=training.method, recipe=data.recipe, seed=training.seed)
    file = data.rows
    rows = load_training_rows(file) if file else _recipe_rows(resolved, data.recipe, training.seed, out, progress)
    held_out = load_training_rows(data.held_out) if data.held_out else None
    plan = replace(plan, tracking=with_probes(plan.tracking, held_out or []))
    trainer(model_of(resolved.model), rows, plan, out, held_out=held_out, progress=progress)
    if not silently:
        for line in _summary(out):
            print_line(line)
        print_line(str(out / "checkpoint"))
    _part()


def _part() -> None:
    """Leave the other processes together: a process whose peer has gone would fail in its last exchange."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _summary(out: Path) -> Iterator[str]:
    """Yield what a finished training says of itself: rows, loss, held-out figures, signs of displacement."""
    from divalign.store import read_json, read_rows

    try:
        content, log = read_json(out / "training.json"), read_rows(out / "metrics.jsonl")
    except (OSError, ValueError):
        yield f"{out / 'training.json'} is torn: the counts and the speed of this training are lost, its model is not"
        return
    counts = content["rows"]
    yield (
        f"{content['updates']} updates on {counts['rows']} rows; {counts['skipped']} too long and skipped, "
        f"{counts['cut']} cut"
    )
    losses = [row["loss"] for row in log if row.get("loss") is not None]
    if losses:
        yield f"loss {losses[0]:.4f} at the first update logged, {losses[-1]:.4f} at the last"
    yield from _sampled_lines(out, log)
    if content["held_out"]:
        figures = (f"{name} {value:.4g}" for name, value in content["held_out"].items() if value is not None)
        yield "held out: " + ", ".join(figures)
    if content["displacement"]:
        yield f"warning: {content['displacement']}"


def _sampled_lines(out: Path, log: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what sampled responses were rewarded with, and what is known of the reward model."""
    from divalign.records import RewardModelRecord, read_record

    rewards = [row["reward"] for row in log if row.get("reward") is not None]
    if not rewards:
        return
    yield f"reward {rewards[0]:.4f} at the first update logged, {rewards[-1]:.4f} at the last"
    path = out / "reward_model.json"
    record = read_record(path, RewardModelRecord) if path.is_file() else None
    if record and record.accuracy and record.js and record.js.low is not None:
        yield (
            f"reward model: {record.accuracy.value:.3f} of {record.held_out_pairs} held-out pairs in the right order, "
            f"js at least {record.js.low:.3f} of 0.693 (95 % interval)"
        )


def _recipe_rows(config: Any, recipe: str, seed: int, out: Path, progress: Any) -> list[Any]:
    """Return the rows of the config's own data, with the base's answers where it is to write them."""
    from divalign.data.recipes import training_rows
    from divalign.stages.answers import answer_corpora
    from divalign.stages.corpus import read_corpus
    from divalign.stages.models import open_model
    from divalign.study.plan import answer_plan, corpus_of, model_of

    corpus = read_corpus(corpus_of(config.data), seed=seed)
    if config.data.answers == "model":
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(
                "data.answers is model, and each of the processes would write all the answers; write them in one "
                "process first (`divalign run`), and give the rows it trained on: --rows RUN/data/RECIPE-seedK.jsonl"
            )
        # The verb's recipe may be another than the configuration's.
        changed = config.model_copy(update={"data": config.data.model_copy(update={"recipes": (recipe,)})})
        base = open_model(model_of(config.model))
        corpus = answer_corpora(
            {seed: corpus._replace(test=[])}, base, answer_plan(changed), out / "data", progress=progress
        )[seed]
    return training_rows(corpus.train, recipe)
