"""Trackers of a training: the log goes to TensorBoard, Weights & Biases, trackio or MLflow as transformers sends it.

Beside the log a tracker gets what `SafetyMonitor` reads at prompts that are not trained on: refusals, separation, drift
and, where a function is given for it, attack success. Nothing of it decides the weights or stands in metrics.jsonl.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback
from transformers.integrations.integration_utils import TensorBoardCallback

from divalign.train.monitor import SafetyMonitor

TENSORBOARD = "tensorboard"
TRACKERS = (TENSORBOARD, "wandb", "trackio", "mlflow")
CHECKS = 10  # of the probe prompts in a training


class Tracking(NamedTuple):
    """Which trackers get the log, the folder of TensorBoard's files, and what is read at probe prompts; None: nothing.

    `name` is what the trackers call the training.
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
        own: list[Any] = [_board(self.folder)] if TENSORBOARD in self.trackers else []
        return own if self.monitor is None else [*own, self.monitor]


def _board(folder: Path) -> TensorBoardCallback:
    from torch.utils.tensorboard import SummaryWriter

    return TensorBoardCallback(SummaryWriter(log_dir=str(folder)))


def check_trackers(names: Sequence[str]) -> None:
    """Raise ValueError for a tracker that is unknown or whose package is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"train.report_to has {name!r}, expected some of {', '.join(TRACKERS)}")
        if find_spec(name) is None:
            raise ValueError(f"train.report_to has {name}, whose package is missing: pip install {name}")
