"""Resume training: check that a work folder has the same settings, and find its newest complete checkpoint.

A checkpoint is complete once checksums.json stands beside its files, and for as long as they are what it says.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from divalign.store import file_digest, read_json, write_json

logger = logging.getLogger(__name__)
SETTINGS = "training.json"
CHECKSUMS = "checksums.json"
SHARDS = "pytorch_model_fsdp"  # how accelerate begins the names of what FSDP saves
WHOLE, BY_FSDP = "whole weights", "weights sharded by FSDP"  # what a checkpoint holds


def by_deepspeed(processes: int) -> str:
    """Return what a checkpoint of DeepSpeed holds, which resumes on as many processes alone."""
    return f"weights of DeepSpeed on {processes} process{'es' * (processes > 1)}"


def newest_checkpoint(work: Path, settings: Mapping[str, Any], *, layout: str = WHOLE) -> str | None:
    """Return the newest complete checkpoint in `work`, or None to start. For one process of several.

    Deletes checkpoints that are torn or edited, and writes `settings` to training.json.

    Raises ValueError where the folder's checkpoints are of a training with other settings, or hold weights in another
    `layout`.
    """
    checkpoints = _checkpoints(work)
    if checkpoints:
        _check(work, settings)
    complete = [checkpoint for checkpoint in checkpoints if _is_complete(checkpoint)]
    for torn in set(checkpoints) - set(complete):
        logger.warning("%s is torn or was edited; it is deleted, and training resumes from an earlier one", torn)
        shutil.rmtree(torn)
    if complete:
        _check_layout(complete[-1], layout)
    write_json(work / SETTINGS, settings)
    return str(complete[-1]) if complete else None


def seal_checkpoint(checkpoint: Path) -> None:
    """Write the checksums of a checkpoint that is all there, and then delete the older ones beside it."""
    write_json(checkpoint / CHECKSUMS, _digests(checkpoint))
    for older in _checkpoints(checkpoint.parent):
        if int(_step(older)) < int(_step(checkpoint)):
            shutil.rmtree(older)


def _checkpoints(work: Path) -> list[Path]:
    """Return the checkpoint folders, oldest first."""
    folders = [folder for folder in work.glob("checkpoint-*") if _step(folder).isdecimal()]
    return sorted(folders, key=lambda folder: int(_step(folder)))


def _step(checkpoint: Path) -> str:
    return checkpoint.name.rpartition("-")[2]


def _is_complete(checkpoint: Path) -> bool:
    try:
        if read_json(checkpoint / "trainer_state.json")["global_step"] != int(_step(checkpoint)):
            return False
        return read_json(checkpoint / CHECKSUMS) == _digests(checkpoint)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _digests(checkpoint: Path) -> dict[str, str]:
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    return {str(path.relative_to(checkpoint)): file_digest(path) for path in files}


def _check_layout(checkpoint: Path, layout: str) -> None:
    saved = _layout(checkpoint)
    if saved != layout:
        raise ValueError(
            f"{checkpoint} has {saved}, and this training reads {layout}; launch it with the same kind of accelerate "
            f"configuration (of DeepSpeed also on as many processes), or delete {checkpoint.parent} to start again"
        )


def _layout(checkpoint: Path) -> str:
    if any(checkpoint.glob(f"{SHARDS}*")):
        return BY_FSDP
    pieces = list(checkpoint.glob("global_step*/*_optim_states.pt"))
    return by_deepspeed(len(pieces)) if pieces else WHOLE


def _check(work: Path, settings: Mapping[str, Any]) -> None:
    path, current = work / SETTINGS, json.loads(json.dumps(settings))
    stored = read_json(path) if path.is_file() else {}
    names = sorted(name for name in {*stored, *current} if stored.get(name) != current.get(name))
    if names:
        theirs, ours = ([f"{name} {_short(values.get(name))}" for name in names] for values in (stored, current))
        raise ValueError(
            f"{work} holds a stopped training with {', '.join(theirs)}, and this one has {', '.join(ours)}; "
            f"go on with the same settings, choose another folder, or delete {work}"
        )


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else json.dumps(value)
