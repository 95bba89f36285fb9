"""Minimise a method's own loss to rounding error, over all worlds of a batch at once, in float64.

Three things can be free: the critic r (any number for every prompt and response), the policy behind
r = beta log(pi / pi_ref) (then E_ref[e^(r / beta) | x] = 1 for every prompt), and the baseline. The solver is Newton's
with the eigenvalues of the Hessian made positive and damped; a world that would rise keeps its place and damps more.
A piecewise linear loss, whose Hessian is 0, is minimised by a linear program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linprog
from torch import Tensor
from torch.func import grad_and_value, hessian, vmap

from divalign.core.baselines import LogRatios, RowBaselines
from divalign.core.baselines import critic as baseline_free
from divalign.core.losses import Method
from divalign.lab.worlds import Distributions, Worlds, paired_rows, pointwise_rows

Objective = Callable[..., Tensor]
_ENOUGH = 1e-15  # predicted decrease, in nats, below which a world counts as solved


class Setting(NamedTuple):
    """What is free: the critic or the policy, and the baseline.

    "own" is the method's, a function of the critic; "prompt" one number a prompt; "own on prompt" that, and then the
    method's own as a function of what is left.
    """

    critic: Literal["free", "policy"]
    baseline: Literal["zero", "own", "constant", "prompt", "own on prompt"]
    beta: float = 0.1


class Solution(NamedTuple):
    """The least loss, the critic r that has it, and the baseline of each prompt."""

    loss: Float[Tensor, " w"]
    log_ratio: Float[Tensor, "w x y"]
    baseline: Float[Tensor, "w x"]


def solve(worlds: Worlds, method: Method, setting: Setting, *, steps: int = 100) -> Solution:
    """Return the minimum of the method's loss in every world, starting from the reference itself (r = 0).

    A piecewise linear loss of margins has many best critics; the one returned is a linear program's.
    A policy whose baseline moves with it (kldo, bco, kto) has several local minima: there the best of eight starts is
    returned, so that a gap to the divergence is at most what is reported.
    """
    objective, prompts = _objective(method, setting, worlds), worlds.aligned.shape[1]
    data = (worlds.reference.log(), *(paired_rows(worlds) if method.paired else pointwise_rows(worlds)))
    if method.optimum and method.optimum.lines:
        best = _with_baselines(_piecewise_linear(worlds, method.optimum.lines))
        losses = vmap(objective)(best, *data)
    else:
        starts = _starts(worlds, several=setting.critic == "policy" and setting.baseline in ("own", "constant"))
        repeated = tuple(part.expand(len(starts), *part.shape).flatten(0, 1) for part in data)
        newton_ends = newton(objective, starts.flatten(0, 1), repeated, steps=steps)
        parameters, ends = (part.unflatten(0, starts.shape[:2]) for part in newton_ends)
        best, losses = parameters[ends.argmin(0), torch.arange(starts.shape[1])], ends.amin(0)
    return Solution(losses, _critic(best, worlds.reference.log(), setting), best[:, -prompts:])


def _with_baselines(critic: Distributions) -> Float[Tensor, "w k"]:
    """The parameters of a critic, followed by a zero baseline for every prompt."""
    return torch.cat([critic.flatten(1), torch.zeros_like(critic[:, :, 0])], dim=1)


def _piecewise_linear(worlds: Worlds, lines: tuple[tuple[float | int, float | int], ...]) -> Distributions:
    """The critic of least mean loss over pairs, prompt by prompt; a margin's loss is the maximum of the lines.

    One more variable a pair, its loss, is at least each line of its margin. Losses of margins leave the constant of a
    prompt free, so a policy can have the same margins.
    """
    count, responses = worlds.aligned.shape[2], range(worlds.aligned.shape[2])
    pairs = [(first, second) for first in responses for second in responses]
    identity = np.eye(count)
    margins = np.stack([identity[first] - identity[second] for first, second in pairs])
    above = np.concatenate([np.hstack([slope * margins, -np.eye(len(pairs))]) for slope, _ in lines])
    limits = np.repeat([-float(intercept) for _, intercept in lines], len(pairs))

    def best(aligned: np.ndarray, unaligned: np.ndarray) -> np.ndarray:
        cost = np.concatenate([np.zeros(count), np.outer(aligned, unaligned).ravel()])
        result = linprog(cost, A_ub=above, b_ub=limits, bounds=(None, None))
        if not result.success:
            raise ValueError(f"the least loss of the lines {lines} was not found: {result.message}")
        return result.x[:count]

    prompts = zip(worlds.aligned.flatten(0, 1).numpy(), worlds.unaligned.flatten(0, 1).numpy(), strict=True)
    return torch.from_numpy(np.stack([best(*prompt) for prompt in prompts])).view_as(worlds.aligned)


def _starts(worlds: Worlds, *, several: bool) -> Float[Tensor, "s w k"]:
    """Critics to start from, each followed by a zero baseline for every prompt."""
    log_ratio = (worlds.aligned / worlds.unaligned).log()
    critics = [torch.zeros_like(log_ratio)]
    if several:
        random = torch.Generator().manual_seed(0)
        noise = [torch.randn(log_ratio.shape, generator=random, dtype=log_ratio.dtype) for _ in range(3)]
        critics += [
            log_ratio / 2,
            log_ratio,
            2 * log_ratio,
            5 * log_ratio.sign(),
            *(log_ratio + each for each in noise),
        ]
    return torch.stack([_with_baselines(critic) for critic in critics])


def newton(
    objective: Objective, start: Float[Tensor, "w k"], data: tuple[Tensor, ...], *, steps: int
) -> tuple[Float[Tensor, "w k"], Float[Tensor, " w"]]:
    """Return parameters and value of a minimum of `objective(parameters, *data)`, for every world by itself."""
    value, slope, curvature = vmap(objective), vmap(grad_and_value(objective)), vmap(hessian(objective))
    parameters, least = start, value(start, *data)
    damping = torch.full_like(least, 1e-3)
    for _ in range(steps):
        gradient, _ = slope(parameters, *data)
        step = _damped_step(gradient, curvature(parameters, *data), damping)
        trial = value(parameters + step, *data)
        better = trial < least
        parameters = torch.where(better[:, None], parameters + step, parameters)
        least = torch.where(better, trial, least)
        damping = torch.where(better, damping / 10, damping * 10).clamp(1e-14, 1e9)
        if float((-(gradient * step).sum(1)).max()) < _ENOUGH:
            break
    return parameters, least


def _damped_step(gradient: Tensor, curvature: Tensor, damping: Tensor) -> Tensor:
    eigenvalues, vectors = torch.linalg.eigh(curvature)
    along = (vectors.mT @ gradient[..., None])[..., 0] / (eigenvalues.abs() + damping[:, None])
    return -(vectors @ along[..., None])[..., 0]


def _objective(method: Method, setting: Setting, worlds: Worlds) -> Objective:
    """The loss of one world as a function of its critic or policy, then of one baseline per prompt."""
    prompts, responses = worlds.aligned.shape[1:]

    def loss(parameters: Tensor, log_reference: Tensor, aligned: Tensor, unaligned: Tensor) -> Tensor:
        critic, baseline = _critic(parameters, log_reference, setting), parameters[-prompts:]
        ratios = LogRatios(critic.flatten()[aligned], critic.flatten()[unaligned])
        by_prompt = RowBaselines(baseline[aligned // responses], baseline[unaligned // responses])
        if setting.baseline == "prompt":
            return method.loss(ratios, by_prompt)
        if setting.baseline == "own on prompt":
            rest = baseline_free(ratios, by_prompt)
            return method.loss(rest, method.own_baseline(rest))
        if setting.baseline == "constant":
            return method.loss(ratios, baseline[0])
        if setting.baseline == "own":
            return method.loss(ratios, _own_baseline(method, ratios, critic, log_reference, setting.beta))
        return method.loss(ratios, 0)

    return loss


def _critic(parameters: Tensor, log_reference: Tensor, setting: Setting) -> Tensor:
    """The critic of every cell: the parameters, or what is left of them when the policy must sum to 1."""
    prompts, responses = log_reference.shape[-2:]
    free = parameters[..., : prompts * responses].unflatten(-1, (prompts, responses))
    if setting.critic == "free":
        return free
    return free - setting.beta * torch.logsumexp(free / setting.beta + log_reference, -1, keepdim=True)


def _own_baseline(
    method: Method, ratios: LogRatios, critic: Tensor, log_reference: Tensor, beta: float
) -> Float[Tensor, ""]:
    """The baseline as a function of the critic, with the exact beta KL(pi, pi_ref) for methods that read it.

    It is not detached: no training dynamics can exceed the value that it allows.
    """
    policy_kl = ((critic / beta + log_reference).exp() * critic).sum(-1).mean()
    return method.own_baseline(ratios._replace(mismatched=policy_kl[None]))
