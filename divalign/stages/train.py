"""Train one model with one method: the same for a run and for `divalign train`, on one process or, under `accelerate
launch`, on many.

checkpoint/      the weights, or with LoRA the adapter, and the tokenizer
metrics.jsonl    the log of training, without its speed; with held-out rows its last line holds their divergences
training.json    updates, rows used and skipped, held-out figures, a warning of displacement, speed
model.json       how to load the model: the folder can be named as a model
work/            checkpoints of an unfinished training, which resumes from the last complete one
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from divalign import __version__
from divalign.core.losses import find_method
from divalign.data.examples import Row
from divalign.stages.folder import Advance, Progress
from divalign.stages.models import ModelSpec, open_model, write_model_spec
from divalign.store import digest, intact, intact_folder, jsonl, key_of, publish_folder, seal, write_json
from divalign.train.run import Trained, Watch, train_and_save
from divalign.train.speed import TIMES


@dataclass(frozen=True)
class LoraPlan:
    """A low-rank adapter on all linear layers; the weights stay."""

    rank: int = 16
    alpha: float = 32.0


@dataclass(frozen=True)
class TrainPlan:
    """How a model is trained. An update takes `pairs_per_update` pairs, `pairs_per_batch` of them per forward.

    The length is `updates`, or `epochs` where updates are None. The learning rate warms up linearly over
    `warmup_updates` and ends at 0 on a cosine. `sft_weight` anchors the aligned response; `variant` and `too_long` are
    those of train.arguments.DivergenceConfig. With `continue_adapter` the base's own adapter is trained further.
    """

    method: str
    seed: int = 0
    beta: float = 0.1
    updates: int | None = 100
    epochs: float | None = None
    sft_weight: float = 0.0
    variant: str = "paper"
    too_long: str = "refuse"
    pairs_per_update: int = 32
    pairs_per_batch: int = 32
    learning_rate: float = 5e-5
    warmup_updates: int = 6
    max_length: int = 1024
    lora: LoraPlan | None = None
    continue_adapter: bool = False
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


Trainer = Callable[..., ModelSpec]  # trains as `train` does: the same arguments, files and result


def is_trained(
    base: ModelSpec, rows: Sequence[Row], plan: TrainPlan, folder: Path, *, held_out: Sequence[Row] | None = None
) -> bool:
    """Tell whether `folder` holds the result of this training intact."""
    key, log_key = _keys(base, rows, plan, held_out)
    return intact_folder(folder / "checkpoint", key) and intact(folder / "metrics.jsonl", log_key)


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

    `cache` keeps reference log-probabilities for other methods, betas and seeds. A stopped training resumes from its
    last complete checkpoint.

    Raises ValueError where the folder holds a model of other rows or settings, finished or not.
    """
    checkpoint, metrics = folder / "checkpoint", folder / "metrics.jsonl"
    key, log_key = _keys(base, rows, plan, held_out)
    if not is_trained(base, rows, plan, folder, held_out=held_out):
        if checkpoint.is_dir() and key_of(checkpoint) not in (key, None):
            raise ValueError(f"{folder} holds another model, of other rows or settings; choose another --out")
        trained = _train(base, rows, plan, folder, held_out, cache, progress)
        if _is_leader():
            seal(metrics, jsonl(_without_times(trained.log)), log_key)
            write_json(folder / "training.json", _summary(trained))
            publish_folder(folder / ".checkpoint.draft", checkpoint, key)
            shutil.rmtree(folder / "work", ignore_errors=True)
    spec = _spec(base, checkpoint, folder.name)
    if _is_leader():
        write_model_spec(folder, spec)
    return spec


def _keys(base: ModelSpec, rows: Sequence[Row], plan: TrainPlan, held_out: Sequence[Row] | None) -> tuple[str, str]:
    """Return the keys of the checkpoint and of the log."""
    key = digest(train_key(open_model(base).key, rows, plan), held_out and digest(list(held_out)))
    return key, digest("metrics", key)


def _train(
    base: ModelSpec,
    rows: Sequence[Row],
    plan: TrainPlan,
    folder: Path,
    held_out: Sequence[Row] | None,
    cache: Path | None,
    progress: Progress,
) -> Trained:
    """Fill the draft of the checkpoint's folder."""
    ranks, draft = int(os.environ.get("WORLD_SIZE", "1")), folder / ".checkpoint.draft"
    settings = _settings(plan, ranks)
    # With several processes each moves its copy to its own device.
    lm = open_model(replace(base, device="cpu") if ranks > 1 else base).lm()
    if _is_leader():
        shutil.rmtree(draft, ignore_errors=True)
    with ExitStack() as stages:
        return train_and_save(
            lm,
            rows,
            draft,
            held_out=held_out,
            lora={"continue": True} if plan.continue_adapter else asdict(plan.lora) if plan.lora else None,
            work=folder / "work",
            watch=_watch(folder.name, progress, stages),
            use_cpu=base.device == "cpu",
            reference_cache=str(cache) if cache else None,
            **settings,
        )


def _watch(name: str, progress: Progress, stages: ExitStack) -> Watch:
    """Report the reference pass and the updates as two stages; `stages` ends them."""
    advances: dict[str, Advance] = {}
    scored = 0

    def reference(done: int, total: int) -> None:
        nonlocal scored
        if "reference" not in advances:
            advances["reference"] = stages.enter_context(progress(f"reference {name}", total, "rows"))
        advances["reference"](done - scored)
        scored = done

    def start(updates: int) -> None:
        advances["train"] = stages.enter_context(progress(f"train {name}", updates, "updates"))

    return Watch(reference=reference, start=start, advance=lambda done: advances["train"](done))


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
        **({"num_train_epochs": plan.epochs} if plan.updates is None else {"max_steps": plan.updates}),
        "sft_weight": plan.sft_weight,
        "variant": plan.variant,
        "too_long": plan.too_long,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": plan.pairs_per_update // (at_once * ranks),
        "learning_rate": plan.learning_rate,
        "warmup_steps": float(plan.warmup_updates),
        "max_length": plan.max_length,
        "logging_steps": float(plan.log_every),
        "per_device_eval_batch_size": plan.batch_size,
    }


def _spec(base: ModelSpec, checkpoint: Path, name: str) -> ModelSpec:
    """Return the trained model's spec. An adapter is complete: trained from an adapter, it holds that one too."""
    if (checkpoint / "adapter_config.json").is_file():
        return replace(base, adapter=str(checkpoint), name=name)
    return replace(base, source=str(checkpoint), revision=None, adapter=None, name=name)


def _without_times(history: Sequence[dict[str, float | None]]) -> list[dict[str, float | None]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in history]


def _summary(trained: Trained) -> dict[str, Any]:
    """Return what a training says of itself beside its log; the speeds are medians over the log."""
    columns = {name: [value for row in trained.log if (value := row.get(name)) is not None] for name in TIMES}
    return {
        "updates": trained.updates,
        "rows": trained.rows._asdict(),
        "held_out": trained.held_out,
        "displacement": trained.displacement,
        **{name: median(values) if values else None for name, values in columns.items()},
    }


def _is_leader() -> bool:
    return os.environ.get("RANK", "0") == "0"
