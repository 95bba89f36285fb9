"""Log-probabilities of responses under a model, through the model's own forward.

`attach` teaches a causal LM more keywords: called with a `Layout`'s inputs it returns the log-probability of each
response, with `prompt_ends` the last layer's states there too, and never makes a prompt's logits. The extra path goes
through `model(...)`, so that adapters, DistributedDataParallel and FSDP wrappers see an ordinary forward.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from divalign.core.logprobs import LOGITS_AT_ONCE, Head, LinearHead, response_log_probs
from divalign.data.batching import Encoded, by_length
from divalign.lm.backbone import backbone_of
from divalign.lm.decoding import evaluating
from divalign.lm.layout import Layout, attention, block_attention, lay_out
from divalign.lm.memory import halving

logger = logging.getLogger(__name__)
IN_THE_CACHE = ("PREFIX_TUNING", "CARTRIDGE")  # adapters of the prompt that leave the tokens where they are
ALIBI = ("bloom",)  # whose configuration does not say so; MPT's and Falcon's do
NOT_WINDOWS = ("expert", "pattern", "layers")  # num_local_experts; which layers a window of another name is in


@dataclass
class ScoredOutput(ModelOutput):
    """What an attached model returns; FSDP finds the tensors in subclasses of ModelOutput.

    `log_probs` of each response of a batch, in nats; `prompt_states`, where they are asked for, of the prompts' ends.
    """

    log_probs: Any = None
    prompt_states: Any = None


def attach(model: Any) -> Any:
    """Let `model(**layout.inputs()).log_probs` give each response's log-probability; return the model.

    Whether backbone plus head equal the model's own logits is tried once on four tokens; an architecture that does
    more to its logits than is known here is scored from its full logits, and a line in the log says so.

    Raises ValueError for an adapter that puts tokens of its own before the text: they would move every position.
    """
    _check_adapter(model)
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    if hasattr(causal, "forward_without_scores"):
        return model
    fast = _equals_logits(causal, _head(causal))
    if not fast:
        logger.warning(
            "%s: scored from full logits, since its head does more than is known here", type(causal).__name__
        )

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if "sources" in kwargs:
            return _scored(self, *args, fast=fast, **kwargs)
        return self.forward_without_scores(*args, **kwargs)

    # others read the names that forward takes off its signature
    forward.__signature__ = inspect.signature(type(causal).forward)  # type: ignore[attr-defined]
    causal.forward_without_scores = causal.forward
    causal.forward = MethodType(forward, causal)  # a method, which a deep copy binds to itself: it has its own weights
    return model


def _check_adapter(model: Any) -> None:
    config = getattr(model, "active_peft_config", None)
    if config is None or not config.is_prompt_learning or config.peft_type in IN_THE_CACHE:
        return
    if model.has_active_enabled_adapter:
        raise ValueError(
            f"{config.peft_type.value} puts tokens of its own before every text, so responses cannot be scored where "
            "they stand; expected an adapter that leaves the text alone: use LORA or PREFIX_TUNING"
        )


def _scored(
    causal: Any, *args: Any, sources: Tensor, targets: Tensor, owners: Tensor, responses: int, fast: bool, **kwargs: Any
) -> Any:
    ends = kwargs.pop("prompt_ends", None)
    if "groups" in kwargs:
        kwargs["attention_mask"] = _mask(causal, kwargs.pop("groups"), kwargs.pop("parts"))
    if fast:
        states = hidden = backbone_of(causal)(*args, **kwargs, use_cache=False).last_hidden_state
    else:
        every = {} if ends is None else {"output_hidden_states": True}
        output = causal.forward_without_scores(*args, **kwargs, **every, use_cache=False)
        hidden, states = output.logits, output.logits if ends is None else output.hidden_states[-1]
    used, size = hidden.flatten(0, 1).index_select(0, sources), causal.config.get_text_config().vocab_size

    def score(scored: Tensor, head: Head) -> Tensor:
        return response_log_probs(scored, targets, owners, responses, head, chunk=max(1, LOGITS_AT_ONCE // size))

    at_ends = {} if ends is None else {"prompt_states": states.flatten(0, 1).index_select(0, ends)}
    return ScoredOutput(log_probs=_with_head(causal, used, score) if fast else score(used, _as_is), **at_ends)


def _with_head(causal: Any, states: Tensor, score: Callable[[Tensor, Head], Tensor]) -> Tensor:
    """Return `score` of the states and the head; where the head's weight is sharded, from within its module's call.

    FSDP and ZeRO-3 gather a weight when its module is called, and every process must do so equally often. So all
    chunks of the logits are made in one call of the module, whose forward is `score` for as long as that takes.
    """
    project = causal.get_output_embeddings()
    if not _is_sharded(project):
        return score(states, _head(causal))
    forward, replaced = project.forward, vars(project).get("forward")
    project.forward = lambda hidden: score(hidden, _head(causal, forward))
    try:
        return project(states)
    finally:
        if replaced is None:
            del project.forward
        else:
            project.forward = replaced


def _is_sharded(project: Any) -> bool:
    from torch.distributed.fsdp import FSDPModule

    return isinstance(project, FSDPModule) or hasattr(getattr(project, "weight", None), "ds_id")  # ZeRO-3


def can_share(model: Any) -> bool:
    """Tell whether responses may share their prompt's row: whether the attention mask alone decides what a token sees.

    Not with sliding windows, which count the tokens between, nor with a bias on positions in the attention, nor with
    attention that takes no mask or recurrent layers; beyond what the configuration says, a few responses are scored
    both ways once for each device and precision.
    """
    causal = attach(model).get_base_model() if hasattr(model, "get_base_model") else attach(model)
    if not hasattr(causal, "shares_prompts"):
        causal.shares_prompts = {}
    device = model.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.dtype
    if (device, dtype) not in causal.shares_prompts:
        causal.shares_prompts[device, dtype] = _may_share(causal) and _scores_alike(model, dtype)
    return causal.shares_prompts[device, dtype]


def has_position_bias(config: Any) -> bool:
    """Tell whether a text model's configuration names a bias on positions in its attention: ALiBi, relative positions.

    Such a bias counts columns of a row, and in a shared row they are not the positions in the text.
    """
    if config.model_type in ALIBI:
        return True
    nested = [value for value in config.to_dict().values() if isinstance(value, dict)]
    return any(
        ("alibi" in name and value is True)
        or (name.startswith(("relative_attention", "relative_position", "rel_pos")) and value not in (None, False, 0))
        or ("position" in name and isinstance(value, str) and ("relative" in value or "alibi" in value))
        for settings in (config.to_dict(), *nested)
        for name, value in settings.items()
        if isinstance(name, str)  # and not a number of id2label
    )


def is_windowed(config: Any) -> bool:
    """Tell whether a text model's configuration names attention to what is near alone, under whatever name.

    Any number or list called a window or local counts: to refuse costs time, and the trial of `can_share` is shorter
    than every window.
    """
    kinds = {*(getattr(config, "layer_types", None) or ()), *(getattr(config, "attention_layers", None) or ())}
    if not kinds <= {"full_attention", "global"}:
        return True
    if not getattr(config, "use_sliding_window", True):
        return False
    return any(
        ("window" in name or "local" in name) and not any(word in name for word in NOT_WINDOWS) and _is_set(value)
        for name, value in config.to_dict().items()
    )


def _is_set(value: Any) -> bool:
    numbers = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(number, int) and not isinstance(number, bool) and number > 0 for number in numbers)


def _may_share(causal: Any) -> bool:
    config = causal.config.get_text_config()
    takes_mask = config._attn_implementation in ("sdpa", "eager", "flex_attention")
    return takes_mask and not is_windowed(config) and not has_position_bias(config)


@torch.no_grad()
def _scores_alike(model: Any, dtype: torch.dtype) -> bool:
    """Tell whether the shared layout gives what rows of their own give, up to what padding alone changes.

    A wrong mask or a bias on columns moves these sums by nats, since responses stand many columns from where they
    would alone; rounding in bfloat16 by .02 nats in tiny models, and by as much in the padded layout in large ones.
    """
    rows = _trial_rows(model.config.get_text_config().vocab_size)
    layouts = [lay_out(rows, 0), lay_out(rows, 0, share=True)]
    try:
        with evaluating(model):
            alone = torch.cat([_trial(model, lay_out([row], 0)) for row in rows])
            padded, shared = (_trial(model, layout) for layout in layouts)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        logger.info("%s takes no shared prompts: %s", type(model).__name__, error)
        return False
    rounding = max(4 * (padded - alone).abs().max().item(), 1e-3 if dtype == torch.float32 else 0.05)
    return (shared - alone).abs().max().item() <= rounding


def _trial(model: Any, layout: Layout) -> Tensor:
    return model(**_on(model.device, layout.inputs())).log_probs.float()


def _trial_rows(vocabulary: int) -> list[Encoded]:
    """Return three responses to one prompt and two to another, of known tokens and unequal lengths."""

    def tokens(start: int, count: int) -> list[int]:
        return [(7 * start + 3 * index * index + index) % min(vocabulary, 200) for index in range(count)]

    first, second = tokens(1, 12), tokens(4, 10)
    sizes = [(first, 24), (first, 20), (first, 16), (second, 18), (second, 14)]
    return [Encoded(prompt, tokens(5 + number, size)) for number, (prompt, size) in enumerate(sizes)]


def _mask(causal: Any, groups: Tensor, parts: Tensor) -> Any:
    """Return the shared layout's attention in the form that the model's attention takes."""
    if causal.config.get_text_config()._attn_implementation == "flex_attention":
        return block_attention(groups, parts)
    allowed = attention(groups, parts)
    if causal.config.get_text_config()._attn_implementation != "eager":
        return allowed
    lowest = torch.finfo(causal.dtype).min
    return torch.zeros_like(allowed, dtype=causal.dtype).masked_fill(~allowed, lowest)


def _on(device: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def _as_is(rows: Tensor) -> Tensor:
    return rows


@torch.no_grad()
def sequence_log_probs(
    model: Any,
    rows: Sequence[Encoded],
    pad_id: int,
    *,
    batch_size: int = 64,
    on_progress: Callable[[int], None] | None = None,
    in_step: bool = False,
) -> Float[np.ndarray, " n"]:
    """Return log p(response | prompt) of each row in nats, summed over the response's tokens.

    Without gradients, and without dropout in a model that is in training. Batches halve when memory runs out, except
    `in_step`, where the processes that hold a sharded model must run equally many.
    """
    share, out = can_share(model), np.zeros(len(rows))

    def compute(indices: list[int]) -> np.ndarray:
        layout = lay_out([rows[index] for index in indices], pad_id, share=share)
        with evaluating(model):
            return model(**_on(model.device, layout.inputs())).log_probs.cpu().double().numpy()

    lengths = [len(row.prompt_ids) + len(row.response_ids) for row in rows]
    for indices, log_probs in halving(by_length(lengths, batch_size), compute, item="row", divisible=not in_step):
        out[indices] = log_probs
        if on_progress:
            on_progress(len(indices))
    return out


def _head(causal: Any, forward: Head | None = None) -> Head:
    """Return hidden states -> logits with what the known architectures do to their logits after the matrix.

    Asked at every forward, since an adapter, a hook or a sharded weight can come between two of them. `forward` is the
    module's own where this is asked within its call.
    """
    config, project = causal.config.get_text_config(), causal.get_output_embeddings()
    softcap = getattr(config, "final_logit_softcapping", None)
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    if softcap is None and _is_matrix(project, called=forward is not None):
        return LinearHead(project.weight, scale)
    apply: Head = forward or project

    def head(hidden: Tensor) -> Tensor:
        logits = apply(hidden)
        logits = logits if scale == 1 else logits * scale  # a pass over the largest array there is
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    return head


def _is_matrix(project: Any, *, called: bool = False) -> bool:
    """Tell whether a layer is its whole weight, here and now, and nothing besides; within its call, hooks have run."""
    hooked = not called and ("forward" in vars(project) or project._forward_hooks or project._forward_pre_hooks)
    kind = type(project).__bases__[-1] if called else type(project)  # FSDP derives a class of its own from nn.Linear
    return (
        nn.Linear in (kind, type(project))
        and project.bias is None
        and not hooked
        and type(project.weight) is nn.Parameter
        and project.weight.shape == (project.out_features, project.in_features)
    )


@torch.no_grad()
def _equals_logits(causal: Any, head: Head) -> bool:
    ids = torch.arange(4, device=causal.device)[None]
    with evaluating(causal):
        expected = causal(input_ids=ids, use_cache=False).logits.float()
        got = head(backbone_of(causal)(input_ids=ids, use_cache=False).last_hidden_state).float()
    return got.shape == expected.shape and torch.allclose(got, expected, rtol=1e-3, atol=1e-3)
