"""Trainings that report to a tracker, and what its own reader then has of them; each is a process of its own.

The processes take where to write from `environment`: nothing of theirs leaves the machine or the folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from divalign.data.recipes import RECIPES
from divalign.stages.folder import silent
from divalign.stages.models import base_spec
from divalign.stages.tracking import TrackingPlan, with_probes
from divalign.stages.train import train
from divalign.stages.train_plan import TrainPlan
from divalign.store import write_json
from divalign.toy.world import requests
from divalign.train.not_finite import NotFiniteError

PLAN = TrainPlan("dpo", beta=0.5, updates=4, pairs_per_update=8, pairs_per_batch=8, learning_rate=4e-4, log_every=2)
PREFIXES = ("WANDB_", "TRACKIO_", "MLFLOW_")
Metrics = dict[str, dict[int, float]]  # by name, by update


def environment(folder: Path) -> dict[str, str]:
    """Return what makes trackers write under `folder` and use no network."""
    return {
        "HOME": str(folder),
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder),
        "WANDB_ERROR_REPORTING": "false",
        "TRACKIO_DIR": str(folder / "trackio"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }


def prepare(folder: Path) -> None:
    """Forget settings of the user's own, before a tracker is imported."""
    for name in [name for name in os.environ if name.startswith(PREFIXES)]:
        del os.environ[name]
    os.environ.update(environment(folder))
    os.chdir(folder)


def probes(count: int) -> list[dict]:
    """Return test prompts, so many of each class."""
    rows = [request._asdict() for request in requests("test", held_out=False)]
    return [row for side in (True, False) for row in [r for r in rows if r["harmful"] is side][:count]]


def train_all(folder: str, tracker: str) -> None:
    """Train into two folders of one name, then a third time with a step that makes the loss infinite.

    FOLDER/open.json says after each whether a run of the tracker was still open.
    """
    prepare(Path(folder))
    rows = [RECIPES["cr"](request) for request in requests("train", held_out=False)][:64]
    plan = replace(PLAN, tracking=with_probes(TrackingPlan((tracker,)), probes(12)))
    failing = replace(PLAN, tracking=TrackingPlan((tracker,)), learning_rate=1e38, warmup_updates=0)
    still_open = []
    for name, entry in (("first/mine", plan), ("second/mine", plan), ("failed", failing)):
        with suppress(NotFiniteError):
            train(base_spec("toy"), rows[:48], entry, Path(folder, name), held_out=rows[48:], progress=silent)
        still_open.append(has_open_run(tracker))
    write_json(Path(folder, "open.json"), still_open)


def has_open_run(tracker: str) -> bool:
    module = import_module(tracker)
    if tracker == "wandb":
        return module.run is not None
    return (module.context_vars.current_run.get() if tracker == "trackio" else module.active_run()) is not None


def read_all(folder: str, tracker: str) -> None:
    """Write what the tracker has to FOLDER/runs.json: of each run name, output_dir, state and metrics."""
    prepare(Path(folder))
    runs = {"wandb": of_wandb, "trackio": of_trackio, "mlflow": of_mlflow}[tracker](Path(folder))
    write_json(Path(folder, "runs.json"), list(runs))


def of_wandb(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        records = [json.loads(line) for line in lines]
        start, end = (next(row[kind] for row in records if row["type"] == kind) for kind in ("run", "exit"))
        configs = [row["config"]["update"] for row in records if row["type"] == "config"]
        yield {
            "name": start["display_name"],
            "output_dir": next(config["output_dir"] for config in configs if "output_dir" in config),
            "state": "failed" if end["exit_code"] else "finished",
            "metrics": by_name([row["history"]["item"] for row in records if row["type"] == "history"]),
        }


def of_trackio(folder: Path) -> Iterator[dict[str, Any]]:
    trackio, storage = import_module("trackio"), import_module("trackio.sqlite_storage").SQLiteStorage
    for run in trackio.Api().runs("huggingface"):
        rows = storage.get_logs(run.project, run.name, run_id=run.id)
        yield {
            "name": run.name,
            "output_dir": run.config["output_dir"],
            "state": None,  # trackio keeps none
            "metrics": by_name(rows),
        }


def by_name(rows: list[dict[str, Any]]) -> Metrics:
    """Return metrics of rows that name the update; of two values at an update the last."""
    metrics: Metrics = defaultdict(dict)
    for row in rows:
        for name, value in row.items():
            metrics[name][row["train/global_step"]] = value
    return metrics


def of_mlflow(folder: Path) -> Iterator[dict[str, Any]]:
    client = import_module("mlflow").MlflowClient()
    for run in sorted(client.search_runs(["0"]), key=lambda run: run.info.start_time):
        history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        yield {
            "name": run.info.run_name,
            "output_dir": run.data.params["output_dir"],
            "state": run.info.status.lower(),
            "metrics": {name: {row.step: row.value for row in rows} for name, rows in history.items()},
        }
