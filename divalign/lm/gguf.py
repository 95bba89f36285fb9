"""GGUF files as models: converted once into a folder of safetensors, which is found by the file's content.

transformers reads the file (weights dequantised to float32, tokenizer and chat template from the file), but what it
returns refuses save_pretrained. So its weights are put into a model of the same configuration without quantisation.
"""

from __future__ import annotations

import io
import os
import tempfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from filelock import FileLock

from divalign.lm.gguf_header import GgufHeader, read_header
from divalign.store import cached_folder, digest, file_digest

CACHE_VARIABLE = "DIVALIGN_CACHE"
VERSION = 1  # counts up when the same file would be converted into another folder


def is_gguf(source: str | Path) -> bool:
    """Tell whether a model's source is spelt as a GGUF file."""
    return Path(source).suffix.lower() == ".gguf"


def gguf_folder(path: Path, cache: Path | None = None) -> Path:
    """Return the model folder (safetensors, tokenizer, chat template) that a GGUF file was converted into.

    Converted once: the folder's name is the hash of the file's content, in `cache` (`default_cache` where None), and a
    torn or edited folder is made again. A second process waits for the first. Logits equal those of transformers on
    the file itself. float32 takes 4 bytes per weight, about seven times a 4-bit file.

    Raises ValueError, in one sentence, for a file that `read_header` refuses, an architecture that transformers cannot
    read from GGUF, and where the gguf package is not installed.
    """
    header = read_header(path)
    key = digest("gguf", VERSION, file_digest(path))
    folder = (default_cache() if cache is None else cache) / "gguf" / key[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        return cached_folder(folder, key, lambda draft: _convert(path, header, draft))


def readable_source(source: str) -> str:
    """Return what transformers reads: the folder that a GGUF file was converted into; other sources as they are."""
    return str(gguf_folder(Path(source))) if is_gguf(source) else source


def default_cache() -> Path:
    """Return $DIVALIGN_CACHE, or ~/.cache/divalign."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "divalign")


def _convert(path: Path, header: GgufHeader, folder: Path) -> None:
    """Write the model of a GGUF file to `folder`."""
    from divalign.lm.quiet import quietly

    _check_architecture(path, header)
    # A folder of its own: beside the file may lie the configuration or the template of another model.
    # transformers' bar over the tensors heeds no setting, so what goes to stderr is dropped; errors are raised.
    with tempfile.TemporaryDirectory() as alone, quietly(), redirect_stderr(io.StringIO()):
        (Path(alone) / "model.gguf").symlink_to(path.resolve())
        try:
            model, tokenizer = _read(alone)
        except (ImportError, OSError, LookupError, TypeError, ValueError, NotImplementedError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"cannot read the {header.architecture} model in {path}: {reason}") from error
        clean = _unquantised(model)
        _set_end_tokens(clean, header)
        clean.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _read(folder: str) -> tuple[Any, Any]:
    """Return transformers' own reading of the GGUF file in `folder`, every weight dequantised."""
    import torch
    import transformers

    options: dict[str, Any] = {"gguf_file": "model.gguf", "dtype": torch.float32}
    if hasattr(transformers, "GgufConfig"):  # some architectures would be left in their blocks
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    auto: Any = transformers.AutoModelForCausalLM
    return (
        auto.from_pretrained(folder, **options),
        transformers.AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf"),
    )


def _unquantised(model: Any) -> Any:
    """Return a model with the same weights that can be saved: its own class, without quantization_config."""
    import torch

    config = model.config
    for owner in (config, config.get_text_config()):
        if hasattr(owner, "quantization_config"):
            del owner.quantization_config
    with torch.device("meta"):
        clean = type(model)(config)
    clean.load_state_dict(model.state_dict(), assign=True)
    clean.tie_weights()
    clean.generation_config = model.generation_config
    return clean


def _set_end_tokens(model: Any, header: GgufHeader) -> None:
    """Let responses end at the file's end-of-turn token too, where it names one apart from the end of the text."""
    names = ("eos_token_id", "eot_token_id", "eom_token_id")
    ids = [header.metadata[key] for name in names if (key := f"tokenizer.ggml.{name}") in header.metadata]
    if ids:
        model.generation_config.eos_token_id = list(dict.fromkeys(ids))


def _check_architecture(path: Path, header: GgufHeader) -> None:
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    try:
        from transformers.integrations.gguf.gguf_conversion_mapping import GGUF_ARCHS
    except ImportError:  # older versions have one list alone
        GGUF_ARCHS = {}
    # the names in files and in transformers differ by hyphens and underscores: qwen3moe, qwen3_moe; gpt-oss, gpt_oss
    supported = {_bare(name) for name in [*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_ARCHS]}
    if _bare(header.architecture) not in supported:
        raise ValueError(
            f"{path} holds a model of the architecture {header.architecture!r}, which transformers cannot read from "
            "GGUF; give the model's folder of safetensors or its hub id instead"
        )


def _bare(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()
