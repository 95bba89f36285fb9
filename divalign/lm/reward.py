"""A reward model: a sequence classifier with one output, which scores a response in its conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from divalign.data.batching import by_length, encode_row, pad_right
from divalign.data.examples import as_messages


class RewardModel:
    """Scores (prompt, response) pairs; larger is better, without unit.

    Raises ValueError where the model has not exactly one output, or no safetensors.
    """

    def __init__(self, source: str, *, device: str = "cpu", max_length: int = 2048, batch_size: int = 16) -> None:
        try:
            options = {"trust_remote_code": False}
            loaded = AutoModelForSequenceClassification.from_pretrained(source, use_safetensors=True, **options)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source, **options)
        except OSError as error:
            raise ValueError(f"no reward model can be loaded from {source!r}: {error}") from error
        self.model: Any = loaded.to(device).eval()
        if self.model.config.num_labels != 1:
            raise ValueError(f"{source!r} has {self.model.config.num_labels} outputs, expected a reward model with one")
        self.max_length, self.batch_size = max_length, batch_size
        self.pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        self.model.config.get_text_config().pad_token_id = self.pad

    @torch.inference_mode()
    def __call__(self, rows: Sequence[tuple[str, str]]) -> list[float]:
        encoded = [
            encode_row(self.tokenizer, as_messages(prompt, "user"), response, max_length=self.max_length)
            for prompt, response in rows
        ]
        ids = [row.prompt_ids + row.response_ids for row in encoded]
        scores = [0.0] * len(ids)
        for batch in by_length([len(row) for row in ids], self.batch_size):
            inputs = pad_right([ids[index] for index in batch], self.pad).to(self.model.device)
            mask = pad_right([[1] * len(ids[index]) for index in batch], 0).to(self.model.device)
            batch_scores = self.model(input_ids=inputs, attention_mask=mask).logits[:, 0].float().tolist()
            for index, score in zip(batch, batch_scores, strict=True):
                scores[index] = score
        return scores
