"""The prompts of an optimizer step as two clouds of hidden states, for methods with a loss of such states.

All prompts of a step form the clouds, over all micro-batches and ranks: the one prompt of a pair, and that of each
unpaired row. The distance of two clouds is no mean over micro-batches, so a step of several is looked at first without
gradients: the loss's gradient G by every state is computed there, and micro-batch k then contributes the sum over its
prompts of G h, whose gradients add up to that of the whole step. The value that is logged is the step's own.
Source of the two passes: GradCache, Gao et al. 2021, arXiv 2101.06983.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from divalign.core.cloud_distance import FEWEST, Pull, StatesLoss
from divalign.core.losses import LogRatios
from divalign.train.couples import Couples
from divalign.train.ranks import Ranks

COLUMNS = ("harmful", "prompts")  # of a batch, not for the model


def check_prompts(couples: Couples, method: str, couples_per_update: int) -> None:
    """Raise ValueError for rows that do not tell the class of their prompts, and for updates of too few prompts."""
    rows = [*couples.aligned, *couples.unaligned]
    unknown = sum(row.harmful is None for row in rows)
    if unknown:
        raise ValueError(
            f"{method} compares the hidden states of harmful and benign prompts, and {unknown} of {len(rows)} "
            "responses lack the column 'harmful' (true or false, is the prompt a harmful request); add it"
        )
    for harmful, name in ((True, "harmful"), (False, "benign")):
        count = len({tuple(row.row.prompt_ids) for row in rows if row.harmful is harmful})
        if count < FEWEST:
            raise ValueError(f"{method} needs prompts of both classes; got {count} {name} ones, expected {FEWEST}")
    prompts = couples_per_update * (1 if couples.paired else 2)
    if prompts < 2 * FEWEST:
        raise ValueError(
            f"{method} compares the prompts of an update, and {prompts} are too few for {FEWEST} of each class; raise "
            "per_device_train_batch_size or gradient_accumulation_steps (train.pairs_per_update)"
        )


class PromptClouds:
    """The loss of one optimizer step's prompts, handed out micro-batch by micro-batch, and its log."""

    def __init__(self, states_loss: StatesLoss) -> None:
        self.states_loss = states_loss
        self._ahead: list[tuple[Pull | None, float]] = []
        self._distances: list[float] = []
        self._skipped = 0

    def look_ahead(self, parts: Sequence[tuple[Tensor, Tensor]], ranks: Ranks) -> None:
        """Take in the states and classes of each of a step's micro-batches, before the first one's loss."""
        states, harmful = (torch.cat(column) for column in zip(*parts, strict=True))
        own = torch.full((len(states),), ranks.rank, device=states.device)
        every, classes, owners = (ranks.gather(column) for column in (states, harmful.long(), own))
        pull, scale = self._pull(every, classes.bool()), float(len(parts) * ranks.world_size)
        if pull is None:
            self._ahead = [(None, scale)] * len(parts)
            return
        slices = pull.gradient[owners == ranks.rank].split([len(part) for part, _ in parts])
        self._ahead = [(pull._replace(gradient=part), scale) for part in slices]

    def loss(self, states: Float[Tensor, "p d"], inputs: dict[str, Any]) -> Tensor | float:
        """Return a micro-batch's share of the step's loss; 0 where the step lacks prompts of a class."""
        if self._ahead:
            pull, scale = self._ahead.pop(0)
        else:
            pull, scale = self._pull(states.detach(), inputs["harmful"][inputs["prompts"]]), 1.0
        if pull is None:
            return 0.0
        return pull.loss + scale * (pull.gradient * (states - states.detach())).sum()

    def anchored(self, ratios: LogRatios, inputs: dict[str, Any]) -> LogRatios:
        """Return the rows' r as the method's loss of r reads them: that of harmful prompts weighted."""
        weights = torch.where(inputs["harmful"], self.states_loss.harmful_weight, 1.0).to(ratios.aligned)
        return LogRatios(*(r * weight for r, weight in zip(ratios[:2], weights.chunk(2), strict=True)))

    def metrics(self) -> dict[str, float]:
        """Return the mean distance over the steps since the last call, and how many had too few prompts of a class."""
        distances, skipped = self._distances, self._skipped
        self._distances, self._skipped = [], 0
        mean = {"separation/bhattacharyya": sum(distances) / len(distances)} if distances else {}
        return {**mean, **({"separation/skipped": float(skipped)} if skipped else {})}

    def unlogged(self) -> list[Any]:
        """Return what the next `metrics` will say, as plain data."""
        return [list(map(float, self._distances)), self._skipped]

    def resume(self, content: Sequence[Any]) -> None:
        """Go on from what `unlogged` gave."""
        self._distances, self._skipped = list(content[0]), int(content[1])

    def _pull(self, states: Tensor, harmful: Tensor) -> Pull | None:
        pull = self.states_loss.pull(states, harmful)
        if pull is None:
            self._skipped += 1
        else:
            self._distances.append(pull.distance)
        return pull
