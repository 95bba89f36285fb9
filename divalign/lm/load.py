"""A model and its tokenizer, from a folder, a GGUF file or a hub id: no pickles, no remote code unless asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from divalign.limits import read_text
from divalign.lm.adapter_folder import check_adapter
from divalign.lm.endpoint import served_model
from divalign.lm.gguf import gguf_folder, is_gguf
from divalign.lm.gguf_header import read_header
from divalign.lm.model_folder import check_model
from divalign.lm.quiet import quietly
from divalign.store import digest, folder_digest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Dtype = Literal["float32", "bfloat16", "float16"]
Auto = Literal["auto"]

# Plain text turns, for tokenizers that come without a template (base models); see `plain_template`.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}{{ eos_token or '' }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


class LM(NamedTuple):
    """A causal language model with its tokenizer, in evaluation mode.

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
    dtype: Dtype | Auto = "float32",
    device: str = "cpu",
    revision: str | None = None,
    chat_template: str | None = None,
    trust_remote_code: bool = False,
    quantization_config: Any = None,
) -> LM:
    """Load a causal language model with its tokenizer, in evaluation mode.

    Args:
        source: a folder, a GGUF file (converted once, see `gguf_folder`) or a hub id.
        adapter: a LoRA folder to put on it.
        dtype: of the weights; "auto" as in `resolve`.
        device: torch's name, or "auto".
        revision: of a hub id.
        chat_template: a jinja file, or "plain" for `plain_template`, where the model's own is missing or not wanted.
        trust_remote_code: transformers' own.
        quantization_config: transformers' own.

    Raises ValueError in one sentence where the folder, its weights, a chat template or a padding token is missing, the
    GGUF file cannot be used, or torch has no such device.

    """
    device, dtype = resolve(device, dtype)
    options = {"trust_remote_code": trust_remote_code, "revision": revision}
    place = _place(source, chat_template, revision)
    if adapter is not None:
        check_adapter(adapter)
    try:
        with quietly():
            tokenizer = saved_tokenizer(place, adapter, **options)
            auto: Any = AutoModelForCausalLM
            extra = {} if quantization_config is None else {"quantization_config": quantization_config}
            model = auto.from_pretrained(place, dtype=DTYPES[dtype], use_safetensors=True, **options, **extra)
            if adapter is not None:
                model = PeftModel.from_pretrained(model, str(adapter))
    except (ImportError, OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ValueError(f"cannot load the model {source!r}: {str(error).splitlines()[0]}") from error
    _complete(tokenizer, source, chat_template)
    identity = digest(
        _weights_digest(place, model),
        adapter and folder_digest(adapter),
        dtype if quantization_config is None else [dtype, str(quantization_config)],
        tokenizer.chat_template,
    )
    # Quantised weights are where they belong already, and cannot be moved.
    return LM((model if quantization_config is not None else model.to(device)).eval(), tokenizer, source, identity)


def saved_tokenizer(source: str, adapter: Path | None, **options: Any) -> Any:
    """Return the tokenizer from its `tokenizer_place`; `options` are those of the base's."""
    place = tokenizer_place(source, adapter)
    own = {"trust_remote_code": False} if place != source else options
    return AutoTokenizer.from_pretrained(place, **own)


def tokenizer_place(source: str, adapter: Path | None) -> str:
    """Return where a model's tokenizer is: with its adapter, since training may change its template, or its base."""
    own = adapter is not None and (adapter / "tokenizer_config.json").is_file()
    return str(adapter) if own else source


class Placement(NamedTuple):
    """Where a model runs and in which numbers: what "auto" came to."""

    device: str
    dtype: Dtype


def resolve(device: str = "auto", dtype: Dtype | Auto = "auto") -> Placement:
    """Return the device and dtype that "auto" stands for on this machine; what is named stays as it is.

    The device is cuda, mps or cpu, the first that is there. The dtype is bfloat16 where the hardware computes in it (a
    GPU since NVIDIA's Ampere or AMD's MI200, a CPU with AMX or AVX512-BF16), else float32: elsewhere bfloat16 is
    emulated, slower than float32, or, on mps, native in some chips only.

    Raises ValueError where torch has no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    check_device(device)
    if dtype == "auto":
        dtype = "bfloat16" if _computes_in_bfloat16(torch.device(device).type) else "float32"
    return Placement(device, dtype)


def _computes_in_bfloat16(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    tests = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # private, so absent counts as no
    return kind == "cpu" and any(getattr(torch.cpu, test, bool)() for test in tests)


def _place(source: str, chat_template: str | None, revision: str | None) -> str:
    """Return what transformers loads: a folder or a hub id. A GGUF file is converted."""
    if not is_gguf(source):
        served_model(source)
        check_model(source, revision)
        return source
    if chat_template is None and not read_header(Path(source)).chat_template:
        raise ValueError(_no_template(source))
    return str(gguf_folder(Path(source)))


def check_device(device: str) -> None:
    """Raise ValueError, naming what torch has, where it cannot put a tensor on `device`."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        kind = torch.accelerator.current_accelerator()
        present = [f"{kind.type}:{number}" for number in range(torch.accelerator.device_count())] if kind else []
        raise ValueError(f"there is no device {device!r}; torch has {', '.join(['cpu', *present])} here") from error


def _weights_digest(source: str, model: Any) -> str:
    folder = Path(source)
    return folder_digest(folder) if folder.is_dir() else digest(source, getattr(model.config, "_commit_hash", None))


def _complete(tokenizer: Any, source: str, chat_template: str | None) -> None:
    """Give the tokenizer its padding token and its chat template, or say what is missing."""
    # Its own warning about long texts, once in a process, names no row; what does not fit is reported with its index.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                f"the tokenizer of {source!r} has neither a padding nor an end token; set pad_token and save it"
            )
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked everywhere, so the choice changes no number
    if chat_template is not None:
        tokenizer.chat_template = template_text(chat_template, tokenizer)
    if not tokenizer.chat_template:
        raise ValueError(_no_template(source))


def template_text(chat_template: str, tokenizer: Any) -> str:
    """Return the text of a jinja file, or the built-in template for 'plain'. Raises ValueError for a missing file."""
    if chat_template == "plain":
        return plain_template(tokenizer)
    if not Path(chat_template).is_file():
        raise ValueError(f"no chat template at {chat_template!r}; give a jinja file, or 'plain' for the built-in one")
    return read_text(Path(chat_template))


def plain_template(tokenizer: Any) -> str:
    """Return the built-in template: turns as plain text, behind the BOS token where the tokenizer begins texts with it.

    Rendered turns are tokenised without what a tokenizer adds to texts, and a base model that was trained on texts
    behind BOS (Gemma, Llama) knows none without. A tokenizer that has a BOS token and adds none gets none here either.
    """
    bos = tokenizer.bos_token_id
    begins = bos is not None and tokenizer("x")["input_ids"][:1] == [bos]
    return "{{ bos_token }}" + PLAIN_TEMPLATE if begins else PLAIN_TEMPLATE


def _no_template(source: str) -> str:
    return (
        f"the tokenizer of {source!r} has no chat template, which says how turns are written; "
        "set model.chat_template to a jinja file, or to 'plain' for the built-in one"
    )
