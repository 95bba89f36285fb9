"""How far rows of the wrong sign, which a sample happens to lack, would move the bound of a divergence.

n rows without one of the wrong sign leave room for a share of 3.7 / n of them (Clopper and Pearson at 95 %), and each
may cost the whole height of the bound; no interval that holds for every distribution is shorter than that. How likely
such rows are is what the critic itself says: r is a log-odds, so a row with critic value r has the wrong sign with
probability sigmoid(-|r|). An interval therefore allows for that probability at each row, at least for a tenth of what n
rows leave open, and for all of it where the rows of a class do not vary: nothing but their number then speaks. A critic
that is surer of rows than that, and wrong, is not covered until a sample shows it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from divalign.core.divergences import Divergence

_CONSTANT = 1e-9  # relative to the upper bound: values nearer to each other than this are one value
_LEAST = 0.1


class Reach(NamedTuple):
    """How far the bound falls, or rises, with as many rows of the other sign as the sample leaves room for."""

    fall: float
    rise: float


class _Loss(NamedTuple):
    """What one class's rows would lose on average, and whether they are all one value."""

    mean: float
    constant: bool


def unseen_share(tail: float, units: int) -> float:
    """The largest share of prompts that n draws all miss with probability `tail`: 3.7 / n at .025 (rule of three)."""
    return 1 - tail ** (1 / units)


def reach(
    divergence: Divergence,
    aligned: Float[Tensor, " a"],
    unaligned: Float[Tensor, " u"],
    share: float,
    *,
    together: bool,
) -> Reach:
    """Return how far the bound moves where up to `share` of a class have the wrong sign, in nats.

    The worse class counts; both do where the rows of a prompt are drawn `together` and a class does not vary.
    """
    losses = (
        _loss(divergence, divergence.score(aligned), divergence.score(-aligned), aligned, share),
        _loss(divergence, -divergence.penalty(unaligned), -divergence.penalty(-unaligned), unaligned, share),
    )
    join = sum if together and any(loss.constant for loss in losses) else max
    return Reach(*(join(max(sign * loss.mean, 0.0) for loss in losses) for sign in (1, -1)))


def _loss(
    divergence: Divergence,
    gain: Float[Tensor, " n"],
    turned: Float[Tensor, " n"],
    critic: Float[Tensor, " n"],
    share: float,
) -> _Loss:
    """What the rows would lose with -r for r, each by its probability; what is merely possible costs one bound."""
    upper = divergence.upper
    assert upper is not None
    cost = gain - turned
    possible = share * cost.clamp(-upper, upper)
    if float(gain.max() - gain.min()) <= _CONSTANT * upper:
        return _Loss(float(possible.mean()), constant=True)
    likely = torch.sigmoid(-critic.abs()).clamp(max=share) * cost
    least = _LEAST * possible
    return _Loss(float(torch.where(likely.abs() > least.abs(), likely, least).mean()), constant=False)
