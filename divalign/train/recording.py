"""Metrics of the micro-batches between two rows of the training log."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from divalign.core.losses import LogRatios, RowBaselines
from divalign.core.precision import widest_dtype
from divalign.train.accumulation import Gather, response_tokens
from divalign.train.readout import RowScores, critic_metrics, reward_metrics
from divalign.train.speed import Speed


class Recorder:
    """Rewards and speed since the last row of the log. `dtype` is of matrix products, where autocast sets it."""

    def __init__(self, model: Any, dtype: torch.dtype | None = None) -> None:
        self.speed, self.scores, self.baselines = Speed(model, dtype), list[RowScores](), list[RowBaselines]()

    def add(self, ratios: LogRatios, inputs: dict[str, Any], baseline: RowBaselines | None = None) -> None:
        """Take in a micro-batch: r of the couples that count, its layout, and a learned baseline of its prompts."""
        couples = inputs["couples"]
        if couples:
            self.speed.add(inputs)
        aligned, unaligned = (side[:couples] for side in inputs["reference"].chunk(2))
        tokens = response_tokens(inputs).aligned
        self.scores.append(RowScores(ratios.aligned.detach(), ratios.unaligned.detach(), aligned, unaligned, tokens))
        if baseline is not None:
            self.baselines.append(RowBaselines(baseline.aligned.detach(), baseline.unaligned.detach()))

    def metrics(self, gather: Gather, *, beta: float, paired: bool) -> dict[str, float]:
        """Return the rewards over all rows and ranks and this process's speed, and begin anew; nothing if none came.

        Sampled responses have a speed and no rewards here.
        """
        speed = self.speed.metrics()
        if not self.scores:
            return speed
        scores = self.gathered(gather)
        metrics = reward_metrics(scores, beta=beta, paired=paired)
        if self.baselines:
            baseline = RowBaselines(*self.gathered_baselines(gather))
            metrics |= critic_metrics(LogRatios(scores.aligned, scores.unaligned), baseline)
        self.scores, self.baselines = [], []
        return {**metrics, **speed}

    def gathered(self, gather: Gather) -> RowScores:
        """Return the scores of all rows and ranks since the last row of the log."""
        return RowScores(*(gather(torch.cat(column)) for column in zip(*self.scores, strict=True)))

    def gathered_baselines(self, gather: Gather) -> list[Tensor]:
        """Return the learned baselines of the same rows, by class; nothing for a method that learns none."""
        return [gather(torch.cat(column)) for column in zip(*self.baselines, strict=True)]


class Unlogged(TrainerCallback, ExportableState):
    """What the next row of the log will say of updates that are past; it travels in the checkpoint.

    Without it a resumed run's next row would be a mean over fewer updates than an uninterrupted run's.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.content: dict[str, Any] = {}

    def collect(self) -> None:
        """Gather it from all ranks, which must all call this before a checkpoint is saved."""
        trainer, recorder = self.trainer, self.trainer.recorder
        if not hasattr(trainer, "_tr_loss"):  # of a transformers that keeps it elsewhere
            return
        scores = recorder.gathered(trainer.ranks.gather) if recorder.scores else []
        self.content = {
            "loss": trainer.ranks.mean(float(trainer._tr_loss)),
            "logged": trainer._globalstep_last_logged,
            "scores": [column.cpu().double().tolist() for column in scores],
            "baselines": [
                column.cpu().double().tolist() for column in recorder.gathered_baselines(trainer.ranks.gather)
            ],
            "clouds": trainer._clouds.unlogged() if trainer._clouds else [],
            "sampled": trainer._sampled.unlogged() if trainer._sampled else [],
        }

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": self.content}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Continue from the checkpoint's, if training resumes from a checkpoint: on the first rank, for all of them."""
        saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())["attributes"]
        if not (saved and state.global_step):  # a new training, perhaps after another one of the same trainer
            self.content = {}
            return
        trainer = self.trainer
        trainer._tr_loss.fill_(saved["loss"])
        trainer._globalstep_last_logged = saved["logged"]
        first, options = trainer.ranks.rank == 0, {"dtype": widest_dtype(args.device), "device": args.device}

        def columns(name: str) -> list[Tensor]:
            whole = [torch.tensor(column, **options) for column in saved.get(name, [])]
            return [column if first else column[:0] for column in whole]

        trainer.recorder.scores = [RowScores(*columns("scores"))] if saved["scores"] else []
        trainer.recorder.baselines = [RowBaselines(*columns("baselines"))] if saved.get("baselines") else []
        if trainer._clouds and saved.get("clouds"):
            trainer._clouds.resume(saved["clouds"])
        if trainer._sampled and saved.get("sampled"):
            trainer._sampled.resume(saved["sampled"])
