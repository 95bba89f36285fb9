"""Estimate how far one policy is from another: KL, by sampling responses from the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from divalign.core.estimate import policy_kl
from divalign.core.stats import Estimate
from divalign.data.columns import check_columns
from divalign.data.examples import Conversation, Row, as_messages
from divalign.lm.generate import sample
from divalign.lm.score import sequence_log_probs
from divalign.stages.estimate import check_turns, check_vocabularies
from divalign.stages.folder import Progress, silent
from divalign.stages.models import OpenModel

APART = 1_000_003  # between the draws of neighbouring seeds, which else would share all but one


@dataclass(frozen=True)
class SamplingPlan:
    """How KL(policy, reference) is sampled: `samples` responses a prompt, cut at `max_new_tokens`."""

    samples: int = 4
    max_new_tokens: int = 64
    confidence: float = 0.95
    seed: int = 0
    batch_size: int = 64


def kl_by_sampling(
    prompts: Sequence[Any],
    policy: OpenModel,
    reference: OpenModel,
    plan: SamplingPlan | None = None,
    *,
    progress: Progress = silent,
) -> Estimate:
    """Return KL(policy, reference) per prompt in nats, over responses cut at `max_new_tokens`, with its interval.

    Unbiased: responses are drawn from the policy and scored token by token by both. `prompts` are strings or messages.
    Raises ValueError for two tokenizers: a token's number means nothing to another vocabulary.
    """
    plan = plan or SamplingPlan()
    lms = policy.lm(), reference.lm()
    check_vocabularies(policy.name, lms[0], reference.name, lms[1])
    conversations = [
        Conversation(tuple(as_messages(prompt, "user"))) for prompt in prompts for _ in range(plan.samples)
    ]
    seeds = [plan.seed * APART + draw for _ in prompts for draw in range(plan.samples)]
    sizes = {"max_new_tokens": plan.max_new_tokens, "batch_size": plan.batch_size}
    with progress(f"sample {policy.name}", len(conversations), "responses") as advance:
        samples = sample(lms[0].model, lms[0].tokenizer, conversations, seeds=seeds, on_progress=advance, **sizes)
    pad = lms[0].tokenizer.pad_token_id
    logs = [sequence_log_probs(lm.model, samples, pad, batch_size=plan.batch_size) for lm in lms]
    clusters = np.repeat(np.arange(len(prompts)), plan.samples)
    return policy_kl(logs[0], logs[1], clusters, plan.confidence)


def unique_prompts(rows: Sequence[Row]) -> list[Any]:
    """Return each different prompt of a file of rows, once, in order. Raises ValueError for one that is no text."""
    for place, row in enumerate(rows, start=1):
        check_columns(row, ("prompt",), f"row {place}")
        check_turns(row, "prompt", "user", place)
    prompts = [row["prompt"] for row in rows]
    keys = [str([(turn["role"], turn["content"]) for turn in as_messages(prompt, "user")]) for prompt in prompts]
    return list(dict(zip(keys, prompts, strict=True)).values())
