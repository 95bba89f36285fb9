"""A reward model: a sequence classifier with one output, which scores a response in its conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from divalign.data.batching import Encoded, by_length, encode_row, pad_right
from divalign.data.examples import as_messages
from divalign.lm.backbone import backbone_of
from divalign.lm.model_folder import check_model

ENDS = "reward_end_tokens"  # in config.json of a model trained here: what ends a response, where its reward is read


def rewards_at_end(
    model: Any, input_ids: Int[Tensor, "b t"], attention_mask: Int[Tensor, "b t"]
) -> Float[Tensor, " b"]:
    """Return the head's output at each right-padded row's last real token, by the attention mask.

    transformers' classifiers take the last token that is not the padding token. Where padding is the end-of-sequence
    token, as it is for many models, that is the token before the end.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = backbone_of(inner)(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
    last = attention_mask.sum(1) - 1
    return inner.score(hidden[torch.arange(len(last), device=last.device), last])[:, 0].float()


def up_to_end(row: Encoded, ends: Sequence[int]) -> list[int]:
    """Return a row's tokens up to the one of `ends` that ends its response; the first is added to a cut response.

    A template may write more behind it (a line break), which a sampled response does not have: trained with it and
    scored without, a reward would be read at another kind of token.
    """
    stop = next((place for place, token in enumerate(row.response_ids) if token in ends), None)
    response = [*row.response_ids, ends[0]] if stop is None else row.response_ids[: stop + 1]
    return [*row.prompt_ids, *response]


class RewardModel:
    """Scores (prompt, response) pairs; larger is better, without unit.

    A model that `divalign train --method rlhf` wrote is read as it was trained, at the token that ends the response;
    any other as transformers reads it. Raises ValueError where the model has not exactly one output, or no safetensors.
    """

    def __init__(self, source: str, *, device: str = "cpu", max_length: int = 2048, batch_size: int = 16) -> None:
        try:
            check_model(source)
            options = {"trust_remote_code": False}
            loaded = AutoModelForSequenceClassification.from_pretrained(source, use_safetensors=True, **options)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source, **options)
        except (OSError, ValueError, SafetensorError) as error:
            raise ValueError(f"no reward model can be loaded from {source!r}: {error}") from error
        self.model: Any = loaded.to(device).eval()
        if self.model.config.num_labels != 1:
            raise ValueError(f"{source!r} has {self.model.config.num_labels} outputs, expected a reward model with one")
        self.max_length, self.batch_size = max_length, batch_size
        self.pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        self.model.config.get_text_config().pad_token_id = self.pad
        self.ends: list[int] = getattr(self.model.config, ENDS, None) or []

    @torch.inference_mode()
    def __call__(self, rows: Sequence[tuple[str, str]]) -> list[float]:
        return self.score_tokens(
            [
                encode_row(self.tokenizer, as_messages(prompt, "user"), response, max_length=self.max_length)
                for prompt, response in rows
            ]
        )

    @torch.inference_mode()
    def score_tokens(self, rows: Sequence[Encoded]) -> list[float]:
        """Return the reward of each prompt and response of tokens."""
        ids = [self._ids(row) for row in rows]
        scores = [0.0] * len(ids)
        for batch in by_length([len(row) for row in ids], self.batch_size):
            inputs = pad_right([ids[index] for index in batch], self.pad).to(self.model.device)
            mask = pad_right([[1] * len(ids[index]) for index in batch], 0).to(self.model.device)
            batch_scores = self._read(inputs, mask).tolist()
            for index, score in zip(batch, batch_scores, strict=True):
                scores[index] = score
        return scores

    def _ids(self, row: Encoded) -> list[int]:
        return up_to_end(row, self.ends) if self.ends else row.prompt_ids + row.response_ids

    def _read(self, inputs: Tensor, mask: Tensor) -> Tensor:
        if self.ends:
            return rewards_at_end(self.model, inputs, mask)
        return self.model(input_ids=inputs, attention_mask=mask).logits[:, 0].float()
