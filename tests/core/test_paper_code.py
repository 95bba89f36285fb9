"""The released code's departures, each shown by what it does to the gradient."""

import pytest
import torch

from divalign.core.losses import METHODS, LogRatios
from divalign.core.paper_code import PAPER_CODE, bco_paper_code, kldo_paper_code


def rows(aligned: list[float], unaligned: list[float]) -> LogRatios:
    return LogRatios(*(torch.tensor(r, dtype=torch.float64, requires_grad=True) for r in (aligned, unaligned)))


def pull_on_unaligned(loss: torch.Tensor, ratios: LogRatios) -> torch.Tensor:
    return torch.autograd.grad(loss, ratios.unaligned, retain_graph=True)[0]


def test_the_first_step_ignores_unaligned_rows() -> None:
    ratios = rows([0.0, 0.0], [0.0, 0.0])
    assert not pull_on_unaligned(kldo_paper_code(ratios).loss, ratios).any()


def test_normalize_makes_rejected_responses_more_likely_while_aligned_is_below_zero() -> None:
    ratios = rows([-2.0], [1.0])
    assert pull_on_unaligned(kldo_paper_code(ratios).loss, ratios).item() == pytest.approx(-2.0, rel=1e-5)
    assert pull_on_unaligned(METHODS["kldo"].loss(ratios), ratios).item() == pytest.approx(1.0)


def test_without_its_devices_it_is_kldo() -> None:
    ratios = rows([0.5, -1.0], [0.3, -2.0, 0.9])
    step = kldo_paper_code(ratios, normalize=False)
    expected = METHODS["kldo"].loss(ratios)
    assert step.loss.item() == pytest.approx(expected.item())
    for ours, theirs in zip(
        torch.autograd.grad(step.loss, ratios[:2]), torch.autograd.grad(expected, ratios[:2]), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)  # 1e-6 is added to the average there


def test_kldos_average_moves_in_linear_space() -> None:
    first = kldo_paper_code(rows([0.0], [0.0]))
    second = kldo_paper_code(rows([0.0], [1.0]), first.average)
    assert second.average.item() == pytest.approx(0.9 + 0.1 * torch.e)


def test_bcos_average_stays_at_its_first_value_that_is_not_zero() -> None:
    start = bco_paper_code(rows([0.0], [0.0]))
    first = bco_paper_code(rows([0.4], [0.0]), start.average)
    later = bco_paper_code(rows([9.0], [5.0]), first.average)
    assert [step.average.item() for step in (start, first, later)] == pytest.approx([0.0, 0.2, 0.2])
    assert later.loss.item() == pytest.approx(METHODS["bco"].loss(rows([9.0], [5.0]), 0.2).item())


def test_the_table_is_keyed_by_method() -> None:
    assert all(step.__name__ == f"{name}_paper_code" for name, step in PAPER_CODE.items())
    assert set(PAPER_CODE) <= set(METHODS)
