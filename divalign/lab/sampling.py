"""What finite samples and finite training do to the identities: log-mean-exp, micro-batches, disjoint supports."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from divalign.core.baselines import LogRatios
from divalign.core.divergences import DIVERGENCES
from divalign.core.losses import METHODS, Method
from divalign.draw.chart import Chart
from divalign.lab.findings import Claim, LabSection, compare
from divalign.lab.identities import free_setting

_DRAWS = 2**21
_SIZES = tuple(2**power for power in range(1, 11))
_SHOWN = ((1.0, 2), (1.0, 4), (1.0, 8), (2.0, 4), (2.0, 64), (3.0, 64))
_STEPS = 1000


def log_mean_exp_bias(seed: int) -> LabSection:
    """KLDO's log-mean-exp over few rows is too low, and how to have it over all."""
    means = {(sd, n): _expected(sd, n, seed) for sd in (1.0, 2.0, 3.0) for n in _SIZES}
    claims = [
        compare(f"{n} rows, sd {sd:g}", "E log-mean-exp = sd^2 / 2", _vector(sd**2 / 2), means[sd, n])
        for sd, n in _SHOWN
    ]
    return LabSection(
        "log-mean-exp",
        "Log-mean-exp does not split over micro-batches, unless the step shares its baseline",
        "Rewards of unaligned rows are normal; the truth is half their variance. With few rows the largest decides and "
        f"the mean falls short (simulated, {_DRAWS:,} rewards per point). One baseline over all rows of a step, given "
        "to every micro-batch, returns value and gradient of the step; a baseline per micro-batch does not.",
        (*claims, *_micro_batches(seed)),
        Chart(
            "unaligned rows in a micro-batch",
            "E log-mean-exp minus truth, nats",
            {f"sd {sd:g}": ([*_SIZES], [float(means[sd, n]) - sd**2 / 2 for n in _SIZES]) for sd in (1.0, 2.0, 3.0)},
            log_x=True,
            lines=True,
        ),
    )


def disjoint_supports() -> LabSection:
    """On disjoint supports an estimate measures how long the critic was trained."""
    p, q = ([0.25] * 4 + [0.0] * 4), ([0.0] * 4 + [0.25] * 4)
    bounded = [
        compare(
            f"{name} ({row.scale})", f"{name} is at its upper bound", _vector(row.upper), row.exact(p, q).reshape(1)
        )
        for name, row in DIVERGENCES.items()
        if row.upper is not None
    ]
    curves = {name: _training_curve(METHODS[name], _STEPS) for name in ("kldo", "bco", "hdo")}
    stable = [
        compare(
            name,
            f"value after {_STEPS // 10} steps = value after {_STEPS}",
            _vector(curve[_STEPS // 10]),
            _vector(curve[_STEPS]),
        )
        for name, curve in curves.items()
    ]
    steps = [round(10 ** (power / 10)) for power in range(31)]
    return LabSection(
        "disjoint-supports",
        "Disjoint supports: the estimate measures training, not data",
        "Compliance and refusal share almost no responses. Bounded divergences are at their upper bound whatever the "
        "data, and kl, reverse_kl, chi2 and neyman are infinite. A free critic under gradient descent (rate 1 per "
        "cell) shows what that means: kldo's estimate grows with every step, the bounded ones converge slowly to their "
        "bound. Only bounded divergences should be reported there, and as saturated.",
        (*bounded, *stable),
        Chart(
            "gradient steps",
            "divergence estimate, nats",
            {name: (steps, [curve[step] for step in steps]) for name, curve in curves.items()},
            log_x=True,
            log_y=True,
            lines=True,
        ),
    )


def _vector(value: float) -> Float[Tensor, " 1"]:
    return torch.tensor([value], dtype=torch.float64)


def _expected(sd: float, n: int, seed: int) -> Float[Tensor, " 1"]:
    random = torch.Generator().manual_seed(seed + n)
    rewards = sd * torch.randn(_DRAWS // n, n, generator=random, dtype=torch.float64)
    return (torch.logsumexp(rewards, 1) - math.log(n)).mean().reshape(1)


def _micro_batches(seed: int) -> tuple[Claim, Claim]:
    """Gradient of four micro-batches against that of the whole step, with a shared baseline and with their own."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(2, 32, generator=random, dtype=torch.float64).requires_grad_()
    method = METHODS["kldo"]
    shared = method.baseline(LogRatios(*rows))

    def gradient(parts: int, baseline: Tensor | None) -> Tensor:
        pieces = (LogRatios(*piece) for piece in rows.unflatten(1, (parts, -1)).unbind(1))
        (gradients,) = torch.autograd.grad(torch.stack([method.loss(piece, baseline) for piece in pieces]).mean(), rows)
        return gradients.flatten()

    whole = gradient(1, None)
    statement = "gradient of 4 micro-batches = gradient of the step"
    return (
        compare("kldo, shared baseline", statement, whole, gradient(4, shared)),
        compare("kldo, own baselines", statement, whole, gradient(4, None)),
    )


def _training_curve(method: Method, steps: int) -> list[float]:
    """The divergence estimate before each step of gradient descent on a free critic with two disjoint supports."""
    critic = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    curve = []
    for _ in range(steps + 1):
        loss = method.loss(LogRatios(*critic), None if free_setting(method).baseline == "own" else 0)
        curve.append(-loss.item())
        (gradient,) = torch.autograd.grad(loss, critic)
        critic = (critic - gradient).detach().requires_grad_()
    return curve
