"""What the lab calls a least loss is one."""

from itertools import product

import pytest
import torch

from divalign.core.losses import METHODS
from divalign.lab.identities import free_setting, policy_setting
from divalign.lab.solve import Setting, solve
from divalign.lab.worlds import draw_worlds

PIECEWISE = {name: method for name, method in METHODS.items() if method.optimum and method.optimum.lines}


def test_the_lines_of_a_piecewise_linear_loss_are_its_own() -> None:
    assert set(PIECEWISE) == {"hinge"}
    margins = torch.linspace(-3, 3, 61, dtype=torch.float64)
    for method in PIECEWISE.values():
        lines = torch.stack([slope * margins + intercept for slope, intercept in method.optimum.lines])
        torch.testing.assert_close(lines.amax(0), method.aligned_loss(margins))


@pytest.mark.parametrize("name", PIECEWISE)
def test_a_piecewise_linear_loss_has_the_least_value_of_all_rewards(name: str) -> None:
    # Some best rewards are whole numbers, so that all can be tried. Newton's steps, with a Hessian of 0, ended above.
    method, worlds = METHODS[name], draw_worlds(4, seed=0, prompts=2, responses=4, rows=8)
    rewards = torch.tensor([(0, *rest) for rest in product(range(-4, 5), repeat=3)], dtype=torch.float64)
    losses = method.aligned_loss(rewards[:, :, None] - rewards[:, None, :])
    weights = worlds.aligned[..., :, None] * worlds.unaligned[..., None, :]
    expected = torch.einsum("wxij,nij->wxn", weights, losses).amin(-1).mean(-1)
    for setting in (free_setting(method), policy_setting(method, 0.1), Setting("policy", "prompt", 0.1)):
        solution = solve(worlds, method, setting)
        torch.testing.assert_close(solution.loss, expected)
        critic = solution.log_ratio
        margins = critic[..., :, None] - critic[..., None, :]
        torch.testing.assert_close((weights * method.aligned_loss(margins)).sum((-1, -2)).mean(-1), expected)
        if setting.critic == "policy":
            total = (worlds.reference * (critic / setting.beta).exp()).sum(-1)
            torch.testing.assert_close(total, torch.ones_like(total))
