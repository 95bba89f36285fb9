"""Sharing of a prompt's row is decided as training computes, and never where positions bias the attention."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from divalign.data.batching import Encoded
from divalign.lm import score
from divalign.lm.score import attach, can_share, has_position_bias, sequence_log_probs
from tests.tiny import ARCHITECTURES, tiny_model
from tests.train.test_drop_in import trainer

BIASED: dict[str, dict[str, Any]] = {
    "Bloom": {"n_layer": 2, "n_head": 4},
    "Mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
    "Falcon": {"alibi": True},
}


@pytest.fixture(autouse=True)
def _more_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BIASED:
        monkeypatch.setitem(ARCHITECTURES, name, {})


@pytest.mark.parametrize("name", BIASED)
def test_a_model_with_alibi_is_never_shared(name: str) -> None:
    model = tiny_model(name, **BIASED[name])[0]
    assert has_position_bias(model.config)
    assert not can_share(model)


def test_other_spellings_of_a_position_bias_are_known_and_no_model_without_one_is_suspected() -> None:
    for name in ("Llama", "Qwen3", "GPTNeoX", "Olmo2", "Phi3"):
        assert not has_position_bias(tiny_model(name)[0].config)
    assert not has_position_bias(tiny_model("Falcon")[0].config)
    for setting in (
        {"use_alibi": True},
        {"relative_attention_num_buckets": 32},
        {"position_embedding_type": "relative_key"},
    ):
        assert has_position_bias(transformers.LlamaConfig(**setting))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bias_that_the_configuration_does_not_name_is_found_by_the_trial(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    model = tiny_model("Mpt", **BIASED["Mpt"])[0].to(dtype)
    monkeypatch.setattr(score, "has_position_bias", lambda config: False)
    assert not can_share(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_counts_columns_instead_of_positions_is_not_shared(dtype: torch.dtype) -> None:
    model = tiny_model("Llama")[0].to(dtype)
    inner = model.model.forward
    model.model.forward = lambda *args, position_ids=None, **options: inner(*args, **options)
    assert not can_share(model)
    assert can_share(tiny_model("Llama")[0].to(dtype))


def test_the_trial_runs_in_the_precision_of_training(tmp_path: Path) -> None:
    made = trainer(tmp_path, bf16=True)
    assert made.model.shares_prompts == {("cpu", torch.bfloat16): True}
    assert trainer(tmp_path).model.shares_prompts == {("cpu", torch.float32): True}


def test_responses_of_an_alibi_model_score_in_a_batch_as_alone() -> None:
    model = attach(tiny_model("Mpt", **BIASED["Mpt"])[0].to(torch.bfloat16))
    rows = [Encoded([5, 6, 7, 8], [9 + n] * size) for n, size in enumerate((30, 20, 25))]
    together = sequence_log_probs(model, rows, 0)
    alone = [sequence_log_probs(model, [row], 0)[0] for row in rows]
    assert together == pytest.approx(alone, abs=0.05)  # bfloat16; shared rows were off by a nat
