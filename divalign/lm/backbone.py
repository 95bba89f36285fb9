"""The module below a model's head: what makes hidden states of tokens."""

from __future__ import annotations

from typing import Any


def refuse_prefix(model: Any) -> None:
    """Raise ValueError for an active adapter that puts states before the text, as scoring alone reads them."""
    config = getattr(model, "active_peft_config", None)
    if config is not None and config.is_prompt_learning and model.has_active_enabled_adapter:
        raise ValueError(
            f"{config.peft_type.value} puts states of its own before every text: responses can be scored with them, "
            "and neither generated nor read for hidden states; use LORA"
        )


def backbone_of(model: Any) -> Any:
    """Return the module whose last hidden states the model's head reads; a model without a head is its own backbone.

    transformers' `base_model`, where that is a module of its own. Llama 4 and Mllama name an attribute there that they
    do not have, so that it is the whole model: then it is the part that holds the input embedding, or its backbone.
    """
    if model.base_model is not model:
        return model.base_model
    embedding = model.get_input_embeddings()
    parts = [part for part in model.children() if part is not embedding and embedding in list(part.modules())]
    return backbone_of(parts[0]) if parts and hasattr(parts[0], "base_model") else model
