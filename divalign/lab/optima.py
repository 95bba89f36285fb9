"""Which policy is best under each loss: whether it is the reference, tilted by a non-decreasing function of R."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from divalign.core.divergences import DIVERGENCES
from divalign.core.losses import METHODS, Method
from divalign.draw.chart import Chart
from divalign.lab.findings import TOLERANCE, Claim, LabSection, compare
from divalign.lab.identities import (
    UNIT_NORMALISER,
    Methods,
    Minima,
    Minimum,
    denominator,
    minimise,
    normaliser_one,
    optimum_of,
    policies,
    policy_setting,
    with_claim,
)
from divalign.lab.worlds import Distributions, Worlds

_ROUNDS = 15
Entries = dict[str, tuple[Method, Minimum]]


def alignment_consistency(
    worlds: Worlds, beta: float, plain: Minima, learned: Minima, methods: Methods = METHODS
) -> LabSection:
    """The paper's alignment consistency: the best policy is pi_ref h(R) / Z(x), for one non-decreasing h."""
    methods = with_claim(methods)
    attained = {
        f"{name} + prompt baseline": (method, learned[name])
        for name, method in methods.items()
        if not method.paired and optimum_of(method).attained
    }
    alone = {name: (method, plain[name]) for name, method in methods.items()}
    return LabSection(
        "alignment-consistency",
        "Alignment consistency needs more than a good loss",
        "Is the best policy pi_ref h(R) / Z(x), with h non-decreasing and one for all prompts? Three answers, from "
        "weak to strong. Order: reached is the worst inversion, how far (nats of r) a response lies below one of the "
        "same prompt with less R. Some h: r against the best c(x) + g(R), by isotonic regression in turn with the "
        "constants; reached is the worst distance left, in nats. h = R^(1/beta): total variation from that policy. "
        "dpo, exponential_pair, bpo and all losses with a prompt baseline pass; without it the normaliser pulls "
        "according to the reference, not on R alone, and responses of one prompt even change places. ipo and hinge "
        "keep the order with no common h; of the many policies of least hinge loss one is judged. kto and fdo:tv with "
        "a prompt baseline have a limit and no best policy. (For nca, rdro: R is dP/dM.)",
        (
            *_judged("order: r ranks by R", _inversion, alone, worlds, beta),
            *_judged("some h: pi_ref h(R) / Z", _from_any_tilt, alone | attained, worlds, beta),
            *_judged("h = R^(1/beta)", _from_power, alone | attained, worlds, beta),
        ),
        _chart(worlds, plain, learned),
    )


Distance = Callable[[Distributions, Distributions, Worlds, float], Float[Tensor, " w"]]


def _judged(statement: str, distance: Distance, entries: Entries, worlds: Worlds, beta: float) -> list[Claim]:
    """Every entry's distance from the statement, and whether a normaliser of 1 saves it."""
    claims = []
    for label, (method, minimum) in entries.items():
        apart = distance(minimum.solution.log_ratio, _log_ratio(method, worlds), worlds, beta)
        saved = {UNIT_NORMALISER: partial(_distance_at_normaliser_one, method, distance)}
        claims.append(compare(label, statement, torch.zeros_like(apart), apart, conditions=saved))
    return claims


def _distance_at_normaliser_one(method: Method, distance: Distance) -> float:
    worlds = normaliser_one(method)
    critic = minimise(worlds, method, policy_setting(method, 1.0)).solution.log_ratio
    return float(distance(critic, _log_ratio(method, worlds), worlds, 1.0).max())


def _inversion(critic: Distributions, log_ratio: Distributions, worlds: Worlds, beta: float) -> Float[Tensor, " w"]:
    """How far, at worst, a response lies below another of its prompt that has less R."""
    above = log_ratio[..., :, None] > log_ratio[..., None, :] + 1e-9
    return torch.where(above, critic[..., None, :] - critic[..., :, None], 0.0).flatten(1).amax(1).clamp(min=0)


def _from_power(critic: Distributions, log_ratio: Distributions, worlds: Worlds, beta: float) -> Float[Tensor, " w"]:
    """Total variation between the policy and pi_ref R^(1/beta) / Z."""
    best = (worlds.reference.log() + log_ratio / beta).softmax(-1)
    return DIVERGENCES["tv"].exact(policies(critic, worlds, beta), best).mean(-1)


def _from_any_tilt(critic: Distributions, log_ratio: Distributions, worlds: Worlds, beta: float) -> Float[Tensor, " w"]:
    pairs = zip(critic.numpy(), log_ratio.numpy(), strict=True)
    return torch.tensor([_isotonic_distance(r, ratio) for r, ratio in pairs], dtype=torch.float64)


def _log_ratio(method: Method, worlds: Worlds) -> Distributions:
    return (worlds.aligned / denominator(method, worlds)).log()


def _isotonic_distance(critic: np.ndarray, log_ratio: np.ndarray) -> float:
    """Worst cell's distance between r and c(x) + g(R), after fitting g and c in turn; the least over the rounds."""
    constant = (critic - log_ratio).mean(1, keepdims=True)
    least = np.inf
    for _ in range(_ROUNDS):
        fit = IsotonicRegression().fit_transform(log_ratio.ravel(), (critic - constant).ravel()).reshape(critic.shape)
        least = min(least, float(np.abs(critic - constant - fit).max()))
        if least < TOLERANCE / 10:
            break
        constant = (critic - fit).mean(1, keepdims=True)
    return least


def _chart(worlds: Worlds, plain: Minima, learned: Minima) -> Chart:
    ratio = (worlds.aligned / worlds.unaligned).log()[0].flatten().tolist()
    with_baseline = learned["hdo"].solution
    return Chart(
        "log R of one world's responses",
        "r at the optimum, nats",
        {
            "kldo": (ratio, plain["kldo"].solution.log_ratio[0].flatten().tolist()),
            "hdo": (ratio, plain["hdo"].solution.log_ratio[0].flatten().tolist()),
            "hdo, r - prompt baseline": (
                ratio,
                (with_baseline.log_ratio - with_baseline.baseline[..., None])[0].flatten().tolist(),
            ),
        },
        diagonal=True,
    )
