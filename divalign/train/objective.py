"""What an update minimises: the method's loss, and the anchor on the aligned responses beside it.

    loss = method(r) + sft_weight * (- sum of log pi over the tokens of aligned responses) / (number of those tokens)

The anchor is that of RPO and of TRL's `loss_type=["sigmoid", "sft"]`: the mean negative log-likelihood per token. Its
mean is over all aligned tokens of the optimizer step, over micro-batches and ranks, so that a step is the same however
it is split (TRL takes the mean of the micro-batches' means). It knows nothing of the method. Methods that learn from
likelihoods alone (sft, csft) are this term and no other, csft with the unaligned responses' beside it.
Source: Iterative RPO, Pang et al. 2024, arXiv 2404.19733, eq. 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from divalign.core.losses import LogRatios, RowBaselines, find_method
from divalign.core.method import Likelihood
from divalign.core.paper_code import PAPER_CODE
from divalign.core.precision import widest_dtype
from divalign.train.accumulation import Step
from divalign.train.arguments import DivergenceConfig
from divalign.train.couples import epoch_of
from divalign.train.ranks import Ranks


class ReleasedAverage(TrainerCallback, ExportableState):
    """The moving average of `variant: paper_code`, forgotten at the start of an epoch; it travels in the checkpoint.

    Each process has its own, of its own micro-batches, as in the released code; a checkpoint holds all of them.
    """

    def __init__(self) -> None:
        self.value: float | None = None
        self.epoch = 0
        self._values: list[float | None] = []

    def collect(self, ranks: Ranks) -> None:
        """Gather the averages of all processes, which must all call this before a checkpoint is saved."""
        own = math.nan if self.value is None else self.value
        every = ranks.gather(torch.tensor([own], device=ranks.device, dtype=widest_dtype(ranks.device))).tolist()
        self._values = [None if math.isnan(value) else value for value in every]

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"values": self._values, "epoch": self.epoch}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Continue from the checkpoint's average, if training resumes from a checkpoint."""
        saved = state.stateful_callbacks.get(type(self).__name__)
        attributes = saved["attributes"] if saved else {"values": [], "epoch": 0}
        self.epoch, values = attributes["epoch"], attributes["values"]
        self.value = values[args.process_index] if values else None

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        epoch = epoch_of(state)
        if epoch != self.epoch:
            self.value, self.epoch = None, epoch


class Objective:
    """The loss of micro-batches under a `DivergenceConfig`: the one place where its parts are put together."""

    def __init__(self, args: DivergenceConfig) -> None:
        self.method = find_method(args.method)
        own = self.method.likelihood
        self.likelihood = Likelihood(args.sft_weight + own.aligned, own.unaligned)
        self.weights: dict[str, float] = {}
        if not self.method.paired:
            names = ("desirable_weight", "undesirable_weight")
            self.weights = {name: getattr(args, name) for name in names}
        self.released = PAPER_CODE[args.method] if args.variant == "paper_code" else None
        self.average = ReleasedAverage()

    @property
    def needs_step_baseline(self) -> bool:
        """Whether a micro-batch's loss depends on the other rows of the optimizer step."""
        return self.method.has_baseline and self.released is None

    def loss(
        self, ratios: LogRatios, log_probs: Float[Tensor, " b"], step: Step, baseline: RowBaselines | None = None
    ) -> Float[Tensor, ""]:
        """Return a micro-batch's loss in nats, from its r and its responses' log-probabilities, aligned rows first.

        `baseline` is one of each row, in place of the step's.
        """
        aligned, unaligned = log_probs.chunk(2)
        loss = self._divergence(ratios, step, baseline) * step.weight(len(aligned))
        if self.likelihood.aligned:
            loss = loss + self.anchor(aligned, step)
        if self.likelihood.unaligned:
            loss = loss - self.likelihood.unaligned * unaligned.sum() / step.mean_unaligned_tokens
        return loss

    def anchor(self, aligned: Float[Tensor, " a"], step: Step) -> Float[Tensor, ""]:
        """Return the micro-batch's share of the weighted negative log-likelihood per token."""
        return -self.likelihood.aligned * aligned.sum() / step.mean_tokens

    def _divergence(self, ratios: LogRatios, step: Step, baseline: RowBaselines | None) -> Tensor:
        if self.released is None:
            return self.method.loss(ratios, step.baseline if baseline is None else baseline, **self.weights)
        average = None if self.average.value is None else ratios.aligned.new_tensor(self.average.value)
        loss, average = self.released(ratios, average)
        self.average.value = float(average)
        return loss
