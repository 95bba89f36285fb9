"""Losses of pairs: functions of the margin m = r(aligned) - r(unaligned) of two responses to one prompt, in nats.

A margin does not see what is added to r at a prompt, so a normalised policy reaches what a free critic reaches. Where a
source states its loss in log-ratios without beta, the form here is the one in which beta lives inside r, and the
docstring says what separates the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn.functional import logsigmoid, relu

from divalign.core.divergences import Divergence, alpha, hellinger, js, lecam, tv
from divalign.core.method import Method
from divalign.core.names import in_full
from divalign.core.optimum import Optimum, noisy_pairs, swapped_pairs


def dpo(label_smoothing: float | int = 0.0) -> Method:
    """Return DPO, -log sigmoid(margin), or its conservative form when labels are wrong with that probability.

    log 2 minus the loss bounds JS(P x Q, Q x P), a pair against the same pair swapped, and reaches it at
    r = log dP/dQ + c(x). Raises ValueError unless 0 <= label_smoothing < 1/2.
    Source: Rafailov et al. 2023, eq. 7; smoothing: Mitchell 2023, "A note on DPO with noisy preferences".
    """
    _check_noise("label_smoothing", label_smoothing)
    return Method(
        name=f"dpo({in_full(label_smoothing)})" if label_smoothing else "dpo",
        estimates="JS(P x Q, Q x P) given the prompt" + (", labels flipped so often" if label_smoothing else ""),
        source="Rafailov et al. 2023, eq. 7",
        aligned_loss=lambda m: -(1 - label_smoothing) * logsigmoid(m) - label_smoothing * logsigmoid(-m),
        unaligned_loss=None,
        optimum=Optimum(
            divergence=js,
            compared=noisy_pairs(label_smoothing),
            factor=0.5,
            reached=not label_smoothing,  # the best critic of a pair with noisy labels is no difference of two rewards
            statement="" if label_smoothing else "ln 2 - min DPO = JS(P x Q, Q x P)",
        ),
    )


def ipo(target: float | int = 0.5) -> Method:
    """Return IPO, (margin - target)^2.

    The published loss is (margin / beta - 1 / (2 beta))^2 in log-ratios without beta: beta^2 times it is this one with
    target 1/2, for every beta. Whole responses, where TRL divides by length. 1/4 minus the loss bounds an eighth of
    the triangular discrimination of (P x Q, Q x P), and reaches it only if that critic is a difference.
    Raises ValueError unless 0 < target < infinity.
    Source: Azar et al. 2023, eq. 17.
    """
    if not 0 < target < math.inf:  # NaN fails here too
        raise ValueError(f"target is {target}; expected a finite margin above 0, such as 0.5")
    return Method(
        name="ipo" if target == 0.5 else f"ipo({in_full(target)})",
        estimates="triangular discrimination of (P x Q, Q x P) given the prompt, times target^2 / 2",
        source="Azar et al. 2023, eq. 17",
        aligned_loss=lambda margin: (margin - target).square(),
        unaligned_loss=None,
        optimum=Optimum(
            divergence=lecam,
            compared=swapped_pairs,
            factor=target**2 / 2,
            reached=False,
            statement="1/4 - min IPO <= LeCam(P x Q, Q x P) / 8" if target == 0.5 else "",
        ),
    )


def bregman_pairs(divergence: Divergence) -> Method:
    """Return penalty(-margin) - score(margin): a divergence's loss of pairs against the same pairs swapped.

    A swapped pair has minus the margin and its density is that of Q x P, so both classes of the pointwise loss are at
    hand in every pair, and log (P x Q)/(Q x P) is the margin of log dP/dQ: the loss at r = 0 minus the loss bounds
    D(P x Q, Q x P) and reaches it for every divergence. In the notation of the source, with R = e^-margin and h for
    the generator, it is h'(R) R - h(R) - h'(1/R). `bpo:js` is twice dpo, `bpo:hellinger` twice exponential_pair.
    Source: Bregman preference optimisation, arXiv 2505.19601, table 2; the identification with swapped pairs is ours.
    """
    return Method(
        name=f"bpo:{divergence.name}",
        estimates=f"{divergence.value}, with P x Q for P and Q x P for Q, given the prompt",
        source="BPO, arXiv 2505.19601, table 2",
        aligned_loss=lambda margin: divergence.penalty(-margin) - divergence.score(margin),
        unaligned_loss=None,
        optimum=Optimum(divergence=divergence, compared=swapped_pairs),
    )


def bpo(scaling: float | int = 0.2) -> Method:
    """Return BPO with the scaled Basu generator: a quarter of `bpo:alpha(1 + scaling)`.

    (s R^(1 + s) - (1 + s) R^-s + 1) / (4 s (1 + s)) with R = e^-margin and s for `scaling`; the 4 gives it dpo's slope
    at margin 0. It weighs pairs that the policy gets wrong more than dpo does, the more the larger s; s = -1/2 is
    exponential_pair. Raises ValueError as `alpha` does.
    Source: arXiv 2505.19601, SBA; formula and defaults from a third party's port of BSO, arXiv 2605.12339.
    """
    divergence = alpha(1 + scaling)
    whole = bregman_pairs(divergence)
    return replace(
        whole,
        name="bpo" if scaling == 0.2 else f"bpo({in_full(scaling)})",
        estimates=f"a quarter of the Cressie-Read divergence of order {1 + scaling:g} of (P x Q, Q x P)",
        source="BPO, arXiv 2505.19601, SBA; formula from a third party's port",
        aligned_loss=lambda margin: whole.aligned_loss(margin) / 4,
        optimum=Optimum(divergence=divergence, compared=swapped_pairs, factor=0.25),
    )


def robust(noise: float | int = 0.1) -> Method:
    """Return robust DPO: ((1 - noise) dpo(margin) - noise dpo(-margin)) / (1 - 2 noise).

    Over labels that are flipped with probability `noise` its mean is dpo's loss of the clean pairs, in value and in
    gradient. Pairs with less noise have no least loss: it falls without end as their margin grows.
    Raises ValueError unless 0 <= noise < 1/2.
    Source: Chowdhury, Kini, Natarajan 2024, arXiv 2403.00409 (recalled); equal to TRL's loss_type "robust".
    """
    _check_noise("noise", noise)
    return Method(
        name=f"robust({in_full(noise)})",
        estimates="JS(P x Q, Q x P) of the clean pairs, where labels are flipped so often",
        source="Chowdhury et al. 2024, arXiv 2403.00409 (recalled); TRL's robust",
        aligned_loss=lambda m: (noise * logsigmoid(-m) - (1 - noise) * logsigmoid(m)) / (1 - 2 * noise),
        unaligned_loss=None,
    )


def exo(noise: float | int = 1e-3) -> Method:
    """Return EXO of a pair: KL((s, 1 - s), (1 - noise, noise)) with s = sigmoid(margin).

    The reverse KL: it stops at s = 1 - noise, where the loss is 0, and seeks one mode. Its best margin is bounded, as
    ipo's: log((1 - noise) / noise) (p - q) / (p + q), p and q the densities of the pair and of the pair swapped.
    Raises ValueError unless 0 < noise < 1/2.
    Source: Ji et al. 2024, arXiv 2402.00856, eq. 16 (recalled); equal to TRL's loss_type "exo_pair".
    """
    _check_noise("noise", noise, above=True)
    likely, unlikely = math.log1p(-noise), math.log(noise)

    def loss(margin: torch.Tensor) -> torch.Tensor:
        won, lost = logsigmoid(margin), logsigmoid(-margin)
        return won.exp() * (won - likely) + lost.exp() * (lost - unlikely)

    return Method(
        name=f"exo({in_full(noise)})",
        estimates="log cosh(log((1 - noise) / noise) (p - q) / (2 (p + q))), p and q of the pair and the pair swapped",
        source="Ji et al. 2024, arXiv 2402.00856, eq. 16 (recalled); TRL's exo_pair",
        aligned_loss=loss,
        unaligned_loss=None,
    )


def cal_dpo(target: float | int = 0.5) -> Method:
    """Return Cal-DPO: -log sigmoid(margin) + ((r(aligned) - target)^2 + (r(unaligned) + target)^2) / 2.

    The squares tie r to a scale, which a function of the margin leaves open: the best rewards of a clear pair are
    +-m/2 with m/2 = target + sigmoid(-m). The published loss is in log-ratios without beta, with the target
    1 / (2 beta); here that is beta = 1 and cal_dpo(1 / (2 beta)). With beta inside r the squares are the published
    ones times beta^2. Raises ValueError unless 0 <= target < infinity.
    Source: Xiao et al. 2024, arXiv 2412.14516.
    """
    if not 0 <= target < math.inf:
        raise ValueError(f"target is {target}; expected a finite reward of at least 0, such as 0.5")
    return replace(
        dpo(),
        name="cal_dpo" if target == 0.5 else f"cal_dpo({in_full(target)})",
        estimates="no divergence: the squares hold r near +- target",
        source="Xiao et al. 2024, arXiv 2412.14516; beta inside r",
        pair_term=lambda aligned, unaligned: ((aligned - target).square() + (unaligned + target).square()) / 2,
        optimum=None,
    )


def safedpo(offset: float | int = 10.0) -> Method:
    """Return SafeDPO: dpo on pairs sorted by safety, whose margin counts `offset` less where one response is unsafe.

    The rows say which responses are safe (`chosen_safe`, `rejected_safe`). A pair is kept if the chosen one is safe,
    swapped if the rejected one alone is, left out if none is; then the loss is
    -log sigmoid(margin - offset [rejected unsafe]). `offset` is in nats of r.
    Raises ValueError unless 0 <= offset < infinity.
    Source: arXiv 2505.20065, with their offset 10 (Delta) at beta 0.1; read in a third party's port.
    """
    if not 0 <= offset < math.inf:
        raise ValueError(f"offset is {offset}; expected finite nats of at least 0, such as 10")
    return replace(
        dpo(),
        name="safedpo" if offset == 10 else f"safedpo({in_full(offset)})",
        estimates="JS(P x Q, Q x P) of the pairs sorted by safety, at an offset of 0",
        source="SafeDPO, arXiv 2505.20065; read in a third party's port",
        safety_offset=offset,
        optimum=None,
    )


def _check_noise(name: str, noise: float | int, *, above: bool = False) -> None:
    if not 0 <= noise < 0.5 or (above and not noise):
        raise ValueError(f"{name} is {noise}; expected {'above 0' if above else 'at least 0'} and below 1/2")


hinge = Method(
    name="hinge",
    estimates="total variation of (P x Q, Q x P) given the prompt",
    source="SLiC-HF, Zhao et al. 2023, arXiv 2305.10425, as TRL's hinge: without its likelihood term",
    aligned_loss=lambda margin: relu(1 - margin),
    unaligned_loss=None,
    # The best margins are +-1 for all pairs of a prompt, which are no differences of one reward a response.
    optimum=Optimum(
        divergence=tv,
        compared=swapped_pairs,
        reached=False,
        statement="1 - min hinge <= TV(P x Q, Q x P)",
        lines=((0, 0), (-1, 1)),
    ),
)

exponential_pair = Method(
    name="exponential_pair",
    estimates="half the squared Hellinger distance of (P x Q, Q x P) given the prompt",
    source="the exponential loss on pairs: Reid, Williamson 2011",
    aligned_loss=lambda margin: 1 - hellinger.score(margin),
    unaligned_loss=None,
    optimum=Optimum(
        divergence=hellinger,
        compared=swapped_pairs,
        factor=0.5,
        statement="1 - min E e^(-margin/2) = squared Hellinger(P x Q, Q x P) / 2",
    ),
)

PAIRS: tuple[Method, ...] = (
    dpo(), ipo(), hinge, exponential_pair, bpo(), replace(robust(), name="robust"), replace(exo(), name="exo"),
    cal_dpo(), safedpo(),
)  # fmt: skip
PAIR_FAMILIES: dict[str, Callable[[float], Method]] = {
    "dpo": dpo, "ipo": ipo, "bpo": bpo, "robust": robust, "exo": exo, "cal_dpo": cal_dpo, "safedpo": safedpo
}  # fmt: skip
