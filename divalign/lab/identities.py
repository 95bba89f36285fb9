"""Is a loss the divergence it is said to be? For a free critic, for a policy, for a policy with a prompt baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from divalign.core.baselines import LogRatios
from divalign.core.divergences import DIVERGENCES
from divalign.core.losses import METHODS, Method
from divalign.core.optimum import Optimum
from divalign.draw.chart import Chart
from divalign.lab.findings import Claim, Conditions, LabSection, compare
from divalign.lab.solve import Setting, Solution, solve
from divalign.lab.worlds import Distributions, Worlds, draw_worlds, with_equal_normalisers

EQUAL_NORMALISERS = "E_ref[R^(1/beta) | x] is the same for every prompt"
UNIT_NORMALISER = "E_ref[R^(1/beta) | x] = 1 for every prompt"
_MOVED = ("kldo", "bco", "hdo", "dpo")  # examples of how far a prompt baseline moves the best policy


class Minimum(NamedTuple):
    """One method on one batch of worlds: the divergence it should reach, what it reaches, and the solution."""

    target: Float[Tensor, " w"]
    reached: Float[Tensor, " w"]
    solution: Solution


Methods = Mapping[str, Method]
Minima = dict[str, Minimum]


def with_claim(methods: Methods) -> dict[str, Method]:
    """Return the methods that say what their least loss reaches; nothing can be examined of the others."""
    return {name: method for name, method in methods.items() if method.optimum is not None}


def optimum_of(method: Method) -> Optimum:
    """Return what the method claims. Raises ValueError where it claims nothing."""
    if method.optimum is None:
        raise ValueError(f"the method {method.name!r} has no optimum to examine; give its `optimum` field one")
    return method.optimum


def denominator(method: Method, worlds: Worlds) -> Distributions:
    """The distribution M for which a pointwise method's best critic is log dP/dM: Q, or the mixture of nca and rdro."""
    return worlds.unaligned if method.paired else optimum_of(method).compared(worlds.aligned, worlds.unaligned)[1]


def minimise(worlds: Worlds, method: Method, setting: Setting) -> Minimum:
    """Minimise the loss; what is reached is the loss at r = 0 minus its minimum, the target comes by enumeration."""
    solution = solve(worlds, method, setting)
    at_zero = torch.zeros(1, dtype=torch.float64)
    target = optimum_of(method).value(worlds.aligned, worlds.unaligned).mean(-1)
    return Minimum(target, method.loss(LogRatios(at_zero, at_zero), 0) - solution.loss, solution)


def free_setting(method: Method) -> Setting:
    """The setting with any critic, and the baseline that the method's identity needs."""
    return Setting("free", optimum_of(method).critic_baseline)


def policy_setting(method: Method, beta: float) -> Setting:
    """The setting with a normalised policy, and the baseline that the method is used with."""
    return Setting("policy", optimum_of(method).policy_baseline, beta)


def free_critic(worlds: Worlds, methods: Methods = METHODS) -> LabSection:
    """Every identity with a critic that may be any number."""
    methods = with_claim(methods)
    minima = {name: minimise(worlds, method, free_setting(method)) for name, method in methods.items()}
    return LabSection(
        "free-critic",
        "Losses are divergences, for a free critic",
        "The loss is minimised over r, any function of prompt and response. The target is the divergence by "
        "enumeration. IPO and hinge are bounds: their best critics of a pair, half of (PQ - QP)/(PQ + QP) and the sign "
        "of PQ - QP, are no differences of two rewards. The least loss of hinge, which is piecewise linear, is that of "
        "a linear program.",
        tuple(_identity(name, method, minima[name]) for name, method in methods.items()),
        Chart(
            "divergence by enumeration, nats",
            "what the least loss reaches, nats",
            {
                name: (minima[name].target.tolist(), minima[name].reached.tolist())
                for name, method in methods.items()
                if optimum_of(method).statement
            },
            log_x=True,
            log_y=True,
            diagonal=True,
        ),
    )


def normalised_policy(worlds: Worlds, beta: float, methods: Methods = METHODS) -> tuple[LabSection, Minima]:
    """The same with r = beta log(pi / pi_ref) of a policy that sums to 1 at every prompt."""
    methods = with_claim(methods)
    minima = {name: minimise(worlds, method, policy_setting(method, beta)) for name, method in methods.items()}
    section = LabSection(
        "normalised-policy",
        "A policy is not a free critic",
        "A policy that sums to 1 obeys E_ref[e^(r/beta) | x] = 1 at every prompt, so r = log R + c cannot hold unless "
        "the normaliser Z(x) = E_ref[R^(1/beta) | x] allows it. Functions of margins do not depend on it. kldo uses "
        "its own log-mean-exp, bco the best constant, kto the exact beta KL(pi, pi_ref); the others no baseline. "
        "Conditions were tested on worlds made to satisfy them. (For nca and rdro, R is dP/dM with M the mixture.) The "
        "losses of kldo, bco and kto have several local minima here: reached is the best of eight starts.",
        tuple(_identity(name, method, minima[name], _conditions(method)) for name, method in methods.items()),
        Chart(
            "method",
            "mean gap, share of the divergence",
            {"policy": (list(minima), [max(_share(minimum), 1e-16) for minimum in minima.values()])},
            log_y=True,
        ),
    )
    return section, minima


def prompt_baseline(
    worlds: Worlds, beta: float, plain: Minima, methods: Methods = METHODS
) -> tuple[LabSection, Minima]:
    """The same policy with one learned number per prompt: critic r - baseline(x)."""
    methods, setting = with_claim(methods), Setting("policy", "prompt", beta)
    minima = {name: minimise(worlds, method, setting) for name, method in methods.items()}
    log_normaliser = torch.logsumexp(worlds.reference.log() + (worlds.aligned / worlds.unaligned).log() / beta, dim=-1)
    baseline = minima["bco"].solution.baseline
    learned = compare(
        "bco",
        "the learned baseline is - beta log E_ref[R^(1/beta) | x]",
        -beta * log_normaliser.flatten(),
        baseline.flatten(),
    )
    on_top = (_on_top(name, worlds, beta) for name in ("kldo", "bco") if name in methods)
    moved = (_unmoved(name, plain[name], minima[name], worlds, beta) for name in _MOVED)
    section = LabSection(
        "prompt-baseline",
        "A baseline that reads the prompt closes the gap",
        "One number per prompt, subtracted from r before score and penalty, makes the critic free again: every "
        "pointwise identity returns (kto's in the limit of large r, which Newton steps reach to rounding error and "
        "training does not). It does move the optimum of the policy: without it, the policy deviates to compensate for "
        "its own normaliser. It stands in place of the method's own baseline: kldo is then the bound of Nguyen, "
        "Wainwright and Jordan, row by row. With log-mean-exp on top of it kldo reaches the same; with the mean reward "
        "on top of it bco does not.",
        (*(_identity(name, method, minima[name]) for name, method in methods.items()), learned, *on_top, *moved),
        Chart(
            "- beta log E_ref[R^(1/beta) | x]",
            "learned baseline (bco), nats",
            {"one prompt": ((-beta * log_normaliser).flatten().tolist(), baseline.flatten().tolist())},
            diagonal=True,
        ),
    )
    return section, minima


def _on_top(name: str, worlds: Worlds, beta: float) -> Claim:
    """What is reached where the method takes its own baseline off r + b(x) as well."""
    minimum = minimise(worlds, METHODS[name], Setting("policy", "own on prompt", beta))
    return compare(f"{name}, own baseline too", optimum_of(METHODS[name]).statement, minimum.target, minimum.reached)


def policies(critic: Distributions, worlds: Worlds, beta: float) -> Distributions:
    """The policy behind r."""
    return worlds.reference * (critic / beta).exp()


def _identity(name: str, method: Method, minimum: Minimum, conditions: Conditions | None = None) -> Claim:
    optimum = optimum_of(method)
    return compare(
        name,
        optimum.statement or f"loss(0) - min loss {'=' if optimum.reached else '<='} {method.estimates}",
        minimum.target,
        minimum.reached,
        relation="=" if optimum.reached else "<=",
        conditions=conditions,
    )


def _conditions(method: Method) -> Conditions:
    """The worst gap on worlds whose normalisers are equal, and on worlds where they are 1."""

    def gap(worlds: Worlds, beta: float) -> float:
        minimum = minimise(worlds, method, policy_setting(method, beta))
        return float((minimum.target - minimum.reached).abs().max())

    return {
        EQUAL_NORMALISERS: lambda: gap(with_equal_normalisers(draw_worlds(3, seed=1)), 0.1),
        UNIT_NORMALISER: lambda: gap(normaliser_one(method), 1.0),
    }


def normaliser_one(method: Method) -> Worlds:
    """Three worlds whose reference is the denominator of R: at beta = 1, E_ref[R | x] = 1."""
    worlds = draw_worlds(3, seed=1)
    return worlds._replace(reference=denominator(method, worlds))


def _share(minimum: Minimum) -> float:
    return float((minimum.target - minimum.reached).abs().mean() / minimum.target.mean())


def _unmoved(name: str, plain: Minimum, learned: Minimum, worlds: Worlds, beta: float) -> Claim:
    before, after = (policies(minimum.solution.log_ratio, worlds, beta) for minimum in (plain, learned))
    apart = DIVERGENCES["tv"].exact(before, after).mean(-1)
    statement = "the baseline moves no policy optimum (total variation)"
    return compare(name, statement, torch.zeros_like(apart), apart)
