"""What a model's configuration says of its size, without its weights: parameters by use, layers, widths."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from divalign.lm.architectures import known_config
from divalign.lm.gguf import readable_source
from divalign.lm.load import quietly, saved_tokenizer, template_text


class ModelShape(NamedTuple):
    """Sizes of a causal language model.

    `backbone` counts parameters that every token passes, `head` those of the output matrix, `parameters` all of them
    (a tied embedding once). `linear_sizes` sums inputs and outputs of the linear layers that a LoRA adapter goes on:
    the adapter has rank times as many parameters.
    """

    parameters: int
    backbone: int
    head: int
    linear_sizes: int
    layers: int
    width: int
    inner_width: int
    vocabulary: int
    context: int | None


def model_shape(source: str, *, revision: str | None = None, trust_remote_code: bool = False) -> ModelShape:
    """Return a model's sizes from config.json alone: its modules are built on the meta device, which holds no numbers.

    Of a model in `architectures.ARCHITECTURES` not even that is read, so that no network is needed.

    Raises ValueError where the folder or hub id has no configuration that transformers knows.
    """
    place = readable_source(source)
    try:
        with quietly(), torch.device("meta"):
            config = known_config(place) or AutoConfig.from_pretrained(
                place, revision=revision, trust_remote_code=trust_remote_code
            )
            auto: Any = AutoModelForCausalLM
            model = auto.from_config(config, trust_remote_code=trust_remote_code)
    except (ImportError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"cannot read the configuration of {source!r}: {str(error).splitlines()[0]}") from error
    text, head = config.get_text_config(), model.get_output_embeddings()
    outer = {id(parameter) for part in (model.get_input_embeddings(), head) if part for parameter in part.parameters()}
    linear = [part for part in model.modules() if isinstance(part, torch.nn.Linear) and part is not head]
    return ModelShape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        backbone=sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in outer),
        head=sum(parameter.numel() for parameter in head.parameters()) if head is not None else 0,
        linear_sizes=sum(part.in_features + part.out_features for part in linear),
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        inner_width=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        vocabulary=text.vocab_size,
        context=getattr(text, "max_position_embeddings", None),
    )


def read_tokenizer(
    source: str, *, adapter: Path | None = None, chat_template: str | None = None, **options: Any
) -> Any:
    """Return a model's tokenizer with the chat template that `load_lm` would give it, without the model.

    Raises ValueError where the folder or hub id has no tokenizer that transformers knows, or no file is the template.
    """
    try:
        with quietly():
            tokenizer = saved_tokenizer(readable_source(source), adapter, **options)
    except (ImportError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"cannot load the tokenizer of {source!r}: {str(error).splitlines()[0]}") from error
    if chat_template is not None:
        tokenizer.chat_template = template_text(chat_template, tokenizer)
    return tokenizer
