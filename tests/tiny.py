"""Tiny random language models of many architectures and a byte-level tokenizer, made in memory from a seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<s>", "</s>", "<user>", "<assistant>", "<system>", "<end>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message.role }}>{{ message.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
# The sliding windows are shorter than the tests' prompts, so that a mask that forgets them is caught.
GEMMA = {**GROUPED, "sliding_window": 8, "query_pre_attn_scalar": 8}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Llama": {"num_key_value_heads": 2},
    "Qwen2": {"num_key_value_heads": 2},
    "Qwen3": GROUPED,
    "Mistral": {"num_key_value_heads": 2, "sliding_window": 8},
    "Gemma2": GEMMA,
    "Gemma3": {**GEMMA, "layer_types": ["sliding_attention", "full_attention"]},
    "GPTNeoX": {},
    "Phi3": {"num_key_value_heads": 2},
    "Olmo2": {"num_key_value_heads": 2},
}
# Of experts and of unlike blocks, tried where a family's parts matter: dense and sparse ones, chunked and full
# attention, experts whose matrices are square and transposed (GptOss), per-layer embeddings (Gemma4).
SPARSE: dict[str, dict[str, Any]] = {
    "Llama4": {
        **GROUPED,
        "intermediate_size_mlp": 64,
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 2,
        "attention_chunk_size": 64,
        "layer_types": ["chunked_attention", "full_attention"],
    },
    "DeepseekV3": {
        "num_key_value_heads": 4,
        "q_lora_rank": 12,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
        "first_k_dense_replace": 1,
        "n_routed_experts": 8,
        "n_group": 2,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 20,
    },
    "GptOss": {**GROUPED, "intermediate_size": 32, "num_local_experts": 4, "num_experts_per_tok": 2},
    "Gemma4": {
        **GROUPED,
        "global_head_dim": 8,
        "num_global_key_value_heads": 2,
        "num_kv_shared_layers": 0,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "hidden_size_per_layer_input": 6,
        "vocab_size_per_layer_input": 263,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 20,
    },
}
CONFIGS: dict[str, str] = {"Gemma3": "Gemma3TextConfig", "Gemma4": "Gemma4TextConfig", "Llama4": "Llama4TextConfig"}


def tiny_tokenizer(*, reverse: bool = False) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per byte, seven special tokens and a chat template that writes its own BOS.

    With `reverse` the bytes have other ids.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=reverse)
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *letters])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=list(SPECIAL[3:]),
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def begins_with_bos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Let the tokenizer put BOS before plain text, as Llama's and Gemma's do, and return it."""
    number = tokenizer.convert_tokens_to_ids("<s>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", number)]
    )
    return tokenizer


def tiny_model(architecture: str = "Llama", *, seed: int = 0, **changes: Any) -> tuple[Any, PreTrainedTokenizerFast]:
    """Return a random model of two layers in evaluation mode, and its tokenizer. The global random state is kept."""
    tokenizer = tiny_tokenizer()
    config_class: Callable[..., Any] = getattr(transformers, CONFIGS.get(architecture, f"{architecture}Config"))
    model_class: Callable[..., Any] = getattr(transformers, f"{architecture}ForCausalLM")
    config = config_class(
        **{**SIZES, **{**ARCHITECTURES, **SPARSE}[architecture], **changes},
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config)
    return model.eval(), tokenizer


def save_tiny(architecture: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a tiny model and its tokenizer to `folder` as a checkpoint, and return the folder."""
    model, tokenizer = tiny_model(architecture, seed=seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
