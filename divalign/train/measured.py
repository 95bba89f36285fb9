"""Held-out rows under the model: rewards and divergences with their intervals, and which model is the best."""

from __future__ import annotations

import logging
from typing import Any

import torch

from divalign.core.logprobs import log_ratio
from divalign.core.losses import LogRatios, RowBaselines
from divalign.lm.decoding import evaluating
from divalign.lm.score import sequence_log_probs
from divalign.train.couples import Couples, check_scored, unscored
from divalign.train.prompt_baseline import baselines_of, row_baselines
from divalign.train.readout import held_out_metrics, held_out_scores, is_supported
from divalign.train.referenced import ReferencedTrainer
from divalign.train.sharding import is_sharded

logger = logging.getLogger(__name__)


class MeasuredTrainer(ReferencedTrainer):
    """A Trainer that evaluates on a whole held-out set at once."""

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure loss, rewards and divergences with their intervals on the whole held-out set at once.

        Raw rows are taken too; once training has begun, only where the reference is still there. Never changes the
        state of training.
        """
        couples = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(couples, dict):
            parts = [self.evaluate(rows, ignore_keys, f"{metric_key_prefix}_{name}") for name, rows in couples.items()]
            return {name: value for part in parts for name, value in part.items()}
        if not isinstance(couples, Couples):
            couples = self._couples(couples, "eval_dataset")
        if couples is None:
            raise ValueError("nothing to evaluate on; give eval_dataset to the trainer or to evaluate()")
        if self._waiting is not None:
            raise ValueError(
                "the weights are sharded when training begins, and the reference is scored then; train first"
            )
        ratios = self.held_out_ratios(couples)
        options: dict[str, Any] = {"beta": self.args.beta, "paired": couples.paired, "seed": self.args.seed}
        options["baseline"] = self.held_out_baseline(couples)
        measured = held_out_metrics(self.method, *held_out_scores(couples, ratios), **options)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        raise ValueError("predict() has no predictions to give; use held_out_ratios for r of each row, or evaluate()")

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Do what Trainer does, but for a divergence that these rows do not support: that is no new best."""
        name = self.args.metric_for_best_model
        if name is None or is_supported(name, metrics):
            return super()._determine_best_metric(metrics, trial)
        logger.warning("eval_%s is left out: the held-out rows support no such number; no new best model", name)
        return False

    def held_out_ratios(self, couples: Couples) -> LogRatios:
        """Return r of every row of a held-out set, aligned and unaligned."""
        rows = [*couples.aligned, *couples.unaligned]
        check_scored(unscored(rows), len(rows))
        with evaluating(self.model), self.accelerator.autocast():
            scores = self.ranks.score(
                [row.row for row in rows],
                lambda share: sequence_log_probs(
                    self.model,
                    share,
                    self._pad_id,
                    batch_size=self.args.per_device_eval_batch_size,
                    in_step=is_sharded(self.model),
                ),
            )
        r = log_ratio(scores, torch.tensor([row.reference for row in rows]), self.args.beta)
        return LogRatios(r[: len(couples.aligned)], r[len(couples.aligned) :])

    def held_out_baseline(self, couples: Couples) -> RowBaselines | None:
        """Return what is taken off r of every row of a held-out set; None for a method without such a baseline."""
        offsets = couples.offsets()
        if self._head is None:
            return row_baselines(None, offsets)
        rows, size = [row.row for row in (*couples.aligned, *couples.unaligned)], self.args.per_device_eval_batch_size
        with evaluating(self.model), self.accelerator.autocast():
            values = baselines_of(self._head, self.model, rows, self._pad_id, batch_size=size)
        split = len(couples.aligned)
        return RowBaselines(-values[:split], -values[split:])
