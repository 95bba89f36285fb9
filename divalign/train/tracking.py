"""Trackers of a training: the log goes to TensorBoard, Weights & Biases, trackio or MLflow as transformers sends it.

Beside the log a tracker gets what `SafetyMonitor` reads at prompts that are not trained on: refusals, separation, drift
and, where a function is given for it, attack success. Nothing of it decides the weights or stands in metrics.jsonl.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, rewrite_logs

from divalign.train.monitor import SafetyMonitor

TENSORBOARD = "tensorboard"


class Client(NamedTuple):
    """How a tracker's package says whether a run is open, and how it ends the run, as failed or not."""

    is_open: Callable[[Any], bool]
    end: Callable[[Any, bool], None]


CLIENTS = {  # transformers leaves wandb's run open, and those of all three where training fails
    "wandb": Client(lambda wandb: wandb.run is not None, lambda wandb, failed: wandb.finish(exit_code=int(failed))),
    "trackio": Client(
        lambda trackio: trackio.context_vars.current_run.get() is not None, lambda trackio, failed: trackio.finish()
    ),
    "mlflow": Client(
        lambda mlflow: mlflow.active_run() is not None,
        lambda mlflow, failed: mlflow.end_run("FAILED" if failed else "FINISHED"),
    ),
}
TRACKERS = (TENSORBOARD, *CLIENTS)


class Board(TrainerCallback):
    """TensorBoard's files in a folder of one's own, open until `close`: a last evaluation comes after training."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(log_dir=str(folder))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        for name, value in rewrite_logs(logs or {}).items():
            if state.is_world_process_zero and isinstance(value, (int, float)):
                self.writer.add_scalar(name, value, state.global_step)

    def close(self) -> None:
        self.writer.close()


class Tracking(NamedTuple):
    """Which trackers get the log, the folder of TensorBoard's files, and what is read at probe prompts; None: nothing.

    `name` is what the trackers call the training; trackio takes two trainings of one name for one.
    """

    trackers: Sequence[str]
    folder: Path
    name: str
    monitor: SafetyMonitor | None = None

    @property
    def report_to(self) -> list[str]:
        """Return the trackers that transformers starts by their name; TensorBoard's folder would be lost with work/."""
        return [name for name in self.trackers if name != TENSORBOARD]

    def callbacks(self) -> list[TrainerCallback]:
        """Return the callbacks that a trainer needs beside those that `report_to` names."""
        own: list[TrainerCallback] = [Board(self.folder)] if TENSORBOARD in self.trackers else []
        return own if self.monitor is None else [*own, self.monitor]

    def open_runs(self) -> set[str]:
        """Return the trackers of transformers that have a run open."""
        return {name for name in self.report_to if CLIENTS[name].is_open(import_module(name))}

    def close(self, trainer: Any, *, before: set[str], failed: bool) -> None:
        """End the runs that transformers started, so that the next training has runs of its own.

        Those of the trackers `before` were open before training: they are left to who opened them.
        """
        for name in self.open_runs() - before:
            CLIENTS[name].end(import_module(name), failed)
        for name in self.report_to:
            trainer.remove_callback(INTEGRATION_TO_CALLBACK[name])


def check_trackers(names: Sequence[str]) -> None:
    """Raise ValueError for a tracker that is unknown or whose package is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"train.report_to has {name!r}, expected some of {', '.join(TRACKERS)}")
        if find_spec(name) is None:
            raise ValueError(f"train.report_to has {name}, whose package is missing: pip install {name}")
