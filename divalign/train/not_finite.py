"""Stop before a loss or a gradient that is not finite reaches the weights, and name the rows behind it.

One NaN in a gradient makes every weight NaN, since gradients are clipped by their common norm; a training that goes on
then spends its hours on nothing and, at the next checkpoint, overwrites the last good one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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


def check_finite(value: Tensor, name: str, parts: Sequence[tuple[LogRatios, dict[str, Any]]], *, update: int) -> None:
    """Raise NotFiniteError where a loss or a baseline is not finite, with the rows whose r is not.

    `parts` are the micro-batches that it is made from: r, and the batch with its rows' `numbers`.
    """
    if torch.isfinite(value):
        return
    sizes = [float(r.abs().max()) for ratios, _ in parts for r in ratios[:2] if len(r)]
    bad = [_not_finite(side, parts) for side in (0, 1)]
    total, count = sum(len(r) for ratios, _ in parts for r in ratios[:2]), sum(map(len, bad))
    if count and count == total:
        cause = f"so is r of all its {total} rows: the weights have diverged"
    elif count:
        sides = [f"{side} {_listed(rows)}" for side, rows in zip(("aligned", "unaligned"), bad, strict=True) if rows]
        cause = f"r = beta log(pi / pi_ref) is not finite for the rows {' and '.join(sides)} (numbered from 0)"
    else:
        cause = (
            f"r of this process's rows is finite, at most {max(sizes, default=0):.3g} nats in size, and overflows there"
        )
    raise NotFiniteError(f"update {update}: the {name} is {float(value)}; {cause}; {REMEDY}")


def _not_finite(side: int, parts: Sequence[tuple[LogRatios, dict[str, Any]]]) -> list[int]:
    numbers = []
    for ratios, inputs in parts:
        r = ratios[side]
        assert r is not None
        numbers += inputs["numbers"].chunk(2)[side][: len(r)].to(r.device)[~torch.isfinite(r)].tolist()
    return numbers


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
