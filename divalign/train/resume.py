"""Resume training: check that a work folder has the same settings, and find its newest complete checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from divalign.store import read_json, write_json

SETTINGS = "training.json"


def newest_checkpoint(work: Path, settings: Mapping[str, Any], *, leader: bool = True) -> str | None:
    """Return the newest whole checkpoint in `work`, or None to start; the `leader` process tidies the folder.

    It deletes checkpoints whose saving was cut short and notes `settings` in training.json.

    Raises ValueError where the folder's checkpoints are of a training with other settings.
    """
    checkpoints = _checkpoints(work)
    whole = [checkpoint for checkpoint in checkpoints if _is_whole(checkpoint)]
    if leader:
        if checkpoints:
            _check(work, settings)
        for torn in set(checkpoints) - set(whole):
            shutil.rmtree(torn)
        write_json(work / SETTINGS, settings)
    return str(whole[-1]) if whole else None


def _checkpoints(work: Path) -> list[Path]:
    """Return the checkpoint folders, oldest first."""
    folders = [folder for folder in work.glob("checkpoint-*") if _step(folder).isdecimal()]
    return sorted(folders, key=lambda folder: int(_step(folder)))


def _step(checkpoint: Path) -> str:
    return checkpoint.name.rpartition("-")[2]


def _is_whole(checkpoint: Path) -> bool:
    """Tell whether the state, which Trainer writes last, is there and the weights can be opened.

    Sharded weights (FSDP, DeepSpeed) lie in folders and are taken on the state's word.
    """
    try:
        if read_json(checkpoint / "trainer_state.json")["global_step"] != int(_step(checkpoint)):
            return False
        for weights in checkpoint.glob("*.safetensors"):
            with safe_open(weights, framework="numpy"):
                pass
    except (OSError, ValueError, KeyError, SafetensorError):
        return False
    return any(part.suffix == ".safetensors" or part.is_dir() for part in checkpoint.iterdir())


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
