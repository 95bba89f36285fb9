"""LoRA's layers by matrix products alone, while a model trains.

peft computes W x + s B A x with the adapter in float32: on a bfloat16 base it converts the input and the result of each
of a model's linear layers, multiplies by s and adds, in passes over memory that take longer than the products. Here
these passes are one addition; s is multiplied into B. The adapter's weights and their optimizer states stay in float32,
the products run in the base's precision, as under autocast. In float32 the result is peft's up to rounding.

SmolLM2-135M, rank 16, bfloat16, 2 CPU cores: `python -m bench.real` has the speed with and without.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class _LoraProduct(torch.autograd.Function):
    """W x + bias + s B A x for a frozen W; down = A x is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        down = rows @ a.to(x.dtype).T
        out = nn.functional.linear(rows, weight, bias)
        out += down @ (b * scale).to(x.dtype).T
        ctx.save_for_backward(rows, down, weight, a, b)
        ctx.scale, ctx.shape = scale, x.shape
        return out.reshape(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, down, weight, a, b = ctx.saved_tensors
        slope = gradients[0].reshape(-1, weight.shape[0])
        up = slope @ (b * ctx.scale).to(slope.dtype)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = slope @ weight
            to_x += up @ a.to(slope.dtype)
            to_x = to_x.reshape(ctx.shape)
        to_b = (slope.T @ down).to(b.dtype) * ctx.scale
        return to_x, None, None, (up.T @ rows).to(a.dtype), to_b, None


@contextmanager
def lora_by_products(model: nn.Module) -> Iterator[int]:
    """Compute the plain LoRA layers of `model` by products for a while; yield how many.

    A layer with dropout, DoRA, several active adapters, hooks or a base that is quantised or trained is left to peft,
    as is a call with the adapter disabled, under autocast or on sharded weights.
    """
    layers = [part for part in model.modules() if type(part) is Linear and _is_plain(part)]
    for layer in layers:
        layer.forward = _forward_of(layer)
    try:
        yield len(layers)
    finally:
        for layer in layers:
            del layer.forward  # the instance's; the class's is back


def _is_plain(layer: Any) -> bool:
    base, names = layer.get_base_layer(), layer.active_adapters
    if type(base) is not nn.Linear or base.weight.requires_grad or len(names) != 1 or names[0] not in layer.lora_A:
        return False
    name = names[0]
    parts = (base, layer.lora_A[name], layer.lora_B[name])
    return (
        name not in layer.lora_variant
        and all(type(part) is nn.Linear and not part._forward_hooks and not part._forward_pre_hooks for part in parts)
        and all(part.bias is None for part in parts[1:])
        and not getattr(layer.lora_dropout[name], "p", 0.0)
    )


def _forward_of(layer: Any) -> Any:
    name = layer.active_adapters[0]
    base, a, b = layer.get_base_layer(), layer.lora_A[name], layer.lora_B[name]
    by_peft = layer.forward

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if (
            args
            or kwargs
            or layer.disable_adapters
            or layer.merged
            or layer.active_adapters != [name]
            or x.dtype != base.weight.dtype
            or torch.is_autocast_enabled(x.device.type)
            or isinstance(base.weight, DTensor)
        ):
            return by_peft(x, *args, **kwargs)
        return _LoraProduct.apply(x, base.weight, base.bias, a.weight, b.weight, layer.scaling[name])  # type: ignore[return-value]

    return forward
