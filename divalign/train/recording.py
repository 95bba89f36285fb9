"""Metrics of the micro-batches between two rows of the training log."""

from __future__ import annotations

from typing import Any

import torch

from divalign.core.losses import LogRatios
from divalign.train.accumulation import Gather, aligned_tokens
from divalign.train.readout import RowScores, reward_metrics
from divalign.train.speed import Speed


class Recorder:
    """Rewards and speed since the last row of the log."""

    def __init__(self, model: Any) -> None:
        self.speed, self.scores = Speed(model), list[RowScores]()

    def add(self, ratios: LogRatios, inputs: dict[str, Any]) -> None:
        """Take in a micro-batch: its r and what its layout says of its tokens."""
        self.speed.add(int(inputs["attention_mask"].sum()), len(inputs["targets"]))
        aligned, unaligned = inputs["reference"].chunk(2)
        tokens = aligned_tokens(inputs)
        self.scores.append(RowScores(ratios.aligned.detach(), ratios.unaligned.detach(), aligned, unaligned, tokens))

    def metrics(self, gather: Gather, *, beta: float, paired: bool) -> dict[str, float]:
        """Return the rewards over all rows and ranks and this process's speed, and begin anew; nothing if none came."""
        if not self.scores:
            return {}
        scores = RowScores(*(gather(torch.cat(column)) for column in zip(*self.scores, strict=True)))
        self.scores = []
        return {**reward_metrics(scores, beta=beta, paired=paired), **self.speed.metrics()}
