"""Estimate divergences of two sets of responses by a policy or a frozen model.

Two questions. How far apart does a trained policy prove two sets of responses to be (log-ratios to its reference)? How
far apart are they before any training (a frozen model's states, a bilinear critic)? Both end in numbers with what they
must be read with. How far one policy is from another is `sampled_kl`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from divalign.core.divergences import built_in, find_divergence
from divalign.core.estimate import Clusters, Evaluation, evaluate_critic
from divalign.core.logprobs import log_ratio
from divalign.core.measure import Measurement, MeasurementPlan, measure, measure_split, split_by_features
from divalign.core.names import source_of
from divalign.core.stats import Estimate, clustered_mean
from divalign.data.batching import Encoded
from divalign.data.columns import check_columns, turns_of
from divalign.data.examples import Row
from divalign.lm.hidden import response_states
from divalign.lm.load import LM
from divalign.lm.score import sequence_log_probs
from divalign.records import AlignedLikelihood, DivergenceFile, DivergenceRecord, cached_record
from divalign.stages.folder import Progress, silent
from divalign.stages.models import OpenModel
from divalign.store import cached_arrays, digest, read_json
from divalign.train.couples import EncodedRows, encode_rows
from divalign.train.prompt_baseline import baselines_of, load_head

KINDS = (frozenset({"prompt", "chosen", "rejected"}), frozenset({"prompt", "completion", "label"}))
KINDS_OF_PROMPT = {True: "harmful", False: "benign", None: "all"}
HEADLINES = ("js", "tv", "hellinger", "lecam", "kl")
FILE = "divergence.json"


@dataclass(frozen=True)
class EstimatePlan:
    """Which divergences, how they are measured, and how much is read and scored at once.

    r = `beta` (log policy - log reference). With `split`, half of the prompts fit one constant shift of r and the other
    half are measured, beside shuffled labels; without, all rows are measured with the critic as it is. `max_length`
    counts tokens of prompt and response together.
    """

    divergences: Sequence[str] = HEADLINES
    beta: float = 0.1
    split: bool = True
    measurement: MeasurementPlan = field(default_factory=MeasurementPlan)
    max_length: int = 1024
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown divergence and for a beta that is not above 0."""
        for name in self.divergences:
            find_divergence(name)
        if not self.beta > 0:
            raise ValueError(f"beta is {self.beta:g}, expected a number above 0: r = beta log(policy / reference)")


def estimate(
    rows: Sequence[Row],
    policy: OpenModel,
    reference: OpenModel,
    plan: EstimatePlan,
    out: Path,
    *,
    trained_on: Sequence[Row] | None = None,
    cache: Path | None = None,
    progress: Progress = silent,
) -> DivergenceFile:
    """Estimate as `from_policy` does into `out`/divergence.json, unless it stands there intact.

    With the rows that the policy was `trained_on`, their bound and what it has above that of `rows` stand beside each
    estimate. `cache` keeps the reference's log-probabilities for other policies.
    """
    trained = [] if trained_on is None else [list(trained_on)]
    key = digest("divergence", 5, policy.key, reference.key, list(rows), _identity(plan), *trained)

    def make() -> DivergenceFile:
        measured = from_policy(rows, policy, reference, plan, cache=cache, progress=progress)
        if trained_on is None:
            return measured
        return _with_gaps(measured, from_policy(trained_on, policy, reference, plan, cache=cache, progress=progress))

    return cached_record(out / FILE, key, DivergenceFile, make)


def trained_beta(policy: OpenModel) -> float | None:
    """Return the beta that a model of `divalign train` was trained with, None for any other model."""
    path = policy.folder.parent / "training.json" if policy.folder is not None else None
    return read_json(path).get("beta") if path is not None and path.is_file() else None


def from_policy(
    rows: Sequence[Row],
    policy: OpenModel,
    reference: OpenModel,
    plan: EstimatePlan,
    *,
    cache: Path | None = None,
    progress: Progress = silent,
) -> DivergenceFile:
    """Return each divergence that r = beta (log policy - log reference) proves between aligned and unaligned responses.

    For paired rows, also what the margin r(aligned) - r(unaligned) proves between pairs and the same pairs swapped, on
    all rows, since a shift of r cancels in it: the divergence that methods of pairs estimate. For a policy that was
    trained with a prompt baseline, also what r + b(x) proves. b is in nats of the r of its training, so `plan.beta`
    must be that one. `rows` are TRL's, paired or not, and none of them may have trained the policy. Prompts are the
    clusters, or the rows' own where they bring any. Raises ValueError for rows without columns or a class, other
    tokenizers than one, and what `core.measure.measure` raises.
    """
    lm = policy.lm()
    encoded = encode_rows(checked(rows), lm.tokenizer, max_length=plan.max_length)
    responses: list[Encoded] = [*encoded.aligned, *encoded.unaligned]
    log_policy = _log_probs(policy.name, lm, responses, plan, progress)
    log_reference = _reference(policy, reference, responses, plan, cache, progress)
    r = log_ratio(torch.from_numpy(log_policy), torch.from_numpy(log_reference), plan.beta).numpy()
    split = len(encoded.aligned)

    def measured(critic: np.ndarray) -> dict[str, DivergenceRecord]:
        return {name: _measured(critic[:split], critic[split:], name, encoded, plan) for name in plan.divergences}

    file = DivergenceFile(
        divergences=measured(r),
        of_pairs=_of_pairs(r[:split] - r[split:], encoded, plan) if encoded.paired else None,
        aligned_nll=_aligned_nll(log_policy[:split], log_reference[:split], encoded, plan.measurement.confidence),
    )
    head = load_head(policy.folder) if policy.folder else None
    if head is None:
        return file
    values = baselines_of(head, lm.model, responses, lm.tokenizer.pad_token_id, batch_size=plan.batch_size)
    return file.model_copy(update={"with_baseline": measured(r + values.numpy())})


def _with_gaps(held_out: DivergenceFile, trained: DivergenceFile) -> DivergenceFile:
    """Return the held-out estimates with the bound on the rows that were trained on, and the difference."""

    def beside(
        records: dict[str, DivergenceRecord], trained_on: dict[str, DivergenceRecord]
    ) -> dict[str, DivergenceRecord]:
        bounds = {name: record.bound for name, record in trained_on.items()}
        return {
            name: record.model_copy(update={"train_bound": bounds[name], "overfit_gap": bounds[name] - record.bound})
            for name, record in records.items()
        }

    whole = held_out.with_baseline and beside(held_out.with_baseline, trained.with_baseline or {})
    pairs = beside(held_out.of_pairs, trained.of_pairs) if held_out.of_pairs and trained.of_pairs else held_out.of_pairs
    divergences = beside(held_out.divergences, trained.divergences)
    return held_out.model_copy(update={"divergences": divergences, "of_pairs": pairs, "with_baseline": whole})


def from_features(
    rows: Sequence[Row], model: OpenModel, plan: EstimatePlan, *, progress: Progress = silent
) -> DivergenceFile:
    """Return each divergence that a bilinear critic on a frozen model's response states proves, before any training."""
    lm = model.lm()
    encoded = encode_rows(checked(rows), lm.tokenizer, max_length=plan.max_length)
    responses = [*encoded.aligned, *encoded.unaligned]
    pad, size = lm.tokenizer.pad_token_id, plan.batch_size
    with progress(f"states {model.name}", len(responses), "responses") as advance:
        states = response_states(lm.model, responses, pad, batch_size=size, on_progress=advance)
    split = len(encoded.aligned)
    sides, contexts = (
        (part[:split].astype(np.float64), part[split:].astype(np.float64))
        for part in (states["response"], states["prompt"])
    )
    halves = split_by_features(*sides, encoded.clusters, plan.measurement, contexts=contexts)
    return DivergenceFile(
        divergences={name: _record(measure_split(halves, name, plan.measurement)) for name in plan.divergences}
    )


def labelled(aligned: Sequence[Mapping[str, Any]], unaligned: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Make TRL's unpaired rows of two sets of responses, each row with a prompt and a response (or completion).

    Raises ValueError where a column is missing, with the set and the row.
    """
    return [
        {
            "prompt": _column(row, ("prompt",), name, place),
            "completion": _column(row, ("response", "completion"), name, place),
            "label": label,
        }
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
            check_turns(row, name, "user" if name == "prompt" else "assistant", place)
    return rows


def _identity(plan: EstimatePlan) -> list[Any]:
    measurement = [plan.measurement.confidence, plan.measurement.draws, plan.measurement.seed]
    split = [plan.measurement.train_share, plan.measurement.permutations] if plan.split else None
    code = [source for name in plan.divergences if built_in(name) is None and (source := source_of(name))]
    apart = [] if plan.measurement.same_prompts else ["independent prompts"]
    return [list(plan.divergences), plan.beta, measurement, split, plan.max_length, *apart, *code]


def _reference(
    policy: OpenModel,
    reference: OpenModel,
    responses: Sequence[Encoded],
    plan: EstimatePlan,
    cache: Path | None,
    progress: Progress,
) -> np.ndarray:
    """Return the reference's log-probabilities; it is not loaded where `cache` holds them."""

    def make() -> dict[str, np.ndarray]:
        lm = reference.lm()
        check_vocabularies(policy.name, policy.lm(), reference.name, lm)
        return {"log_probs": _log_probs(reference.name, lm, responses, plan, progress)}

    if cache is None:
        return make()["log_probs"]
    key = digest("reference", reference.key, list(responses))
    return cached_arrays(cache / f"{key}.safetensors", key, make)["log_probs"]


def check_vocabularies(name: str, lm: LM, other_name: str, other: LM) -> None:
    """Raise ValueError for two tokenizers."""
    if lm.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        raise ValueError(
            f"{name} and {other_name} have different vocabularies, so a ratio of their probabilities means nothing; "
            "name two models of one tokenizer"
        )


def _log_probs(name: str, lm: LM, responses: Sequence[Encoded], plan: EstimatePlan, progress: Progress) -> np.ndarray:
    pad, size = lm.tokenizer.pad_token_id, plan.batch_size
    with progress(f"score {name}", len(responses), "responses") as advance:
        return sequence_log_probs(lm.model, responses, pad, batch_size=size, on_progress=advance)


def _measured(
    aligned: np.ndarray, unaligned: np.ndarray, name: str, encoded: EncodedRows, plan: EstimatePlan
) -> DivergenceRecord:
    if plan.split:
        return _record(measure(aligned, unaligned, name, encoded.clusters, plan.measurement))
    return _evaluated(aligned, unaligned, name, encoded.clusters, plan.measurement)


def _of_pairs(margins: np.ndarray, encoded: EncodedRows, plan: EstimatePlan) -> dict[str, DivergenceRecord]:
    """Return what margins, in nats, prove between (aligned, unaligned) and (unaligned, aligned), by divergence."""
    clusters = encoded.clusters[0], encoded.clusters[0]
    return {name: _evaluated(margins, -margins, name, clusters, plan.measurement) for name in plan.divergences}


def _aligned_nll(
    log_policy: np.ndarray, log_reference: np.ndarray, encoded: EncodedRows, confidence: float
) -> dict[str, AlignedLikelihood]:
    """Return the mean negative log-likelihood per token of the aligned responses, in nats, by kind of prompt."""
    kinds = np.array([KINDS_OF_PROMPT[harmful] for harmful in encoded.harmful[0]])
    tokens = np.array([len(response.response_ids) for response in encoded.aligned])

    def mean(log_probs: np.ndarray, kind: str) -> Estimate:
        mine = np.flatnonzero(kinds == kind)
        clusters = [encoded.clusters[0][place] for place in mine]
        return clustered_mean(-log_probs[mine] / tokens[mine], clusters, confidence=confidence)

    return {
        kind: AlignedLikelihood(policy=mean(log_policy, kind), reference=mean(log_reference, kind))
        for kind in dict.fromkeys(kinds.tolist())
    }


def _evaluated(
    aligned: np.ndarray, unaligned: np.ndarray, name: str, clusters: Clusters, plan: MeasurementPlan
) -> DivergenceRecord:
    options: dict[str, Any] = {"draws": plan.draws, "seed": plan.seed, "same_prompts": plan.same_prompts}
    evaluation = evaluate_critic(aligned, unaligned, name, clusters, plan.confidence, **options)
    return DivergenceRecord(**_fields(evaluation))


def _record(measurement: Measurement) -> DivergenceRecord:
    return DivergenceRecord(
        **_fields(measurement.held_out),
        train_bound=measurement.train_bound,
        overfit_gap=measurement.overfit_gap,
        shift=measurement.shift,
        null=measurement.null,
        p_value=measurement.p_value,
    )


def _fields(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "estimate": evaluation.estimate,
        "bound": evaluation.bound,
        "lower": evaluation.lower,
        "ceiling": evaluation.ceiling if np.isfinite(evaluation.ceiling) else None,
        "effective_sample_size": evaluation.effective_sample_size,
        "flags": sorted(evaluation.flags),
    }


def check_turns(row: Row, name: str, role: str, place: int) -> None:
    """Raise ValueError, with the row, where a column is neither text nor messages."""
    try:
        turns_of(row[name], role, name)
    except ValueError as error:
        raise ValueError(f"row {place}: {error}") from error


def _column(row: Mapping[str, Any], names: tuple[str, ...], side: str, place: int) -> Any:
    for name in names:
        if name in row:
            return row[name]
    raise ValueError(
        f"row {place} of the {side} responses has the columns {', '.join(map(str, row))}; expected {' or '.join(names)}"
    )
