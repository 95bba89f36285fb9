"""What a method's least loss reaches: a divergence between two distributions that the aligned and unaligned ones make.

P and Q are the aligned and the unaligned distribution of responses given the prompt, one row of probabilities a prompt.
The loss at r = 0 minus the least loss of a free critic is `factor` times a divergence of two distributions made from
them: P and Q themselves, a pair of responses against the same pair swapped, or P against a mixture of both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from divalign.core.divergences import Divergence

Distribution = Float[Tensor, "*x _"]
Compared = Callable[[Distribution, Distribution], tuple[Distribution, Distribution]]


def classes(p: Distribution, q: Distribution) -> tuple[Distribution, Distribution]:
    """P and Q themselves."""
    return p, q


def swapped_pairs(p: Distribution, q: Distribution) -> tuple[Distribution, Distribution]:
    """P x Q and Q x P given the prompt: the distribution of a pair, and of the same pair with its places swapped."""
    product = p[..., :, None] * q[..., None, :]
    return product.flatten(-2), product.mT.flatten(-2)


def noisy_pairs(noise: float | int) -> Compared:
    """Return the same for pairs whose labels are flipped with probability `noise`."""

    def compared(p: Distribution, q: Distribution) -> tuple[Distribution, Distribution]:
        pair, swapped = swapped_pairs(p, q)
        return (1 - noise) * pair + noise * swapped, (1 - noise) * swapped + noise * pair

    return compared if noise else swapped_pairs


def against_mixture(share: float | int) -> Compared:
    """Return P against the mixture share P + (1 - share) Q."""
    return lambda p, q: (p, share * p + (1 - share) * q)


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """What the loss at r = 0 minus the least loss is, on distributions that can be enumerated.

    `reached` is False where it is only an upper bound: the best critic is then none that the method can represent.
    `statement` is the identity in the published loss's own constants; empty for the generic one.
    `lines`, of a loss of margins that is piecewise linear, are the (slope, intercept) of those that it is the maximum
    of: no Newton step finds its least value, a linear program does. Empty for a smooth loss.
    `critic_baseline` and `policy_baseline` name the baseline under which the identity is examined, for a free critic
    and for a normalised policy: none, the method's own, the best constant, or the best function of the prompt.
    """

    divergence: Divergence
    compared: Compared = classes
    factor: float | int = 1
    reached: bool = True
    statement: str = ""
    lines: tuple[tuple[float | int, float | int], ...] = ()
    critic_baseline: Literal["zero", "own"] = "zero"
    policy_baseline: Literal["zero", "own", "constant", "prompt"] = "zero"

    @property
    def attained(self) -> bool:
        """Whether some finite critic has the least loss; where not, it is approached as |r| grows."""
        return self.divergence.canonical

    def value(self, p: Distribution, q: Distribution) -> Float[Tensor, "*x"]:
        """Return the divergence that the least loss is tied to, prompt by prompt, in nats."""
        return self.factor * self.divergence.exact(*self.compared(p, q))
