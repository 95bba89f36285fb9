"""Log-probabilities of responses under a model, through the model's own forward.

`attach` teaches a causal LM one more keyword: called with `response_labels` it returns the log-probability of each
row's response and never makes a prompt's logits. The extra path goes through `model(...)`, so that adapters,
DistributedDataParallel and FSDP wrappers see an ordinary forward.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.utils.generic import ModelOutput

from divalign.core.logprobs import IGNORED, Head, response_log_probs
from divalign.data.batching import Encoded, by_length, pad_right
from divalign.store import cached_arrays, digest

logger = logging.getLogger(__name__)


class ScoreBatch(NamedTuple):
    """Right-padded rows of prompt and response; labels are `IGNORED` on the prompt and on padding."""

    input_ids: Int[Tensor, "b t"]
    attention_mask: Int[Tensor, "b t"]
    response_labels: Int[Tensor, "b t"]


def score_batch(rows: Sequence[Encoded], pad_id: int) -> ScoreBatch:
    """Collate rows for `attach`ed models."""
    ids = pad_right([[*row.prompt_ids, *row.response_ids] for row in rows], pad_id)
    mask = pad_right([[1] * (len(row.prompt_ids) + len(row.response_ids)) for row in rows], 0)
    labels = pad_right([[*[IGNORED] * len(row.prompt_ids), *row.response_ids] for row in rows], IGNORED)
    return ScoreBatch(ids, mask, labels)


def attach(model: Any) -> Any:
    """Let `model(..., response_labels=labels).log_probs` give each row's response log-probability; return the model.

    Whether backbone plus head equal the model's own logits is tried once on four tokens; an architecture that does
    more to its logits than is known here is scored from its full logits, and a line in the log says so.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    if hasattr(causal, "forward_without_scores"):
        return model
    original = causal.forward
    head = _head(causal)
    fast = _equals_logits(causal, head)
    if not fast:
        logger.warning(
            "%s: scored from full logits, since its head does more than is known here", type(causal).__name__
        )

    @functools.wraps(original)  # others read the names that forward takes off its signature
    def forward(*args: Any, response_labels: Tensor | None = None, **kwargs: Any) -> Any:
        if response_labels is None:
            return original(*args, **kwargs)
        if fast:
            hidden = causal.base_model(*args, **kwargs, use_cache=False).last_hidden_state
            return ModelOutput(log_probs=response_log_probs(hidden, response_labels, head))
        logits = original(*args, **kwargs, use_cache=False).logits
        return ModelOutput(log_probs=response_log_probs(logits, response_labels, lambda rows: rows))

    causal.forward_without_scores = original
    causal.forward = forward
    return model


@torch.no_grad()
def sequence_log_probs(
    model: Any,
    rows: Sequence[Encoded],
    pad_id: int,
    *,
    batch_size: int = 64,
    on_progress: Callable[[int], None] | None = None,
) -> Float[np.ndarray, " n"]:
    """Return log p(response | prompt) of each row in nats, summed over the response's tokens, without gradients."""
    attach(model)
    out = np.zeros(len(rows))
    for indices in by_length([len(row.prompt_ids) + len(row.response_ids) for row in rows], batch_size):
        batch = score_batch([rows[index] for index in indices], pad_id)
        inputs = {name: value.to(model.device) for name, value in batch._asdict().items()}
        out[indices] = model(**inputs).log_probs.double().cpu().numpy()
        if on_progress:
            on_progress(len(indices))
    return out


def reference_log_probs(
    model: Any,
    rows: Sequence[Encoded],
    pad_id: int,
    *,
    cache: Path | None = None,
    model_digest: str = "",
    batch_size: int = 64,
    on_progress: Callable[[int], None] | None = None,
) -> Float[np.ndarray, " n"]:
    """Return `sequence_log_probs` of a frozen model, kept in the `cache` folder under the hash of model and tokens.

    The key holds neither method, beta nor seed, so all runs over the same rows share one forward pass.
    """

    def make() -> dict[str, np.ndarray]:
        scores = sequence_log_probs(model, rows, pad_id, batch_size=batch_size, on_progress=on_progress)
        return {"log_probs": scores}

    if cache is None:
        return make()["log_probs"]
    key = digest("log_probs", model_digest, rows)
    return cached_arrays(cache / f"{key}.safetensors", key, make)["log_probs"]


def _head(causal: Any) -> Head:
    """Return hidden states -> logits with what the known architectures do to their logits after the matrix."""
    config, project = causal.config.get_text_config(), causal.get_output_embeddings()
    softcap = getattr(config, "final_logit_softcapping", None)
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)

    def head(hidden: Tensor) -> Tensor:
        logits = project(hidden) * scale
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    return head


@torch.no_grad()
def _equals_logits(causal: Any, head: Head) -> bool:
    mode = causal.training
    causal.eval()
    ids = torch.arange(4, device=causal.device)[None]
    expected = causal(input_ids=ids, use_cache=False).logits.float()
    got = head(causal.base_model(input_ids=ids, use_cache=False).last_hidden_state).float()
    causal.train(mode)
    return got.shape == expected.shape and torch.allclose(got, expected, rtol=1e-3, atol=1e-3)
