"""Metrics of the micro-batches between two rows of the training log."""

from __future__ import annotations

from typing import Any

import torch

from divalign.core.losses import LogRatios, RowBaselines
from divalign.train.accumulation import Gather, response_tokens
from divalign.train.readout import RowScores, critic_metrics, reward_metrics
from divalign.train.speed import Speed


class Recorder:
    """Rewards and speed since the last row of the log."""

    def __init__(self, model: Any) -> None:
        self.speed, self.scores, self.baselines = Speed(model), list[RowScores](), list[RowBaselines]()

    def add(self, ratios: LogRatios, inputs: dict[str, Any], baseline: RowBaselines | None = None) -> None:
        """Take in a micro-batch: its r, what its layout says of its tokens, and a learned baseline of its prompts."""
        self.speed.add(int(inputs["attention_mask"].sum()), len(inputs["targets"]))
        aligned, unaligned = inputs["reference"].chunk(2)
        tokens = response_tokens(inputs).aligned
        self.scores.append(RowScores(ratios.aligned.detach(), ratios.unaligned.detach(), aligned, unaligned, tokens))
        if baseline is not None:
            self.baselines.append(RowBaselines(baseline.aligned.detach(), baseline.unaligned.detach()))

    def metrics(self, gather: Gather, *, beta: float, paired: bool) -> dict[str, float]:
        """Return the rewards over all rows and ranks and this process's speed, and begin anew; nothing if none came."""
        if not self.scores:
            return {}
        scores = RowScores(*(gather(torch.cat(column)) for column in zip(*self.scores, strict=True)))
        metrics = reward_metrics(scores, beta=beta, paired=paired)
        if self.baselines:
            baseline = RowBaselines(*(gather(torch.cat(column)) for column in zip(*self.baselines, strict=True)))
            metrics |= critic_metrics(LogRatios(scores.aligned, scores.unaligned), baseline)
        self.scores, self.baselines = [], []
        return {**metrics, **self.speed.metrics()}
