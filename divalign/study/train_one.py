"""Train one model and stop: what `divalign train` does, on one process or, under `accelerate launch`, on many."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from divalign.config import Config
from divalign.data.examples import Row
from divalign.lm.load import load_lm
from divalign.store import write_rows
from divalign.study.align import settings
from divalign.study.corpus import read_corpus
from divalign.study.plan import model_source, training_rows
from divalign.study.progress import Progress
from divalign.train.run import Watch, train_and_save


def train_one(
    config: Config,
    out: Path,
    *,
    method: str,
    recipe: str,
    rows: Sequence[Row] | None = None,
    held_out: Sequence[Row] | None = None,
    seed: int = 0,
    progress: Progress,
) -> Path:
    """Train the config's model on `rows` (its own recipe's if None); return the checkpoint's folder in `out`.

    Beside it stands metrics.jsonl; with `held_out` rows its last line holds their divergences. A run that was stopped
    goes on from its last whole checkpoint.

    Raises ValueError where the folder holds a finished model, or a stopped run of another model, rows or settings.
    """
    folder, work, ranks = out / "checkpoint", out / "work", int(os.environ.get("WORLD_SIZE", "1"))
    draft, leader = out / ".checkpoint.draft", os.environ.get("RANK", "0") == "0"
    if folder.exists():
        raise ValueError(f"{folder} exists: this model is trained; choose another --out or delete it")
    rows = training_rows(read_corpus(config.data, seed=seed).train, recipe) if rows is None else rows
    model = config.model
    lm = load_lm(
        model_source(config),
        dtype=model.dtype,
        device="cpu" if ranks > 1 else model.device,  # each process moves its copy to its own device
        revision=model.revision,
        chat_template=model.chat_template,
        trust_remote_code=model.trust_remote_code,
    )
    if leader:
        shutil.rmtree(draft, ignore_errors=True)
    updates = config.train.updates_on.get(recipe, config.train.updates)
    with progress(f"train {method}", updates, "updates") as advance:
        trained = train_and_save(
            lm,
            rows,
            draft,
            watch=Watch(advance=advance),
            held_out=held_out,
            work=work,
            **settings(config, method=method, seed=seed, updates=updates, ranks=ranks),
        )
    if leader:
        write_rows(out / "metrics.jsonl", trained.log)
        draft.rename(folder)  # after all else: a checkpoint that is there is whole, and has its metrics
        shutil.rmtree(work)
    return folder
