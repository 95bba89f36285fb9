"""Stop before a loss or a gradient that is not finite reaches the weights, and name the rows behind it.

One NaN in a gradient makes every weight NaN, since gradients are clipped by their common norm; a training that goes on
then spends its hours on nothing and, at the next checkpoint, overwrites the last good one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from divalign.core.losses import LogRatios

NAMED = 5  # rows in a message
REMEDY = (
    "mend or leave out the rows named, or start again with a lower learning rate or a larger beta; checkpoints of "
    "earlier updates are kept"
)


class NotFiniteError(FloatingPointError):
    """Training met a number that is not finite; the weights and the checkpoints are as they were before it."""


def check_loss(loss: Tensor, ratios: LogRatios, inputs: dict[str, Any], *, update: int) -> None:
    """Raise NotFiniteError where a micro-batch's loss is not finite, with the rows whose r is not."""
    if torch.isfinite(loss):
        return
    numbers = inputs["numbers"].chunk(2)
    sides = [
        f"{name} {_listed(number[: len(r)][~torch.isfinite(r)].tolist())}"
        for name, r, number in zip(("aligned", "unaligned"), ratios[:2], numbers, strict=True)
        if not torch.isfinite(r).all()
    ]
    total = 2 * inputs["couples"]
    bad = sum(int((~torch.isfinite(r)).sum()) for r in ratios[:2])
    if bad == total:
        cause = f"so is r of all {total} rows of the batch: the weights have diverged"
    elif bad:
        cause = f"r = beta log(pi / pi_ref) is not finite for the rows {' and '.join(sides)} (numbered from 0)"
    else:
        largest = max(float(r.abs().max()) for r in ratios[:2])
        cause = f"r of all rows is finite, at most {largest:.3g} nats in size, and the method overflows there"
    raise NotFiniteError(f"update {update}: the loss is {float(loss)}; {cause}; {REMEDY}")


def check_gradients(parameters: Iterable[nn.Parameter], *, update: int) -> None:
    """Raise NotFiniteError where an element of a gradient is not finite. A large norm alone is clipped, and harmless.

    One pass over this process's gradients and one number read from the device.
    """
    gradients = [_local(parameter.grad) for parameter in parameters if parameter.grad is not None]
    gradients = [gradient for gradient in gradients if gradient.numel()]  # a process may hold no row of a small matrix
    if gradients and not torch.isfinite(nn.utils.get_total_norm(gradients, norm_type=math.inf)):
        raise NotFiniteError(f"update {update}: the loss is finite and its gradient is not; {REMEDY}")


def _local(gradient: Any) -> Tensor:
    return gradient.to_local() if hasattr(gradient, "to_local") else gradient


def _listed(numbers: list[int]) -> str:
    rest = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return ", ".join(map(str, numbers[:NAMED])) + rest
