"""What an adapter's folder must be before peft reads it: weights without pickles, settings that read no other file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from divalign.limits import refuse_large_settings
from divalign.lm.endpoint import refuse_server
from divalign.store import read_json

SETTINGS = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
# Kinds that peft loads from WEIGHTS alone. Others load models, tokenizers or pickles that their settings name.
KINDS = ("LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "VERA", "PREFIX_TUNING")
# Settings with which peft would import a module, or load further adapters, models, tokenizers or pickles.
RUNNING = (
    *("megatron_config", "adapters", "shadow_model", "prompt_tuning_init_state_dict_path"),
    *("tokenizer_name_or_path", "tokenizer_kwargs"),
)


def adapter_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of an adapter's folder.

    Raises ValueError where they are missing or no object, of a kind that is not in `KINDS`, and where they name code,
    other files or a server.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise ValueError(f"no {SETTINGS} in {folder}; give the folder that save_pretrained wrote")
    refuse_large_settings(folder)
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds a {type(settings).__name__}, expected an object with an adapter's settings")
    _check_kind(settings, path)
    for name in ("base_model_name_or_path", "revision"):
        if not isinstance(settings.get(name), str | None):
            raise ValueError(f"{path} gives {settings[name]!r:.200} as {name}, expected a text")
    refuse_server(settings.get("base_model_name_or_path") or "", path)
    return settings


def _check_kind(settings: dict[str, Any], path: Path) -> None:
    kind = settings.get("peft_type")
    if kind not in KINDS:
        raise ValueError(
            f"{path} holds an adapter of the kind {kind!r:.200}, expected {', '.join(KINDS[:-1])} or {KINDS[-1]}; "
            "merge the adapter into its base, and give the merged model"
        )
    running = [name for name in RUNNING if settings.get(name)]
    if running:
        raise ValueError(
            f"{path} sets {running[0]}, which makes peft load other code or files; merge the adapter first"
        )


def check_adapter(folder: Path) -> dict[str, Any]:
    """Return the settings. Raises ValueError where they cannot be used, and for weights that are not safetensors.

    Peft would read a pickle in their place.
    """
    settings = adapter_settings(folder)
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"the adapter folder {folder} holds no {WEIGHTS}; save it with save_pretrained (pickled weights, *.bin or "
            "*.pt, are not read: they can run code)"
        )
    return settings
