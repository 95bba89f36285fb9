"""Is a loss the divergence it is said to be? For a free critic, for a policy, for a policy with a prompt baseline."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from divalign.core.divergences import DIVERGENCES, Divergence
from divalign.core.losses import METHODS, LogRatios, Method
from divalign.lab.findings import Chart, Claim, Conditions, Section, compare
from divalign.lab.solve import Setting, Solution, solve
from divalign.lab.worlds import Laws, Worlds, draw, pair_laws, with_equal_normalisers

# How each method's published loss is tied to a divergence; our losses differ from the published by a constant.
STATEMENTS = {
    "kldo": "- min KLDO = KL(P, Q)",
    "bco": "ln 4 - min BCO = 2 JS(P, Q)",
    "kto": "1 - min KTO = TV(P, Q)",
    "hdo": "2 - min HDO = squared Hellinger(P, Q)",
    "dpo": "ln 2 - min DPO = JS(P x Q, Q x P)",
    "ipo": "1/4 - min IPO <= LeCam(P x Q, Q x P) / 8",
    "exponential_pair": "1 - min E e^(-margin/2) = squared Hellinger(P x Q, Q x P) / 2",
    "nca": "2 ln 2 - min NCA = 2 JS(P, (P + Q)/2)",
    "rdro": "2 ln 2 - min RDRO = 2 JS(P, (P + Q)/2)",
}
# Paired methods: the divergence between a pair and its swap, and the factor to it.
_PAIRED = {"dpo": ("js", 1 / 2), "ipo": ("lecam", 1 / 8), "exponential_pair": ("hellinger", 1 / 2)}
_POLICY_BASELINES = {"kldo": "own", "kto": "own", "bco": "constant"}
EQUAL = "E_ref[R^(1/beta) | x] is the same for every prompt"
ONE = "E_ref[R^(1/beta) | x] = 1 for every prompt"


class Solved(NamedTuple):
    """One method on one batch of worlds: the divergence it should show, what it shows, and the solution."""

    target: Float[Tensor, " w"]
    reached: Float[Tensor, " w"]
    solution: Solution


Solutions = dict[str, Solved]


def denominator(method: Method, worlds: Worlds) -> Laws:
    """The law M for which a pointwise method's best critic is log dP/dM: Q, or the half mixture for nca and rdro."""
    return worlds.unaligned if method.paired or method.divergence else (worlds.aligned + worlds.unaligned) / 2


def target(method: Method, worlds: Worlds) -> Float[Tensor, " w"]:
    """The divergence that the method's least loss is tied to, by enumeration."""
    if method.paired:
        name, factor = _PAIRED[method.name]
        return factor * DIVERGENCES[name].exact(*pair_laws(worlds)).mean(-1)
    row: Divergence = method.divergence or DIVERGENCES["js"]
    return row.exact(worlds.aligned, denominator(method, worlds)).mean(-1)


def settle(worlds: Worlds, method: Method, setting: Setting) -> Solved:
    """Solve, and turn the least loss into the divergence that it shows: the loss at r = 0 minus it."""
    solution = solve(worlds, method, setting)
    nothing = torch.zeros(1, dtype=torch.float64)
    return Solved(target(method, worlds), method.loss(LogRatios(nothing, nothing), 0) - solution.loss, solution)


def free_setting(method: Method) -> Setting:
    return Setting("free", "own" if method.name == "kldo" else "zero")


def policy_setting(method: Method, beta: float) -> Setting:
    """The baseline each method is used with; bco gets the best constant, which its mean reward can at most equal."""
    return Setting("policy", _POLICY_BASELINES.get(method.name, "zero"), beta)  # pyright: ignore[reportArgumentType]


def free_critic(worlds: Worlds) -> Section:
    """Every identity with a critic that may be any number."""
    solved = {name: settle(worlds, method, free_setting(method)) for name, method in METHODS.items()}
    return Section(
        "free-critic",
        "Losses are divergences, for a free critic",
        "The loss is minimised over r, any function of prompt and response. The target is the divergence by "
        "enumeration. IPO alone is a bound: its best critic of a pair, half of (PQ - QP)/(PQ + QP), is no difference "
        "of two rewards.",
        tuple(_identity(name, solved[name]) for name in METHODS),
        Chart(
            "divergence by enumeration, nats",
            "what the least loss shows, nats",
            {name: (one.target.tolist(), one.reached.tolist()) for name, one in solved.items() if name in STATEMENTS},
            log_x=True,
            log_y=True,
            diagonal=True,
        ),
    )


def normalised_policy(worlds: Worlds, beta: float) -> tuple[Section, Solutions]:
    """The same with r = beta log(pi / pi_ref) of a policy that sums to 1 at every prompt."""
    solved = {name: settle(worlds, method, policy_setting(method, beta)) for name, method in METHODS.items()}
    section = Section(
        "normalised-policy",
        "A policy is not a free critic",
        "A policy that sums to 1 obeys E_ref[e^(r/beta) | x] = 1 at every prompt, so r = log R + c cannot hold unless "
        "the normaliser Z(x) = E_ref[R^(1/beta) | x] allows it. Functions of margins do not feel it. kldo uses its own "
        "log-mean-exp, bco the best constant, kto the exact beta KL(pi, pi_ref); the others no baseline. Conditions "
        "were tested on worlds made to satisfy them. (For nca and rdro, R is dP/dM with M the mixture.) The losses of "
        "kldo, bco and kto have several valleys here: reached is the best of eight starts.",
        tuple(_identity(name, solved[name], _conditions(method)) for name, method in METHODS.items()),
        Chart(
            "method",
            "mean gap, share of the divergence",
            {"policy": (list(solved), [max(_share(one), 1e-16) for one in solved.values()])},
            log_y=True,
        ),
    )
    return section, solved


def prompt_baseline(worlds: Worlds, beta: float, plain: Solutions) -> tuple[Section, Solutions]:
    """The same policy with one learned number per prompt: critic r - baseline(x)."""
    setting = Setting("policy", "prompt", beta)
    solved = {name: settle(worlds, method, setting) for name, method in METHODS.items()}
    log_normaliser = torch.logsumexp(worlds.reference.log() + (worlds.aligned / worlds.unaligned).log() / beta, dim=-1)
    found = solved["bco"].solution.baseline
    learned = compare(
        "bco",
        "the learned baseline is - beta log E_ref[R^(1/beta) | x]",
        -beta * log_normaliser.flatten(),
        found.flatten(),
    )
    moved = (_unmoved(name, plain[name], solved[name], worlds, beta) for name in ("kldo", "bco", "hdo", "dpo"))
    section = Section(
        "prompt-baseline",
        "A baseline that reads the prompt closes the gap",
        "One number per prompt, taken off r before score and penalty, makes the critic free again: every pointwise "
        "identity returns (kto's in the limit of large r, which Newton steps reach to rounding error and training does "
        "not). It does move the optimum of the policy: without it, the policy bends to make up for its own normaliser.",
        (*(_identity(name, solved[name]) for name in METHODS), learned, *moved),
        Chart(
            "- beta log E_ref[R^(1/beta) | x]",
            "learned baseline (bco), nats",
            {"one prompt": ((-beta * log_normaliser).flatten().tolist(), found.flatten().tolist())},
            diagonal=True,
        ),
    )
    return section, solved


def policies(critic: Laws, worlds: Worlds, beta: float) -> Laws:
    """The policy behind r."""
    return worlds.reference * (critic / beta).exp()


def _identity(name: str, solved: Solved, conditions: Conditions | None = None) -> Claim:
    return compare(
        name,
        STATEMENTS.get(name, f"loss(0) - min loss = {METHODS[name].estimates}"),
        solved.target,
        solved.reached,
        relation="<=" if name == "ipo" else "=",
        conditions=conditions,
    )


def _conditions(method: Method) -> Conditions:
    """The worst gap on worlds whose normalisers are equal, and on worlds where they are 1."""

    def gap(worlds: Worlds, beta: float) -> float:
        solved = settle(worlds, method, policy_setting(method, beta))
        return float((solved.target - solved.reached).abs().max())

    return {
        EQUAL: lambda: gap(with_equal_normalisers(draw(3, seed=1)), 0.1),
        ONE: lambda: gap(normaliser_one(method), 1.0),
    }


def normaliser_one(method: Method) -> Worlds:
    """Three worlds whose reference is the denominator of R: at beta = 1, E_ref[R | x] = 1."""
    some = draw(3, seed=1)
    return some._replace(reference=denominator(method, some))


def _share(solved: Solved) -> float:
    return float((solved.target - solved.reached).abs().mean() / solved.target.mean())


def _unmoved(name: str, plain: Solved, learned: Solved, worlds: Worlds, beta: float) -> Claim:
    before, after = (policies(one.solution.log_ratio, worlds, beta) for one in (plain, learned))
    apart = DIVERGENCES["tv"].exact(before, after).mean(-1)
    statement = "the baseline moves no policy optimum (total variation)"
    return compare(name, statement, torch.zeros_like(apart), apart)
