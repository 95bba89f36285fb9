"""Log-probabilities from hidden states: one definition, whatever the head, the chunks and the array underneath."""

import numpy as np
import pytest
import torch

from divalign.core.logprobs import LinearHead, log_ratio, response_log_probs, token_log_probs

N, WIDTH, SIZE = 40, 8, 50


def case(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, WIDTH, dtype=dtype, generator=generator).requires_grad_()
    weight = torch.randn(SIZE, WIDTH, dtype=dtype, generator=generator).requires_grad_()
    return hidden, weight, torch.randint(SIZE, (N,), generator=generator)


def by_definition(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, scale: float) -> torch.Tensor:
    return (scale * hidden @ weight.T).log_softmax(1)[range(len(targets)), targets]


@pytest.mark.parametrize("chunk", [7, 1024])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_a_linear_head_gives_the_definitions_values_and_gradients(chunk: int, scale: float) -> None:
    hidden, weight, targets = case()
    expected = by_definition(hidden, weight, targets, scale)
    slopes = torch.autograd.grad(expected.sin().sum(), [hidden, weight])
    found = token_log_probs(hidden, targets, LinearHead(weight, scale), chunk=chunk)
    assert torch.allclose(found, expected, rtol=1e-13, atol=1e-13)
    for one, two in zip(torch.autograd.grad(found.sin().sum(), [hidden, weight]), slopes, strict=True):
        assert torch.allclose(one, two, rtol=1e-12, atol=1e-13)


def test_many_blocks_of_a_large_vocabulary_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, targets = case()
    monkeypatch.setattr("divalign.core.logprobs._IN_CACHE", 3 * SIZE)
    found = token_log_probs(hidden, targets, LinearHead(weight))
    expected = by_definition(hidden, weight, targets, 1.0)
    assert torch.allclose(found, expected, rtol=1e-13, atol=1e-13)
    with torch.no_grad():
        assert torch.equal(token_log_probs(hidden, targets, LinearHead(weight)), found)


def test_a_target_of_probability_next_to_nothing_keeps_its_logarithm() -> None:
    weight = torch.tensor([[200.0], [0.0]])
    found = token_log_probs(torch.ones(1, 1), torch.tensor([1]), LinearHead(weight))
    assert found.item() == pytest.approx(-200.0)


def test_two_sets_of_log_probs_alive_at_once_do_not_share_their_array() -> None:
    hidden, weight, targets = case()
    head = LinearHead(weight)
    token_log_probs(hidden, targets, head).sum().backward()  # leaves an array behind
    hidden.grad = weight.grad = None
    one, two = (token_log_probs(factor * hidden, targets, head) for factor in (1.0, 2.0))
    (one.sum() + two.square().sum()).backward()
    a, b = (by_definition(factor * hidden, weight, targets, 1.0) for factor in (1.0, 2.0))
    expected = torch.autograd.grad(a.sum() + b.square().sum(), [hidden, weight])
    assert torch.allclose(hidden.grad, expected[0], rtol=1e-12)
    assert torch.allclose(weight.grad, expected[1], rtol=1e-12)


def test_going_backward_twice_is_refused() -> None:
    hidden, weight, targets = case()
    total = token_log_probs(hidden, targets, LinearHead(weight)).sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward twice"):
        total.backward()


def test_more_rows_than_a_chunk_leave_no_logits_behind() -> None:
    hidden, weight, targets = case()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.numel()) or one, lambda one: one):
        scored = token_log_probs(hidden, targets, LinearHead(weight), chunk=7)
    assert scored.grad_fn.table is None
    assert max(kept) == SIZE * WIDTH  # the weight; logits would be N * SIZE
    total = scored.sum()
    total.backward(retain_graph=True)
    total.backward()  # made again each time, so as often as one likes


def test_an_array_from_inference_mode_is_not_kept() -> None:
    hidden, weight, targets = case(torch.float32)
    with torch.inference_mode():
        token_log_probs(hidden, targets, LinearHead(weight))
    token_log_probs(hidden, targets, LinearHead(weight)).sum().backward()
    assert hidden.grad is not None


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight, targets = case()
    token_log_probs(hidden, targets, LinearHead(weight.detach())).sum().backward()
    expected = torch.autograd.grad(by_definition(hidden, weight, targets, 1.0).sum(), hidden)[0]
    assert torch.allclose(hidden.grad, expected, rtol=1e-12)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_rounds_the_logits_and_nothing_after_them(autocast: bool) -> None:
    hidden, weight, targets = case(torch.float32 if autocast else torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = torch.nn.functional.linear(hidden, weight)
        found = token_log_probs(hidden, targets, LinearHead(weight))
    assert logits.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    expected = logits.float().log_softmax(1)[range(N), targets]
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)
    slopes = torch.autograd.grad(expected.sum(), [hidden, weight])
    for one, two in zip(torch.autograd.grad(found.sum(), [hidden, weight]), slopes, strict=True):
        assert torch.allclose(one.float(), two.float(), rtol=0.05, atol=0.05)  # 8 bits, rounded at another place


def test_many_chunks_in_half_precision_lose_nothing_of_the_heads_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(8192, WIDTH, generator=generator).bfloat16()
    weight = torch.randn(SIZE, WIDTH, generator=generator).bfloat16().requires_grad_()
    targets = torch.zeros(8192, dtype=torch.long)
    exact = weight.detach().double().requires_grad_()
    expected = torch.autograd.grad(by_definition(hidden.double(), exact, targets, 1.0).sum(), exact)[0]
    errors = []
    for chunk in (8192, 16):
        found = token_log_probs(hidden, targets, LinearHead(weight), chunk=chunk).sum()
        slope = torch.autograd.grad(found, weight)[0]
        errors.append(float((slope.double() - expected).norm() / expected.norm()))
    assert errors[1] < 2 * errors[0]  # 512 products added up in bfloat16 would be 39 times as far off as one product


def test_a_linear_head_is_called_as_the_layer_it_stands_for() -> None:
    hidden, weight, _ = case()
    assert torch.allclose(LinearHead(weight, 0.5)(hidden), 0.5 * torch.nn.functional.linear(hidden, weight))


def test_chunks_change_neither_value_nor_gradient() -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50).double()
    hidden = torch.randn(10, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(50, (10,))
    gradients = []
    for chunk in (3, 100):
        value = token_log_probs(hidden, targets, head, chunk=chunk)
        gradients.append((value.detach(), *torch.autograd.grad(value.square().sum(), [hidden, head.weight])))
    for one, two in zip(*gradients, strict=True):
        assert torch.allclose(one, two, rtol=1e-6, atol=1e-6)  # logits are read in float32


def test_a_response_without_tokens_says_nothing_at_log_probability_zero() -> None:
    head = torch.nn.Linear(4, 5, bias=False)
    scored = response_log_probs(torch.zeros(1, 4), torch.tensor([1]), torch.tensor([1]), 2, head)
    assert scored[0] == 0
    assert scored[1].item() == pytest.approx(-np.log(5), rel=1e-6)


def test_the_log_ratio_is_beta_times_the_difference_in_the_policys_dtype() -> None:
    policy = torch.tensor([-3.0, -1.0], requires_grad=True)
    r = log_ratio(policy, torch.tensor([-4.0, -1.0], dtype=torch.float64), 0.1)
    assert r.dtype == torch.float32
    assert r.tolist() == pytest.approx([0.1, 0.0])
    assert torch.autograd.grad(r.sum(), policy)[0].tolist() == pytest.approx([0.1, 0.1])
    with pytest.raises(ValueError, match=r"shape \(2,\) \(policy\) and \(2, 1\)"):
        log_ratio(policy, policy[:, None], 0.1)
