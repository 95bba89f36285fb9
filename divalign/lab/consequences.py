"""What follows from the identities, and where it stops: sensitivity, separation, baselines."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from divalign.core.divergences import DIVERGENCES
from divalign.core.losses import METHODS
from divalign.core.optimum import swapped_pairs
from divalign.draw.chart import Chart
from divalign.lab.findings import Claim, LabSection, compare
from divalign.lab.identities import minimise, policies, policy_setting
from divalign.lab.solve import Setting
from divalign.lab.worlds import Distributions, Worlds, draw_worlds

_NOISE = (0.125, 0.25, 0.375)
_TRAINED_ROWS = 64  # confusing multiples of 1/16 by a quarter gives multiples of 1/64


def mean_reward(worlds: Worlds) -> LabSection:
    """BCO's own baseline, the mean reward, is not a free constant."""
    own_baseline = Setting("free", "own")
    minimum = minimise(worlds, METHODS["bco"], own_baseline)
    mirrored = draw_worlds(3, seed=1)
    mirrored = mirrored._replace(unaligned=mirrored.aligned.flip(-1))
    at_symmetry = minimise(mirrored, METHODS["bco"], own_baseline)
    lopsided = (_kl(worlds.aligned, worlds.unaligned) - _kl(worlds.unaligned, worlds.aligned)).abs()
    claim = compare(
        "bco, mean reward",
        "ln 4 - min BCO = 2 JS(P, Q)",
        minimum.target,
        minimum.reached,
        conditions={"KL(P, Q) = KL(Q, P)": lambda: float((at_symmetry.target - at_symmetry.reached).abs().max())},
    )
    return LabSection(
        "mean-reward",
        "BCO does not reach its divergence at the mean reward",
        "With the mean reward over both classes as baseline, the remaining critic always has mean 0, and log R has "
        "mean 0 only if KL(P, Q) = KL(Q, P). What BCO reaches over all critics, baseline included, is below 2 JS. A "
        "free constant or a prompt baseline reaches it. (Trained with the baseline detached, r also drifts without "
        "end.)",
        (claim,),
        Chart(
            "|KL(P, Q) - KL(Q, P)|, nats",
            "2 JS minus what BCO reaches, nats",
            {"one world": (lopsided.tolist(), (minimum.target - minimum.reached).tolist())},
        ),
    )


def sensitivity_order(worlds: Worlds) -> LabSection:
    """DPO's divergence is not the least of them."""
    js = DIVERGENCES["js"].exact(worlds.aligned, worlds.unaligned).mean(-1) / 2
    pair = DIVERGENCES["js"].exact(*swapped_pairs(worlds.aligned, worlds.unaligned)).mean(-1) / 2
    tv = DIVERGENCES["tv"].exact(worlds.aligned, worlds.unaligned).mean(-1)
    kl = _kl(worlds.aligned, worlds.unaligned)
    in_order = ((pair < tv) & (tv < js) & (js < kl)).double()
    return LabSection(
        "sensitivity-order",
        "The divergences are not in the order DPO < TV < JS < KL",
        "A pair holds both responses: by data processing its divergence is at least that of one. If methods differ in "
        "training as that order says, the reason is optimisation, noise or saturation. JS is in nats, at most ln 2.",
        (
            compare("dpo", "JS(P, Q) <= JS(P x Q, Q x P)", pair, js, relation="<="),
            compare("order", "share of worlds with DPO < TV < JS < KL = 1", torch.ones_like(in_order), in_order),
        ),
        Chart(
            "JS(P, Q), nats",
            "divergence, nats",
            {
                "DPO: JS(P x Q, Q x P)": (js.tolist(), pair.tolist()),
                "TV": (js.tolist(), tv.tolist()),
                "KL": (js.tolist(), kl.tolist()),
            },
            diagonal=True,
        ),
    )


def separation_theorem(worlds: Worlds, beta: float) -> LabSection:
    """Compliance-refusal data against preference data, in our reading of the paper's theorem 4.5."""
    right = worlds.aligned > worlds.unaligned
    fair = _halved(worlds.reference, right)
    return LabSection(
        "separation-theorem",
        "Compliance-refusal data separate better than preference data",
        "A response is of the right kind for its prompt where D+ gives it more than D-. Preference data are taken as "
        "the same two distributions with label noise: with probability noise a pair is flipped, which moves R towards "
        "1. A policy pi_ref h(R) / Z then has at least as much mass on the right kind after compliance-refusal data, "
        "prompt by prompt, for every reference and non-decreasing h. That mass need not be above 1/2, unless the "
        "reference's is. Policies of least kldo loss are no such tilt; the first part still holds for them here. The "
        "worst prompt of all worlds decides. These hypotheses are ours: the paper's own may be others.",
        (
            *(claim for noise in _NOISE for claim in _tilted(worlds, fair, right, noise, beta)),
            _trained(beta),
        ),
        _separation_chart(worlds, fair, right, beta),
    )


def _tilted(worlds: Worlds, fair: Distributions, right: Tensor, noise: float, beta: float) -> list[Claim]:
    clear, noisy = worlds.aligned / worlds.unaligned, _confused_ratio(worlds, noise)
    claims = []
    for label, tilt in _tilts(beta).items():
        name = f"h = {label}, noise {noise:g}"
        after = {"cr": _mass(fair * tilt(clear), right), "pref": _mass(fair * tilt(noisy), right)}
        anywhere = _mass(worlds.reference * tilt(noisy), right)
        half = torch.full_like(anywhere, 0.5)
        short = float((0.5 - after["pref"]).clamp(min=0).max())
        conditions = {"the reference gives the right kind 1/2 or more": partial(float, short)}
        claims += [
            compare(name, "right after Pref <= right after CR", after["cr"], after["pref"], relation="<="),
            compare(name, "1/2 <= right after Pref", anywhere, half, relation="<=", conditions=conditions),
        ]
    return claims


def _trained(beta: float) -> Claim:
    """The same with kldo's own optimum on both kinds of data, noise 1/4."""
    worlds = draw_worlds(6, seed=2)
    right = worlds.aligned > worlds.unaligned
    clear = worlds._replace(reference=_halved(worlds.reference, right))
    noisy = clear._replace(
        aligned=0.75 * clear.aligned + 0.25 * clear.unaligned,
        unaligned=0.75 * clear.unaligned + 0.25 * clear.aligned,
        rows=_TRAINED_ROWS,
    )
    method = METHODS["kldo"]
    masses = [
        _mass(policies(minimise(data, method, policy_setting(method, beta)).solution.log_ratio, data, beta), right)
        for data in (clear, noisy)
    ]
    return compare("kldo, noise 0.25", "right after Pref <= right after CR", *masses, relation="<=")


def _tilts(beta: float):
    return {
        "R^(1/beta)": lambda ratio: ratio.clamp(min=1e-9) ** (1 / beta),
        "R": lambda ratio: ratio,
        "1 + 9 [R > 2]": lambda ratio: 1 + 9.0 * (ratio > 2),
    }


def _confused_ratio(worlds: Worlds, noise: float) -> Distributions:
    p, q = worlds.aligned, worlds.unaligned
    return ((1 - noise) * p + noise * q) / ((1 - noise) * q + noise * p)


def _mass(weights: Distributions, right: Tensor) -> Float[Tensor, " prompts"]:
    """The share of every prompt's weight that lies on the right kind."""
    return ((weights * right).sum(-1) / weights.sum(-1)).flatten()


def _halved(reference: Distributions, right: Tensor) -> Distributions:
    """The reference, rescaled so that the right kind has half of it."""
    mass = (reference * right).sum(-1, keepdim=True)
    return torch.where(right, reference / mass, reference / (1 - mass)) / 2


def _kl(p: Distributions, q: Distributions) -> Float[Tensor, " w"]:
    return DIVERGENCES["kl"].exact(p, q).mean(-1)


def _separation_chart(worlds: Worlds, fair: Distributions, right: Tensor, beta: float) -> Chart:
    noises = [step / 40 for step in range(21)]
    series = {}
    for label, tilt in _tilts(beta).items():
        masses = [_mass(fair * tilt(_confused_ratio(worlds, noise)), right) for noise in noises]
        series[f"h = {label}, worst prompt"] = (noises, [float(mass.min()) for mass in masses])
    return Chart("noise (0: compliance-refusal)", "mass on the right kind of response", series, lines=True)
