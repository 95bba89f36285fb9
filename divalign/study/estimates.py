"""Divergence estimates from files and models: whole protocols, for `divalign estimate`.

Three questions. How far apart does a trained policy prove two sets of responses to be (log-ratios to its reference)?
How far apart are they before any training (a frozen model's states, a bilinear critic)? How far is one policy from
another (KL, by sampling from the first)? All end in numbers with what they must be read with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from divalign.core.estimate import policy_kl
from divalign.core.measure import Measurement, Protocol, measure, measure_split, split_by_features
from divalign.core.stats import Estimate
from divalign.data.batching import Encoded
from divalign.data.columns import check_columns, turns_of
from divalign.data.examples import Conversation, Row, as_messages
from divalign.lm.generate import sample
from divalign.lm.hidden import response_states
from divalign.lm.load import LM
from divalign.lm.score import sequence_log_probs
from divalign.study.progress import Progress, silent
from divalign.train.couples import EncodedRows, encode_rows

KINDS = (frozenset({"prompt", "chosen", "rejected"}), frozenset({"prompt", "completion", "label"}))


class Sizes(NamedTuple):
    """How much is read and scored at once: tokens of prompt and response together, and rows per forward."""

    max_length: int = 1024
    batch_size: int = 64


def from_policy(
    rows: Sequence[Row],
    policy: LM,
    reference: LM,
    divergences: Sequence[str],
    *,
    beta: float = 0.1,
    sizes: Sizes | None = None,
    protocol: Protocol | None = None,
    progress: Progress = silent,
) -> dict[str, Measurement]:
    """Return each divergence that r = beta (log policy - log reference) proves between aligned and unaligned responses.

    `rows` are TRL's, paired or not, and none of them may have trained the policy. Prompts are the clusters.
    Raises ValueError for rows without columns or a class, other tokenizers than one, and what `measure` raises.
    """
    if policy.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
        raise ValueError(f"{policy.name} and {reference.name} have different vocabularies; their ratio means nothing")
    sizes = sizes or Sizes()
    encoded = encode_rows(checked(rows), policy.tokenizer, max_length=sizes.max_length)
    scores = [_score(lm, encoded, sizes, progress) for lm in (policy, reference)]
    r = beta * (scores[0] - scores[1])
    split = len(encoded.aligned)
    return {name: measure(r[:split], r[split:], name, encoded.clusters, protocol) for name in divergences}


def from_features(
    rows: Sequence[Row],
    model: LM,
    divergences: Sequence[str],
    *,
    sizes: Sizes | None = None,
    protocol: Protocol | None = None,
    progress: Progress = silent,
) -> dict[str, Measurement]:
    """Return each divergence that a bilinear critic on a frozen model's response states proves, before any training."""
    sizes = sizes or Sizes()
    encoded = encode_rows(checked(rows), model.tokenizer, max_length=sizes.max_length)
    everything = [*encoded.aligned, *encoded.unaligned]
    with progress(f"states {Path(model.name).name}", len(everything), "responses") as advance:
        states = response_states(
            model.model, everything, model.tokenizer.pad_token_id, batch_size=sizes.batch_size, on_progress=advance
        )
    split = len(encoded.aligned)
    sides, contexts = (
        (rows[:split].astype(np.float64), rows[split:].astype(np.float64))
        for rows in (states["response"], states["prompt"])
    )
    halves = split_by_features(*sides, encoded.clusters, protocol, contexts=contexts)
    return {name: measure_split(halves, name, protocol) for name in divergences}


def kl_by_sampling(
    prompts: Sequence[Any],
    policy: LM,
    reference: LM,
    *,
    samples_per_prompt: int = 4,
    max_new_tokens: int = 64,
    confidence: float = 0.95,
    seed: int = 0,
    sizes: Sizes | None = None,
    progress: Progress = silent,
) -> Estimate:
    """Return KL(policy, reference) per prompt in nats, over responses cut at `max_new_tokens`, with its interval.

    Unbiased: responses are drawn from the policy and scored token by token by both. `prompts` are strings or messages.
    """
    sizes = sizes or Sizes()
    talks = [Conversation(tuple(as_messages(prompt, "user"))) for prompt in prompts for _ in range(samples_per_prompt)]
    seeds = [seed + draw for _ in prompts for draw in range(samples_per_prompt)]
    with progress(f"sample {Path(policy.name).name}", len(talks), "responses") as advance:
        drawn = sample(
            policy.model,
            policy.tokenizer,
            talks,
            max_new_tokens=max_new_tokens,
            batch_size=sizes.batch_size,
            seeds=seeds,
            on_progress=advance,
        )
    pad = policy.tokenizer.pad_token_id
    logs = [sequence_log_probs(lm.model, drawn, pad, batch_size=sizes.batch_size) for lm in (policy, reference)]
    clusters = np.repeat(np.arange(len(prompts)), samples_per_prompt)
    return policy_kl(logs[0], logs[1], clusters, confidence)


def labelled(aligned: Sequence[Mapping[str, Any]], unaligned: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Make TRL's unpaired rows of two sets of responses, each row with a prompt and a response (or completion).

    Raises ValueError where a column is missing, with the set and the row.
    """
    return [
        {"prompt": _column(row, ("prompt",), name, place), "completion": _text(row, name, place), "label": label}
        for name, label, side in (("aligned", True, aligned), ("unaligned", False, unaligned))
        for place, row in enumerate(side, start=1)
    ]


def checked(rows: Sequence[Row]) -> Sequence[Row]:
    """Return TRL's rows, each of which is paired if the first one is, or unpaired, with text in every column.

    Raises ValueError, with the row. What kinds there are, and that both classes need rows, `encode_rows` says.
    """
    kind = next((kind for kind in KINDS if rows and kind <= set(rows[0])), frozenset())
    for place, row in enumerate(rows, start=1):
        check_columns(row, sorted(kind), f"row {place}")
        for name in sorted(kind - {"label"}):
            _check_turns(row, name, "user" if name == "prompt" else "assistant", place)
    return rows


def _check_turns(row: Row, name: str, role: str, place: int) -> None:
    try:
        turns_of(row[name], role, name)
    except ValueError as error:
        raise ValueError(f"row {place}: {error}") from error


def read_prompts(rows: Sequence[Row]) -> list[Any]:
    """Return each different prompt of a file of rows, once, in order. Raises ValueError for one that is no text."""
    for place, row in enumerate(rows, start=1):
        check_columns(row, ("prompt",), f"row {place}")
        _check_turns(row, "prompt", "user", place)
    seen = {str(row["prompt"]): row["prompt"] for row in rows}
    return list(seen.values())


def as_plain(found: Mapping[str, Measurement]) -> dict[str, Any]:
    """Return measurements as plain values, for a JSON file; an infinite ceiling is None."""
    return {name: _plain(one) for name, one in found.items()}


def _plain(one: Measurement) -> dict[str, Any]:
    held_out = one.held_out
    return {
        **held_out.estimate._asdict(),
        "lower": held_out.lower,
        "bound": held_out.bound,
        "ceiling": held_out.ceiling if np.isfinite(held_out.ceiling) else None,
        "effective_sample_size": held_out.effective_sample_size,
        "flags": sorted(held_out.flags),
        "train_bound": one.train_bound,
        "overfit_gap": one.overfit_gap,
        "shift": one.shift,
        "null": one.null._asdict(),
        "p_value": one.p_value,
    }


def _score(lm: LM, encoded: EncodedRows, sizes: Sizes, progress: Progress) -> np.ndarray:
    rows: list[Encoded] = [*encoded.aligned, *encoded.unaligned]
    with progress(f"score {Path(lm.name).name}", len(rows), "responses") as advance:
        return sequence_log_probs(
            lm.model, rows, lm.tokenizer.pad_token_id, batch_size=sizes.batch_size, on_progress=advance
        )


def _text(row: Mapping[str, Any], name: str, place: int) -> Any:
    return _column(row, ("response", "completion"), name, place)


def _column(row: Mapping[str, Any], names: tuple[str, ...], side: str, place: int) -> Any:
    for name in names:
        if name in row:
            return row[name]
    raise ValueError(
        f"row {place} of the {side} responses has the columns {', '.join(map(str, row))}; expected {' or '.join(names)}"
    )
