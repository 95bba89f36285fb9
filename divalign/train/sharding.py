"""Weights sharded over processes by FSDP2 or DeepSpeed ZeRO-3: what they ask of a trainer.

The model is whole until training begins, in each process's own memory, and is sharded then. So the reference, too, is
scored then, by all processes together and before a checkpoint moves the weights. What is saved at the end is whole.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from peft import PeftModel
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule

CONFIGS = "configs/accelerate"


def is_sharding(accelerator: Any) -> bool:
    """Tell whether training will shard the weights. Raises ValueError for FSDP's first version."""
    fsdp = getattr(accelerator.state, "fsdp_plugin", None)
    if fsdp is not None and fsdp.fsdp_version != 2:
        raise ValueError(
            f"FSDP of version {fsdp.fsdp_version}, whose flat parameters know no single weight; set fsdp_version: 2, "
            f"as {CONFIGS}/fsdp2.yaml does"
        )
    deepspeed = getattr(accelerator.state, "deepspeed_plugin", None)
    return fsdp is not None or (deepspeed is not None and deepspeed.zero_stage == 3)


def keep_outputs(accelerator: Any) -> None:
    """Let sharded modules return what they compute as they compute it.

    Accelerate's mixed precision has FSDP2 round every output to bfloat16, of a response's log-probability up to half a
    nat.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    policy = getattr(plugin, "mixed_precision_policy", None)
    if plugin is not None and policy is not None:
        plugin.mixed_precision_policy = replace(policy, output_dtype=None)


def is_sharded(model: Any) -> bool:
    """Tell whether a model's weights lie in pieces on several processes, here and now."""
    return isinstance(model, FSDPModule) or any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def reshard(model: Any) -> None:
    """Take back the weights that FSDP's last forward has gathered: parameters are each process's own pieces then."""
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def whole_state(model: Any) -> dict[str, Tensor]:
    """Return a model's whole weights on the first process, of an adapter those alone; every process must call it."""
    options = StateDictOptions(
        full_state_dict=True, cpu_offload=True, ignore_frozen_params=isinstance(model, PeftModel)
    )
    return get_model_state_dict(model, options=options)  # type: ignore[return-value]


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor whole, any other as it is; every process must call it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]
