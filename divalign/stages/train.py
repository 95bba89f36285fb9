"""Train one model with one method: the same for a run and for `divalign train`, on one process or, under `accelerate
launch`, on many.

checkpoint/      the weights, or with LoRA the adapter, and the tokenizer
metrics.jsonl    the log of training, without its speed; with held-out rows its last line holds their divergences
speed.json       tokens per second and the share of the machine's matrix product rate, medians over the log
model.json       how to load the model: the folder can be named as a model
work/            checkpoints of an unfinished training, which goes on from the last whole one
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from divalign import __version__
from divalign.core.losses import find_method
from divalign.data.examples import Row
from divalign.stages.folder import Progress
from divalign.stages.models import ModelSpec, open_model, write_model_spec
from divalign.store import digest, intact, intact_folder, jsonl, key_of, publish_folder, seal, write_json
from divalign.train.run import train_and_save
from divalign.train.speed import TIMES


@dataclass(frozen=True)
class LoraPlan:
    """A low-rank adapter on all linear layers; the weights stay."""

    rank: int = 16
    alpha: float = 32.0


@dataclass(frozen=True)
class TrainPlan:
    """How a model is trained. An update takes `pairs_per_update` pairs, `pairs_per_batch` of them per forward.

    The learning rate warms up linearly over `warmup_updates` and ends at 0 on a cosine.
    """

    method: str
    seed: int = 0
    beta: float = 0.1
    updates: int = 100
    pairs_per_update: int = 32
    pairs_per_batch: int = 32
    learning_rate: float = 5e-5
    warmup_updates: int = 6
    max_length: int = 1024
    lora: LoraPlan | None = None
    log_every: int = 5
    batch_size: int = 64

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights, however an update is split."""
        split = ("pairs_per_batch", "batch_size", "method")
        named = {name: value for name, value in asdict(self).items() if name not in split}
        return {**named, "method": find_method(self.method).name}


def train_key(base_key: str, rows: Sequence[Row], plan: TrainPlan) -> str:
    """Return the key that names everything the weights depend on."""
    return digest("train", __version__, base_key, digest(list(rows)), plan.identity())


def train(
    base: ModelSpec,
    rows: Sequence[Row],
    plan: TrainPlan,
    folder: Path,
    *,
    held_out: Sequence[Row] | None = None,
    cache: Path | None = None,
    progress: Progress,
) -> ModelSpec:
    """Train a fresh copy of `base` on TRL rows unless `folder` holds the result intact; return its spec.

    `cache` keeps reference log-probabilities for other methods, betas and seeds. A training that was stopped goes on
    from its last whole checkpoint.

    Raises ValueError where the folder holds a model of other rows or settings, finished or not.
    """
    checkpoint, metrics = folder / "checkpoint", folder / "metrics.jsonl"
    key = digest(train_key(open_model(base).key, rows, plan), held_out and digest(list(held_out)))
    log_key = digest("metrics", key)
    if not (intact_folder(checkpoint, key) and intact(metrics, log_key)):
        if checkpoint.is_dir() and key_of(checkpoint) not in (key, None):
            raise ValueError(f"{folder} holds another model, of other rows or settings; choose another --out")
        history = _train(base, rows, plan, folder, held_out, cache, progress)
        if _is_leader():
            seal(metrics, jsonl(_without_times(history)), log_key)
            write_json(folder / "speed.json", _speed(history))
            publish_folder(folder / ".checkpoint.draft", checkpoint, key)
            shutil.rmtree(folder / "work", ignore_errors=True)
    trained = _spec(base, checkpoint, plan, folder.name)
    if _is_leader():
        write_model_spec(folder, trained)
    return trained


def _train(
    base: ModelSpec,
    rows: Sequence[Row],
    plan: TrainPlan,
    folder: Path,
    held_out: Sequence[Row] | None,
    cache: Path | None,
    progress: Progress,
) -> list[dict[str, float | None]]:
    """Fill the draft of the checkpoint's folder and return the log."""
    ranks, draft = int(os.environ.get("WORLD_SIZE", "1")), folder / ".checkpoint.draft"
    settings = _settings(plan, ranks)
    # With several processes each moves its copy to its own device.
    lm = open_model(replace(base, device="cpu") if ranks > 1 else base).lm()
    if _is_leader():
        shutil.rmtree(draft, ignore_errors=True)
    with progress(f"train {folder.name}", plan.updates, "updates") as advance:
        return train_and_save(
            lm,
            rows,
            draft,
            advance=advance,
            cache=cache,
            lora=asdict(plan.lora) if plan.lora else None,
            on_cpu=base.device == "cpu",
            held_out=held_out,
            work=folder / "work",
            **settings,
        )


def _settings(plan: TrainPlan, ranks: int) -> dict[str, Any]:
    """Return the fields of DivergenceConfig: an update has the same pairs on any number of processes.

    Raises ValueError where the processes do not divide an update's pairs.
    """
    at_once = plan.pairs_per_batch if ranks == 1 else min(plan.pairs_per_batch, plan.pairs_per_update // ranks)
    if not at_once or plan.pairs_per_update % (at_once * ranks):
        raise ValueError(
            f"train.pairs_per_update is {plan.pairs_per_update}, which {ranks} processes of {at_once} pairs do not "
            "divide; make it a multiple, or set train.pairs_per_batch"
        )
    return {
        "method": plan.method,
        "seed": plan.seed,
        "beta": plan.beta,
        "max_steps": plan.updates,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": plan.pairs_per_update // (at_once * ranks),
        "learning_rate": plan.learning_rate,
        "warmup_steps": float(plan.warmup_updates),
        "max_length": plan.max_length,
        "logging_steps": float(plan.log_every),
        "per_device_eval_batch_size": plan.batch_size,
    }


def _spec(base: ModelSpec, checkpoint: Path, plan: TrainPlan, name: str) -> ModelSpec:
    if plan.lora:
        return replace(base, adapter=str(checkpoint), name=name)
    return replace(base, source=str(checkpoint), revision=None, adapter=None, name=name)


def _without_times(history: Sequence[dict[str, float | None]]) -> list[dict[str, float | None]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in history]


def _speed(history: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    columns = {name: [value for row in history if (value := row.get(name)) is not None] for name in TIMES}
    return {name: median(values) if values else None for name, values in columns.items()}


def _is_leader() -> bool:
    return os.environ.get("RANK", "0") == "0"
