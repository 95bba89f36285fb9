"""A model and its tokenizer, from a local folder or a hub id: safetensors only, no remote code unless asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from divalign.store import digest, folder_digest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Dtype = Literal["float32", "bfloat16", "float16"]

# Plain text turns, for tokenizers that come without a template (base models).
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}{{ eos_token or '' }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


class LM(NamedTuple):
    """A causal language model ready to score and to write.

    `digest` is the content hash of everything its output depends on: weights, adapter, template and dtype.
    """

    model: Any
    tokenizer: Any
    name: str
    digest: str


def load_lm(
    source: str,
    *,
    adapter: Path | None = None,
    dtype: Dtype = "float32",
    device: str = "cpu",
    revision: str | None = None,
    chat_template: str | None = None,
    trust_remote_code: bool = False,
    quantization_config: Any = None,
) -> LM:
    """Load a causal language model with its tokenizer, in evaluation mode.

    `source` is a folder or a hub id; `adapter` a LoRA folder to put on it; `chat_template` a jinja file, or "plain"
    for the built-in one, where the tokenizer's own is missing or not wanted; `quantization_config` transformers' own.

    Raises ValueError in one sentence where the folder, its weights, a chat template or a padding token is missing, or
    torch has no such device.
    """
    check_device(device)
    options = {"trust_remote_code": trust_remote_code, "revision": revision}
    _check_folder(source)
    try:
        with quietly():
            tokenizer = _tokenizer(source, adapter, **options)
            auto: Any = AutoModelForCausalLM
            extra = {} if quantization_config is None else {"quantization_config": quantization_config}
            model = auto.from_pretrained(source, dtype=DTYPES[dtype], use_safetensors=True, **options, **extra)
    except (ImportError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"cannot load the model {source!r}: {str(error).splitlines()[0]}") from error
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    _complete(tokenizer, source, chat_template)
    identity = digest(
        _weights_digest(source, model),
        adapter and folder_digest(adapter),
        dtype if quantization_config is None else [dtype, str(quantization_config)],
        tokenizer.chat_template,
    )
    # Quantised weights are where they belong already, and cannot be moved.
    return LM((model if quantization_config is not None else model.to(device)).eval(), tokenizer, source, identity)


def _tokenizer(source: str, adapter: Path | None, **options: Any) -> Any:
    """Return the tokenizer that was saved with the adapter, else the base's: training may have changed its template."""
    if adapter is not None and (adapter / "tokenizer_config.json").is_file():
        return AutoTokenizer.from_pretrained(str(adapter))
    return AutoTokenizer.from_pretrained(source, **options)


def check_device(device: str) -> None:
    """Raise ValueError, naming what torch has, where it cannot put a tensor on `device`."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        kind = torch.accelerator.current_accelerator()
        others = [f"{kind.type}:{number}" for number in range(torch.accelerator.device_count())] if kind else []
        raise ValueError(f"there is no device {device!r}; torch has {', '.join(['cpu', *others])} here") from error


@contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers' own bars and notes off the terminal, where the run draws its own; errors still show."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _weights_digest(source: str, model: Any) -> str:
    folder = Path(source)
    return folder_digest(folder) if folder.is_dir() else digest(source, getattr(model.config, "_commit_hash", None))


def _check_folder(source: str) -> None:
    """Tell apart, before transformers does it in a page of text, a missing folder and one without weights."""
    folder = Path(source)
    looks_local = source.startswith((".", "/", "~")) or folder.exists()
    if looks_local and not folder.is_dir():
        raise ValueError(
            f"no model folder at {source!r}; give a folder with config.json and *.safetensors, or a hub id"
        )
    if looks_local and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"the model folder {source!r} holds no *.safetensors weights; save the model with save_pretrained "
            "(pickled weights, *.bin or *.pt, are not read: they can run code)"
        )


def _complete(tokenizer: Any, source: str, chat_template: str | None) -> None:
    """Give the tokenizer its padding token and its chat template, or say what is missing."""
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                f"the tokenizer of {source!r} has neither a padding nor an end token; set pad_token and save it"
            )
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked everywhere, so the choice changes no number
    if chat_template == "plain":
        tokenizer.chat_template = PLAIN_TEMPLATE
    elif chat_template is not None:
        if not Path(chat_template).is_file():
            raise ValueError(
                f"no chat template at {chat_template!r}; give a jinja file, or 'plain' for the built-in one"
            )
        tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer of {source!r} has no chat template, which says how turns are written; "
            "set model.chat_template to a jinja file, or to 'plain' for the built-in one"
        )
