"""Directional ablation: a copy of a model without one direction, the control for claims that separation is safety.

Source: Arditi et al. 2024, arXiv 2406.11717, section 2.4 and appendix E (weight orthogonalisation).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from divalign.core.directions import project_out
from divalign.lm.backbone import backbone_of

# What writes to the residual stream in a block, attention first: Llama's names (Qwen, Mistral, Gemma, Phi3, Olmo too)
# and GPT-NeoX'.
WRITERS = (("self_attn.o_proj", "mlp.down_proj"), ("attention.dense", "mlp.dense_4h_to_h"))
# Norms between a writer and the stream, where a block has them (Gemma 2 and 3, Olmo 2).
NORMS_AFTER = ("post_attention_layernorm", "post_feedforward_layernorm")


@torch.no_grad()
def abliterated(model: Any, direction: Float[Tensor, " d"]) -> Any:
    """Return a copy of a causal language model whose residual stream has no component along `direction`.

    The embedding and every matrix and bias that writes to the residual stream are made orthogonal to the direction, so
    it is absent at every layer before the final norm. Where a norm with weights w stands between a matrix and the
    stream, the matrix is made orthogonal to w times the direction, so that the norm's output is orthogonal to the
    direction. A head tied to the embedding is untied and stays unchanged. An adapter is merged first.

    Raises ValueError for an architecture whose writers are not known, and a direction of another width.
    """
    changed = copy.deepcopy(model)
    if hasattr(changed, "merge_and_unload"):
        changed = changed.merge_and_unload()
    _untie(changed)
    embedding = changed.get_input_embeddings()
    embedding.weight.copy_(project_out(embedding.weight, direction))
    for writer, norm in _writers(backbone_of(changed)):
        ablated = direction if norm is None else _weights_of(norm) * direction.to(norm.weight)
        writer.weight.copy_(project_out(writer.weight, ablated, axis=0))
        if writer.bias is not None:
            writer.bias.copy_(project_out(writer.bias, ablated))
    return changed


def _untie(model: Any) -> None:
    """Untie the head from the embedding: ablating it would change how the stream is read, not what it holds."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is embedding.weight:
        head.weight = nn.Parameter(embedding.weight.clone())
        model.config.tie_word_embeddings = False


def _writers(backbone: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every matrix that writes to the residual stream, with the norm behind it or None."""
    blocks = _blocks(backbone)
    names = next((names for names in WRITERS if all(_part(blocks[0], name) is not None for name in names)), None)
    if names is None:
        supported = " or ".join(", ".join(pair) for pair in WRITERS)
        raise ValueError(f"{type(backbone).__name__}: its blocks have none of {supported}; add their names to WRITERS")
    for block in blocks:
        # Llama too calls a norm post_attention_layernorm, but that one reads the stream.
        sandwich = _part(block, NORMS_AFTER[1]) is not None
        for name, norm in zip(names, NORMS_AFTER, strict=True):
            yield _part(block, name), _part(block, norm) if sandwich else None


def _blocks(backbone: Any) -> list[Any]:
    lists = [part for part in backbone.modules() if isinstance(part, nn.ModuleList)]
    count = backbone.config.get_text_config().num_hidden_layers
    candidates = [blocks for blocks in lists if len(blocks) == count]
    if len(candidates) != 1:
        raise ValueError(f"{type(backbone).__name__}: got {len(candidates)} lists of {count} blocks, expected one")
    return list(candidates[0])


def _part(block: Any, name: str) -> Any:
    for step in name.split("."):
        block = getattr(block, step, None)
    return block


def _weights_of(norm: Any) -> Tensor:
    """Return a norm's weights as its output for ones, since Gemma's norms store their weights minus one."""
    return norm(torch.ones_like(norm.weight))
