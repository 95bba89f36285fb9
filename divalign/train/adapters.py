"""Adapters on a model that has one already: trained further, or frozen under a second one.

The reference is the model as handed in, its adapter included. A second adapter is trained beside the first, which is
frozen and stays active; what is saved is one LoRA adapter for the bare base, equal to both together.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, PeftModelForCausalLM, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import nn

from divalign.train.sharding import whole

SECOND = "policy"  # the name of the adapter that is trained beside the model's own
FRESH_STARTS = (True, False, "gaussian", "orthogonal", "eva")  # the other LoRA starts rewrite the base's weights


def has_adapter(model: Any) -> bool:
    """Tell whether a model carries an adapter that can be trained further."""
    return isinstance(model, PeftModel) or getattr(model, "_hf_peft_config_loaded", False)


def as_peft_model(model: Any) -> Any:
    """Return a model that transformers loaded from an adapter folder as a PeftModel; any other as it is.

    Raises ValueError where such a model carries several adapters, or layers of an adapter without its PeftModel.
    """
    if not getattr(model, "_hf_peft_config_loaded", False):
        if not isinstance(model, PeftModel) and any(isinstance(part, BaseTunerLayer) for part in model.modules()):
            raise ValueError(
                "the model holds the layers of an adapter that was put on it earlier; give the PeftModel that was "
                "returned then, or load the model again"
            )
        return model
    names = list(model.peft_config)
    if len(names) != 1:
        raise ValueError(
            f"the model carries {len(names)} adapters ({', '.join(names)}), expected one; merge them into the base, or "
            "load the one to train with peft.PeftModel.from_pretrained"
        )
    config, weights = model.peft_config[names[0]], get_peft_model_state_dict(model, adapter_name=names[0])
    weights = {f"base_model.model.{name}": value.clone() for name, value in weights.items()}
    del model.peft_config
    model._hf_peft_config_loaded = False
    wrapped = PeftModelForCausalLM(model, config, adapter_name=names[0])
    lost = set_peft_model_state_dict(wrapped, weights, adapter_name=names[0]).unexpected_keys
    if lost:
        raise ValueError(f"the adapter's weights {lost[0]} and {len(lost) - 1} more have no place; load it with peft")
    return wrapped.eval()


def make_trainable(model: Any) -> None:
    """Let the model's active adapter learn, also where it was loaded without `is_trainable`.

    Raises ValueError where nothing can learn.
    """
    tuner: Any = getattr(model, "base_model", None)
    if isinstance(model, PeftModel) and not any(parameter.requires_grad for parameter in model.parameters()):
        tuner.set_adapter(list(model.active_adapters))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "no parameter of the model can learn, all have requires_grad=False; set it or give peft_config"
        )


def add_second(model: Any, config: Any) -> None:
    """Put another LoRA adapter beside the model's own, all of them active, only the new one trainable.

    Raises ValueError where either is not a plain LoRA of linear layers, so that the two could not be saved as one.
    """
    own = list(model.active_adapters)
    for side, adapter in (("the model's adapter", model.peft_config[own[0]]), ("peft_config", config)):
        if not _is_plain(adapter):
            raise ValueError(
                f"{side} is {_kind(adapter)}, and a second adapter is added to plain LoRA only; leave peft_config out "
                "to train the model's own adapter further, or merge it first: model.merge_and_unload()"
            )
    _refuse_not_joinable(model, own)
    taken = sum(name.startswith(SECOND) for name in model.peft_config)
    name = f"{SECOND}{taken + 1}" if taken else SECOND
    model.add_adapter(name, config)
    try:
        _refuse_not_joinable(model, [name])
    except ValueError:
        model.delete_adapter(name)
        raise
    activate(model, [*own, name])


def activate(model: Any, names: list[str]) -> None:
    """Make the adapters active, of which the last learns."""
    model.base_model.set_adapter(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(f".{names[-1]}." in name)


@contextmanager
def only_active(model: Any, names: list[str]) -> Iterator[None]:
    """Let only these adapters take part for a while; what learns is as before afterwards."""
    active, learning = list(model.active_adapters), [parameter.requires_grad for parameter in model.parameters()]
    model.base_model.set_adapter(names)
    try:
        yield
    finally:
        model.base_model.set_adapter(active)
        for parameter, learns in zip(model.parameters(), learning, strict=True):
            parameter.requires_grad_(learns)


def save_as_one(model: Any, folder: Path, *, writes: bool = True) -> None:
    """Write the sum of the active LoRA adapters as one adapter of the bare base, in place of each: ranks add up.

    Every process of a sharded model must call it, and one of them `writes`.
    """
    names = list(model.active_adapters)
    first = model.peft_config[names[0]]
    layers = {name: part for name, part in model.base_model.model.named_modules() if isinstance(part, LoraLayer)}
    rank = max(sum(part.r.get(name, 0) for name in names) for part in layers.values())  # rank_pattern may raise it
    weights = {}
    for layer, part in layers.items():
        down, up = _joined(part, names, rank)
        weights[f"base_model.model.{layer}.lora_A.weight"] = down
        weights[f"base_model.model.{layer}.lora_B.weight"] = up
    if not writes:
        return
    config = replace(
        first, r=rank, lora_alpha=rank, target_modules=set(layers), exclude_modules=None, rank_pattern={},
        alpha_pattern={}, use_rslora=False, lora_dropout=0.0, layers_to_transform=None, layers_pattern=None,
        inference_mode=True,
    )  # fmt: skip
    config.save_pretrained(str(folder))
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)  # where save_pretrained puts any but the first


def _joined(layer: Any, names: list[str], rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A and B of the sum of a layer's adapters, filled up with zeros where it lacks one of them."""
    present = [name for name in names if name in layer.lora_A]
    down = torch.cat([whole(layer.lora_A[name].weight.detach()) * layer.scaling[name] for name in present])
    up = torch.cat([whole(layer.lora_B[name].weight.detach()) for name in present], dim=1)
    missing = rank - len(down)
    padded = nn.functional.pad(down, (0, 0, 0, missing)), nn.functional.pad(up, (0, missing))
    return padded[0].cpu().contiguous(), padded[1].cpu().contiguous()


def _refuse_not_joinable(model: Any, names: list[str]) -> None:
    """Raise ValueError for a layer where one of these adapters is no pair of matrices on a linear layer."""
    for place, part in model.base_model.model.named_modules():
        if not isinstance(part, LoraLayer):
            continue
        matrices: Any = part.lora_A
        present = {name for kind in part.adapter_layer_names for name in getattr(part, kind)}
        pairs = {name for name, matrix in matrices.items() if isinstance(matrix, nn.Linear)} - {*part.lora_variant}
        for name in names:
            if name in present - pairs:
                raise ValueError(
                    f"the adapter {name} changes {place} otherwise than by two matrices on a linear layer, so it "
                    "cannot be saved as one with another; leave that layer out of target_modules, leave peft_config "
                    "out to train the model's own adapter further, or merge it first: model.merge_and_unload()"
                )


def _is_plain(config: Any) -> bool:
    return (
        type(config) is LoraConfig
        and config.bias == "none"
        and not (config.use_dora or config.modules_to_save or getattr(config, "lora_bias", False))
        and config.init_lora_weights in FRESH_STARTS
        and not getattr(config, "target_parameters", None)
        and not getattr(config, "trainable_token_indices", None)
    )


def _kind(config: Any) -> str:
    name = getattr(config.peft_type, "value", str(config.peft_type))
    return (
        name
        if type(config) is not LoraConfig
        else "LoRA with DoRA, a bias, saved modules or tokens, or a start of its own"
    )
