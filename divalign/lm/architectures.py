"""Architectures of hub models that can be built without the hub: their dimensions, and small models of the same kind.

The dimensions are those of each model's config.json on the hub, as far as they decide sizes; the parameter counts that
they give are tested against the published ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from divalign.lm.quiet import quietly

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.2-1B": {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
        "max_position_embeddings": 131072, "tie_word_embeddings": True,
    },
    "ContextualAI/archangel_sft_llama7b": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000,
        "max_position_embeddings": 2048, "tie_word_embeddings": False,
    },
    "google/gemma-2-2b": {
        "model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000,
        "max_position_embeddings": 8192, "sliding_window": 4096, "query_pre_attn_scalar": 256,
        "tie_word_embeddings": True,
    },
    "mistralai/Mistral-7B-v0.1": {
        "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000,
        "max_position_embeddings": 32768, "sliding_window": 4096, "tie_word_embeddings": False,
    },
    "Qwen/Qwen2.5-1.5B": {
        "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
        "max_position_embeddings": 131072, "tie_word_embeddings": True,
    },
}  # fmt: skip
HEADS = 4  # of a small model, each of `HEAD` dimensions
HEAD = 16
CONTEXT = 2048  # at most, of a small model: positions are computed and cost nothing
SPREAD = 0.2  # standard deviation of a small model's weights: its states then depend on the prompt
WINDOW = 16  # a small model's sliding window, shorter than its conversations


def known_config(source: str) -> Any | None:
    """Return transformers' configuration of a model in `ARCHITECTURES`, None of any other."""
    if source not in ARCHITECTURES:
        return None
    return _config(ARCHITECTURES[source])


def write_random_model(source: str, folder: Path, *, tokenizer: Path, seed: int = 0) -> Path:
    """Write a model of the architecture of `source`, of two small layers with random weights, and return its folder.

    Layer kinds, grouped attention, tied embeddings and sliding windows stay; `tokenizer` is the folder of the tokenizer
    that it gets. A folder that holds a model already is left as it is.

    Raises ValueError for a model whose dimensions are not known here.
    """
    if source not in ARCHITECTURES:
        raise ValueError(f"the dimensions of {source!r} are not known; known: {', '.join(ARCHITECTURES)}")
    if not (folder / "model.safetensors").is_file():
        with quietly(), torch.random.fork_rng():
            words = AutoTokenizer.from_pretrained(str(tokenizer))
            torch.manual_seed(seed)
            special = {name: getattr(words, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
            auto: Any = AutoModelForCausalLM
            model = auto.from_config(_config({**_small(ARCHITECTURES[source]), "vocab_size": len(words), **special}))
            words.save_pretrained(folder)
            model.save_pretrained(folder)
    return folder


def _small(dimensions: dict[str, Any]) -> dict[str, Any]:
    groups = dimensions["num_attention_heads"] // dimensions["num_key_value_heads"]
    changes = {
        "hidden_size": HEADS * HEAD,
        "intermediate_size": 2 * HEADS * HEAD,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": max(1, HEADS // groups),
        "head_dim": HEAD,
        "max_position_embeddings": min(CONTEXT, dimensions["max_position_embeddings"]),
        "initializer_range": SPREAD,
    }
    window = {"sliding_window": WINDOW} if "sliding_window" in dimensions else {}
    scale = {"query_pre_attn_scalar": HEAD} if "query_pre_attn_scalar" in dimensions else {}
    return {**dimensions, **changes, **window, **scale}


def _config(dimensions: dict[str, Any]) -> Any:
    options = dict(dimensions)
    return AutoConfig.for_model(options.pop("model_type"), **options)
