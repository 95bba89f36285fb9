"""Directional ablation: a copy of a model without one direction, the control for claims that separation is safety.

Source: Arditi et al. 2024, arXiv 2406.11717, section 2.4 and appendix E (weight orthogonalisation).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from divalign.core.directions import project_out
from divalign.lm.backbone import backbone_of
from divalign.lm.decoding import evaluating

# The matrices of a block that write to the residual stream, by their last names: Llama's (Qwen, Mistral, Gemma, Phi3,
# Olmo, DeepSeek and mixtures of experts too), GPT-NeoX', and what adds Gemma 4's per-layer embeddings.
WRITERS = ("o_proj", "down_proj", "dense", "dense_4h_to_h", "per_layer_projection")
# Those that do not, by any of their names: they read the stream or work within a layer.
READERS = (
    *("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa"),
    *("kv_b_proj", "gate_proj", "up_proj", "gate_up_proj", "dense_h_to_4h", "gate", "router", "shared_expert_gate"),
    "per_layer_input_gate",
)
# Norms between a writer and the stream, innermost first, by the part of the block that holds the writer (Gemma 2 to 4,
# Olmo 2, GLM-4). In a mixture of experts of Gemma 4 two stand one behind the other.
NORMS_AFTER = {
    "self_attn": ("post_attention_layernorm", "post_self_attn_layernorm"),
    "mlp": ("post_feedforward_layernorm_1", "post_feedforward_layernorm", "post_mlp_layernorm"),
    "experts": ("post_feedforward_layernorm_2", "post_feedforward_layernorm"),
    "per_layer_projection": ("post_per_layer_input_norm",),
}
TOKENS = 8  # on which a copy is tried


class Writer(NamedTuple):
    """A matrix [..., out, in] or [..., in, out] whose outputs, on `axis`, go to the residual stream through `norms`."""

    weight: Tensor
    bias: Tensor | None
    axis: int
    norms: list[Any]


class Component(NamedTuple):
    """The root mean square of a block's output along a direction, and along the typical axis."""

    along: float
    typical: float


@torch.no_grad()
def abliterated(model: Any, direction: Float[Tensor, " d"]) -> Any:
    """Return a copy of a causal language model whose residual stream has no component along `direction`.

    The embedding and every matrix and bias that writes to the residual stream, of experts too, are made orthogonal to
    the direction, so it is absent at every layer before the final norm. Where a norm with weights w stands between a
    matrix and the stream, the matrix is made orthogonal to w times the direction, so that the norm's output is
    orthogonal to the direction. A head tied to the embedding is untied and stays unchanged. An adapter is merged first.
    The copy is tried on a few tokens.

    Raises ValueError for a direction of another width, for an architecture with a matrix that is not known to write to
    the stream or not to, and for one that writes along the direction all the same.
    """
    changed = copy.deepcopy(model)
    if hasattr(changed, "merge_and_unload"):
        changed = changed.merge_and_unload()
    _untie(changed)
    embedding, backbone = changed.get_input_embeddings(), backbone_of(changed)
    ablated = project_out(embedding.weight, direction)
    blocks = _blocks(backbone)
    places = [f"{type(backbone).__name__}, block {number}" for number in range(len(blocks))]
    writers = [_writers(*pair, embedding.weight.shape[-1]) for pair in zip(blocks, places, strict=True)]
    before = _components(backbone, blocks, direction)
    embedding.weight.copy_(ablated)
    for writer in chain(*writers):
        _ablate(writer, direction)
    after = _components(backbone, blocks, direction)
    _check_components(places, before, after, math.sqrt(torch.finfo(backbone.dtype).eps))
    return changed


def _ablate(writer: Writer, direction: Float[Tensor, " d"]) -> None:
    for norm in writer.norms:
        direction = _weights_of(norm) * direction.to(norm.weight)
    for matrix in writer.weight[None] if writer.weight.ndim == 2 else writer.weight:  # in float64 one expert at a time
        matrix.copy_(project_out(matrix, direction, axis=writer.axis))
    if writer.bias is not None:
        writer.bias.copy_(project_out(writer.bias, direction))


def _untie(model: Any) -> None:
    """Untie the head from the embedding: ablating it would change how the stream is read, not what it holds."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is embedding.weight:
        head.weight = nn.Parameter(embedding.weight.clone())
        model.config.tie_word_embeddings = False


def _writers(block: Any, place: str, width: int) -> list[Writer]:
    """Return every matrix of a block that writes to the residual stream, of every expert too.

    Each block is looked at by itself: those of one model may differ (the first of DeepSeek's hold no experts).
    """
    writers = []
    for name, weight in block.named_parameters():
        names = name.removesuffix(".weight").split(".")
        outputs = weight.shape[:1] if weight.ndim == 2 else weight.shape[1:]  # an expert's may be on either axis
        if names[-1] in WRITERS and weight.ndim > 1:
            writers.append(_writer(block, names, weight, place, width))
        elif weight.ndim > 1 and width in outputs and not set(names) & set(READERS):
            raise ValueError(
                f"{place}: {'.'.join(names)} gives vectors as wide as the residual stream, and is known neither to "
                "write to it nor not to; add its name to WRITERS or READERS"
            )
    if not writers:
        raise ValueError(f"{place}: it has none of {', '.join(WRITERS)}; add their names to WRITERS")
    return writers


def _writer(block: Any, names: Sequence[str], weight: Tensor, place: str, width: int) -> Writer:
    owner = block.get_submodule(".".join(names[:-1]))
    linear = getattr(owner, names[-1]) is not weight
    # A layer's weight is [out, in], and so are the experts' of most families; a few of theirs are transposed.
    transposed = False if linear else getattr(owner, "is_transposed", None)
    possible = (-2, -1) if transposed is None else (-1 if transposed else -2,)
    axes = [axis for axis in possible if weight.shape[axis] == width]
    if len(axes) != 1:
        raise ValueError(
            f"{place}: {'.'.join(names)} is {tuple(weight.shape)}, of which not exactly one axis can be the residual "
            f"stream's {width}; load the weights unquantised, or leave this model out"
        )
    bias = getattr(owner, names[-1]).bias if linear else getattr(owner, f"{names[-1]}_bias", None)
    return Writer(weight, bias, axes[0], _norms(block, names[0]))


def _norms(block: Any, part: str) -> list[Any]:
    """Return the norms behind a part of a block. Llama too has a post_attention_layernorm, which reads the stream."""
    sandwich = hasattr(block, "post_feedforward_layernorm")
    names = [name for name in NORMS_AFTER.get(part, ()) if sandwich or name != "post_attention_layernorm"]
    return [getattr(block, name) for name in names if hasattr(block, name)]


def _components(backbone: Any, blocks: Sequence[Any], direction: Float[Tensor, " d"]) -> list[Component]:
    components: list[Component] = []

    def read(module: Any, arguments: Any, output: Any) -> None:
        states = (output[0] if isinstance(output, tuple) else output).float()
        along = states @ nn.functional.normalize(direction.to(states), dim=0)
        components.append(Component(*(values.square().mean().sqrt().item() for values in (along, states))))

    handles = [block.register_forward_hook(read) for block in blocks]
    try:
        with evaluating(backbone):
            backbone(input_ids=torch.arange(TOKENS, device=backbone.device)[None], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return components


def _check_components(
    places: Sequence[str], before: Sequence[Component], after: Sequence[Component], rounding: float
) -> None:
    """Raise ValueError where a block's output still has a component along the direction, beyond rounding.

    Rounding is as large as the stream has been: what it left along the direction where the stream was large (in
    SmolLM2's middle blocks, eighty times what comes out) is still there where the last block has made it small.
    """
    largest = 0.0
    for place, original, rest in zip(places, before, after, strict=True):
        largest = max(largest, original.along, rest.typical)
        if not rest.along <= rounding * largest:
            raise ValueError(
                f"{place}: it writes along the direction all the same ({rest.along:.2g}, before {original.along:.2g}); "
                "it has writers or norms of a kind that is not known (WRITERS, NORMS_AFTER)"
            )


def _blocks(backbone: Any) -> list[Any]:
    lists = [part for part in backbone.modules() if isinstance(part, nn.ModuleList)]
    count = backbone.config.get_text_config().num_hidden_layers
    candidates = [blocks for blocks in lists if len(blocks) == count]
    if len(candidates) != 1:
        raise ValueError(f"{type(backbone).__name__}: got {len(candidates)} lists of {count} blocks, expected one")
    return list(candidates[0])


def _weights_of(norm: Any) -> Tensor:
    """Return a norm's weights as its output for ones, since Gemma's norms store their weights minus one."""
    return norm(torch.ones_like(norm.weight))
