"""Train one model of a run: the same rows in the same order, updates and learning rate for every method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from divalign.config import Config
from divalign.lm.load import LM
from divalign.store import cached_folder, digest, forget, intact, jsonl, seal
from divalign.study.plan import Aligned
from divalign.study.progress import Progress
from divalign.train.run import Watch, train_and_save
from divalign.train.speed import TIMES


def align(
    model: Aligned, config: Config, base: Callable[[], LM], folder: Path, cache: Path, progress: Progress
) -> Path:
    """Train `model` from a fresh copy of the base unless its folder holds it intact; return the checkpoint's folder.

    `base` is called for the copy. Beside the checkpoint stands metrics.jsonl, the log of training without its speed.
    """
    metrics, key = folder / "metrics.jsonl", digest("metrics", model.key)

    def make(draft: Path) -> None:
        with progress(f"train {model.name}", model.updates, "updates") as advance:
            told = settings(config, method=model.method, seed=model.seed, updates=model.updates)
            watch = Watch(advance=advance)
            trained = train_and_save(base(), model.rows, draft, watch=watch, reference_cache=str(cache), **told)
        rows = [{name: value for name, value in row.items() if name not in TIMES} for row in trained.log]
        seal(metrics, jsonl(rows), key)

    if not intact(metrics, key):
        forget(folder / "checkpoint")
    return cached_folder(folder / "checkpoint", model.key, make)


def settings(config: Config, *, method: str, seed: int, updates: int, ranks: int = 1) -> dict[str, Any]:
    """Return what `train_and_save` is told of a config: an update has the same pairs on any number of processes.

    Raises ValueError where the processes do not divide an update's pairs.
    """
    train = config.train
    at_once = train.pairs_per_batch if ranks == 1 else min(train.pairs_per_batch, train.pairs_per_update // ranks)
    if not at_once or train.pairs_per_update % (at_once * ranks):
        raise ValueError(
            f"train.pairs_per_update is {train.pairs_per_update}, which {ranks} processes of {at_once} pairs do not "
            "divide; make it a multiple, or set train.pairs_per_batch"
        )
    return {
        "lora": train.lora.model_dump() if train.lora else None,
        "use_cpu": config.model.device == "cpu",
        "method": method,
        "seed": seed,
        "beta": train.beta,
        "max_steps": updates,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": train.pairs_per_update // (at_once * ranks),
        "learning_rate": train.learning_rate,
        "warmup_steps": float(train.warmup_updates),
        "max_length": train.max_length,
        "logging_steps": float(train.log_every),
        "per_device_eval_batch_size": config.measure.batch_size,
    }
