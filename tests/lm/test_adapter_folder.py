"""Adapters of every kind that is read load as peft saved them, and no setting of theirs names a file to read."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from divalign.data.examples import user_says
from divalign.lm.adapter_folder import KINDS, RUNNING
from divalign.lm.generate import generate_responses
from divalign.lm.load import load_lm
from tests.tiny import save_tiny

ON = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
OPTIONS: dict[str, dict[str, Any]] = {
    "LORA": {**ON, "r": 2, "init_lora_weights": False, "use_dora": True},
    "ADALORA": {**ON, "init_r": 2, "target_r": 2, "total_step": 10, "init_lora_weights": False},
    "IA3": {**ON, "feedforward_modules": [], "init_ia3_weights": False},
    "LOHA": {**ON, "r": 2, "init_weights": False},
    "LOKR": {**ON, "r": 2, "init_weights": False},
    "OFT": {**ON, "oft_block_size": 8, "init_weights": False},
    "VERA": {**ON, "r": 2, "init_weights": False, "target_modules": ["q_proj"]},
    "PREFIX_TUNING": {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3},
}
# Settings of these kinds whose names speak of files, models or code, and that peft reads nothing by.
HARMLESS = {"base_model_name_or_path", "auto_mapping", "megatron_core", "modules_to_save", "target_modules"}
HARMLESS |= {"exclude_modules", "feedforward_modules", "module_dropout", "runtime_config", "num_transformer_submodules"}
NAMING = re.compile(r"path|file|model|module|adapters$|kwargs|library|import|class|config$|core$|tokenizer|cache")
# Used by initialisations that a user starts with the weights of the base; nothing is read when an adapter is loaded.
INITIALISING = {"corda_config", "lora_ga_config", "eva_config", "loftq_config", "arrow_config", "velora_config"}
INITIALISING |= {"monteclora_config", "kasa_config"}


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_each_kind_that_is_read_loads_and_counts(tmp_path: Path, kind: str) -> None:
    base = save_tiny("Llama", tmp_path / "base")
    config = PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)](**OPTIONS[kind])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tuned = peft.get_peft_model(load_lm(str(base)).model, config).eval()
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.data.normal_()
    tuned.save_pretrained(str(tmp_path / "adapter"))
    lm, bare = load_lm(str(base), adapter=tmp_path / "adapter"), load_lm(str(base))
    ids = torch.tensor([[3, 40, 50, 60]])
    with torch.inference_mode():
        logits, expected, without = (model(input_ids=ids).logits for model in (lm.model, tuned, bare.model))
    assert torch.allclose(logits, expected, atol=1e-5)
    assert not torch.allclose(logits, without, atol=1e-2)
    if kind != "PREFIX_TUNING":
        assert generate_responses(lm.model, lm.tokenizer, [user_says("a")], max_new_tokens=2, batch_size=1)


def test_no_setting_of_a_kind_that_is_read_names_what_peft_would_read() -> None:
    """A new peft that adds such a setting to a kind fails here: then it is looked at, and refused or listed."""
    names = {field.name for kind in KINDS for field in fields(PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)])}
    assert {name for name in names if NAMING.search(name)} - HARMLESS - INITIALISING <= set(RUNNING)
