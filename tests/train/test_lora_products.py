"""LoRA by products is peft's LoRA: the same outputs and gradients, and what it does not know is left to peft."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from divalign.train.lora_products import lora_by_products
from tests.tiny import tiny_model

PLAIN: dict[str, Any] = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
IDS = torch.arange(1, 25).reshape(3, 8)


def adapted(dtype: torch.dtype = torch.float32, architecture: str = "Llama", **options: Any) -> Any:
    torch.manual_seed(1)
    model = get_peft_model(tiny_model(architecture)[0].to(dtype), LoraConfig(**PLAIN, **options))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def step(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the logits and the gradients of a scalar of them."""
    model.zero_grad()
    logits = model(input_ids=IDS).logits.double()
    logits.square().mean().backward()
    return logits.detach(), {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of gradients, as a share of the largest gradient of that parameter."""
    assert a.keys() == b.keys() and a
    return max(float((a[name] - b[name]).abs().max() / b[name].abs().max()) for name in a)


@pytest.mark.parametrize("architecture", ["Llama", "Qwen2"])  # Qwen2 has a bias in its attention
def test_logits_and_gradients_are_pefts_in_float32(architecture: str) -> None:
    model = adapted(architecture=architecture)
    logits, gradients = step(model)
    with lora_by_products(model) as layers:
        assert layers == 14  # 7 linear layers of 2 blocks
        by_products = step(model)
    torch.testing.assert_close(by_products[0], logits, rtol=1e-5, atol=1e-5)  # rounding of float32 sums
    assert distance(by_products[1], gradients) < 1e-5


def test_bfloat16_is_as_near_to_float32_as_peft_is() -> None:
    exact, model = step(adapted()), adapted(torch.bfloat16)
    by_peft = step(model)
    with lora_by_products(model):
        by_products = step(model)
    assert all(p.dtype == torch.float32 for name, p in model.named_parameters() if "lora_" in name)
    assert distance(by_products[1], exact[1]) < 2 * distance(by_peft[1], exact[1])


def test_a_disabled_adapter_leaves_the_base() -> None:
    model = adapted()
    with torch.no_grad(), model.disable_adapter():
        base = model(input_ids=IDS).logits
        with lora_by_products(model):
            assert torch.equal(model(input_ids=IDS).logits, base)


def test_the_class_is_back_afterwards() -> None:
    model = adapted()
    with lora_by_products(model):
        pass
    assert not any("forward" in vars(part) for part in model.modules())


@pytest.mark.parametrize(
    "options", [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}], ids=["dropout", "DoRA", "bias"]
)
def test_other_kinds_of_lora_are_left_to_peft(options: dict[str, Any]) -> None:
    with lora_by_products(adapted(**options)) as layers:
        assert layers == 0


def test_several_active_adapters_are_left_to_peft() -> None:
    model = adapted()
    model.add_adapter("second", LoraConfig(**PLAIN))
    model.base_model.set_adapter(["default", "second"])
    with lora_by_products(model) as layers:
        assert layers == 0


def test_autocast_is_left_to_peft() -> None:
    model = adapted()
    with torch.autocast("cpu", torch.bfloat16):
        logits, gradients = step(model)
        with lora_by_products(model):
            by_products = step(model)
    assert torch.equal(by_products[0], logits)
    assert distance(by_products[1], gradients) == 0
