"""The moving average behind `normaliser: ema`: kept from step to step, and in the checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from divalign.core.losses import LogRatios, Method


class RunningBaseline(TrainerCallback, ExportableState):
    """A baseline averaged over optimizer steps; evaluation never moves it.

    It travels in `trainer_state.json`, so that a resumed run goes on from the average it had.
    """

    def __init__(self) -> None:
        self.value: float | None = None

    def update(self, method: Method, ratios: LogRatios, rate: float) -> torch.Tensor:
        """Take in a step's log-ratios and return the average, this step included."""
        previous = None if self.value is None else ratios.aligned.new_tensor(self.value)
        average = method.running_baseline(previous, ratios, rate)
        self.value = float(average)
        return average

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"value": self.value}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on from the checkpoint's average, if training goes on from a checkpoint."""
        saved = state.stateful_callbacks.get(type(self).__name__)
        self.value = saved["attributes"]["value"] if saved else None
