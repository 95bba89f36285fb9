"""An update whose gradient is not finite is left out, as loss scaling does: an overflow must not make weights NaN.

Losses with exponentials (hdo, the exponential pair, chi-square) overflow where a log-ratio passes some hundred nats.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import TrainerCallback

logger = logging.getLogger(__name__)


class FiniteUpdates(TrainerCallback):
    """Drops such gradients before the optimizer sees them, and counts them in `skipped`."""

    def __init__(self) -> None:
        self.skipped = 0

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        gradients = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        if gradients and not torch.isfinite(torch.stack([g.float().sum() for g in gradients]).sum()):
            self.skipped += 1
            kwargs["optimizer"].zero_grad(set_to_none=True)
            logger.warning(
                "update %d is left out: its gradient is not finite (%d so far); lower the learning rate or beta",
                state.global_step + 1,
                self.skipped,
            )
