"""A loss, baseline or gradient that is not finite stops training before it reaches the weights."""

import pytest
import torch
from torch import nn

from divalign.core.losses import LogRatios
from divalign.train.not_finite import NotFiniteError, check_finite, check_gradients


def part(aligned: list[float], unaligned: list[float]) -> tuple[LogRatios, dict]:
    numbers = torch.arange(len(aligned) + len(unaligned)) + 10
    return LogRatios(torch.tensor(aligned), torch.tensor(unaligned)), {"numbers": numbers}


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([part([1.0, NAN], [0.0, 2.0])], "not finite for the rows aligned 11 (numbered from 0)"),
        ([part([1.0], [0.0]), part([1.0, 1.0], [INF, -INF])], "not finite for the rows unaligned 12, 13"),
        ([part([NAN], [NAN])], "r of all its 2 rows: the weights have diverged"),
        ([part([500.0], [-900.0])], "is finite, at most 900 nats in size"),
        ([part([], [])], "is finite, at most 0 nats"),
    ],
)
def test_the_rows_behind_a_number_that_is_not_finite_are_named(parts: list, words: str) -> None:
    with pytest.raises(NotFiniteError) as caught:
        check_finite(torch.tensor(NAN), "baseline", parts, update=7)
    assert "update 7: the baseline is nan" in str(caught.value)
    assert words in str(caught.value)
    check_finite(torch.tensor(1.0), "loss", parts, update=7)


def test_an_element_stops_training_and_a_large_norm_does_not() -> None:
    weights = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(0))]
    for weight in weights:
        weight.grad = torch.full_like(weight, 3e38)  # whose norm overflows float32; clipping makes it 0
    check_gradients(weights, update=1)
    weights[1].grad = torch.tensor([0.0, NAN])
    with pytest.raises(NotFiniteError, match="update 1: the loss is finite and its gradient is not"):
        check_gradients(weights, update=1)
    check_gradients([nn.Parameter(torch.zeros(1))], update=1)
