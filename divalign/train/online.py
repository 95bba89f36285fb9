"""KLDO's update without a look at the whole step first: past gradients are rescaled when the normaliser grows.

The gradient is -mean grad r over aligned rows + sum e^r grad r / sum e^r over unaligned rows (THEORY.md,
"Log-mean-exp, exactly"). The second sum is known only at the end of a step, so its gradients are kept apart, relative
to the largest r so far, and joined to the first at the end. This saves the forward that `exact` pays, and costs a
second copy of the gradients and the sharing of prompts, because the two classes run apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class OnlineNormaliser:
    """The unaligned half of one optimizer step, taken in a micro-batch at a time."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._reset()

    def _reset(self) -> None:
        self._unaligned_gradients: list[Tensor | None] = [None] * len(self.parameters)
        self._top, self._total, self._rows = -math.inf, 0.0, 0

    def add(self, r: Tensor, backward: Callable[[Tensor], None]) -> None:
        """Take in the unaligned r of a micro-batch, whose graph `backward` goes through."""
        top = max(self._top, float(r.detach().max()))
        fading, weights = math.exp(self._top - top), (r.detach() - top).exp()
        aside = [parameter.grad for parameter in self.parameters]
        for parameter, gradient in zip(self.parameters, self._unaligned_gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.mul_(fading)
        backward((weights * r).sum())
        self._unaligned_gradients = [parameter.grad for parameter in self.parameters]
        for parameter, gradient in zip(self.parameters, aside, strict=True):
            parameter.grad = gradient
        self._top, self._total = top, self._total * fading + float(weights.sum())
        self._rows += len(r)

    @torch.no_grad()
    def finish(self, weight: float) -> float:
        """Join the gradients to the parameters', `weight` times, and return the step's log-mean-exp in nats."""
        for parameter, gradient in zip(self.parameters, self._unaligned_gradients, strict=True):
            if gradient is not None:
                gradient.mul_(weight / self._total)
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        log_mean = self._top + math.log(self._total / self._rows)
        self._reset()
        return log_mean


def halves(inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a plain layout, aligned rows above unaligned rows, into one of each class."""
    rows = len(inputs["input_ids"]) // 2
    tokens = rows * inputs["input_ids"].shape[1]
    parts = []
    for upper in (True, False):
        place = slice(None, rows) if upper else slice(rows, None)
        mine = (inputs["sources"] < tokens) == upper
        part = {name: inputs[name][place] for name in ("input_ids", "attention_mask", "reference")}
        part["sources"] = inputs["sources"][mine] - (0 if upper else tokens)
        part["owners"] = inputs["owners"][mine] - (0 if upper else rows)
        parts.append({**part, "targets": inputs["targets"][mine], "responses": rows})
    return parts[0], parts[1]
