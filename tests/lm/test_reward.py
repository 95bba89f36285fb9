"""A reward model scores a response the same alone and in a batch; what is no reward model is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from divalign.lm.reward import RewardModel
from tests.tiny import tiny_tokenizer

ROWS = [("hi", "hello"), ("a longer question?", "yes"), ("x", "a much longer answer than the others")]


def saved(folder: Path, labels: int, tokenizer: Any = None) -> str:
    torch.manual_seed(0)
    tokenizer = tokenizer or tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_labels=labels,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_score_does_not_depend_on_its_company(tmp_path: Path) -> None:
    source = saved(tmp_path, 1)
    together = RewardModel(source)(ROWS)
    alone = RewardModel(source, batch_size=1)(ROWS)
    assert together == pytest.approx(alone, abs=1e-6)
    assert len(set(together)) == 3


def test_a_classifier_is_no_reward_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 3 outputs, expected a reward model with one"):
        RewardModel(saved(tmp_path, 3))
    with pytest.raises(ValueError, match="no reward model can be loaded"):
        RewardModel(str(tmp_path / "nothing"))
