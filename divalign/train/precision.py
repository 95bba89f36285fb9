"""Whole models in half precision: they learn as float32 master weights, compute in half precision, and are saved as
they were.

bfloat16 has 8 significant bits, so what changes a weight by less than 1/512 of it is rounded away. AdamW changes one by
about the learning rate: at 1e-6 no weight above 5e-4 would move, however many updates there are. In float32 the updates
add up, and the sum is rounded once, when the model is saved. Adapters need none of it: peft keeps them in float32.
Source: Micikevicius et al. 2017, arXiv 1710.03740, sec. 3.1.
"""

from __future__ import annotations

from typing import Any

import torch

from divalign.train.sharding import reshard

AUTOCAST = {torch.bfloat16: "bf16", torch.float16: "fp16"}  # and what TrainingArguments calls computing in it
COMPUTED = {name: dtype for dtype, name in AUTOCAST.items()}
SAFE_RATE = 1e-4  # a learning rate from which on a good part of the weights moves in half precision too


def half_weights(model: Any) -> dict[str, torch.dtype]:
    """Return the dtypes of the weights that learn in half precision, by their names."""
    learning = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    return {name: weight.dtype for name, weight in learning.items() if weight.dtype in AUTOCAST}


def widen(model: Any) -> dict[str, torch.dtype]:
    """Turn the weights that learn in half precision into float32, in place; return their dtypes, for `narrow`."""
    dtypes = half_weights(model)
    for name, weight in model.named_parameters():
        if name in dtypes:
            weight.data = weight.data.float()
    return dtypes


def autocast_settings(dtypes: dict[str, torch.dtype], *, on_cpu: bool) -> dict[str, bool]:
    """Return the training arguments that keep the products of widened weights in the precision that these had.

    Products of float16 need a GPU; on a CPU they are made in float32.
    """
    names = {AUTOCAST[dtype] for dtype in dtypes.values()}
    return {name: True for name in names if not (on_cpu and name == "fp16")}


@torch.no_grad()
def round_weights(model: Any, dtypes: dict[str, torch.dtype]) -> None:
    """Round widened weights to the values that they will be saved with; they stay float32."""
    reshard(model)
    for name, weight in model.named_parameters():
        if name in dtypes:
            weight.copy_(weight.to(dtypes[name]))


def narrow(model: Any, dtypes: dict[str, torch.dtype]) -> None:
    """Give widened weights the dtypes that they had, in place; of a sharded model on every process."""
    if not dtypes:
        return
    reshard(model)
    back = {id(weight): dtypes[name] for name, weight in model.named_parameters() if name in dtypes}
    model.zero_grad(set_to_none=True)  # gradients would keep float32
    model._apply(lambda tensor: tensor.to(back[id(tensor)]) if id(tensor) in back else tensor)  # FSDP overrides it
