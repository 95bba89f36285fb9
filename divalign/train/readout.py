"""Training metrics: rewards under TRL's names, and held-out divergences with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Num
from torch import Tensor

from divalign.core.baselines import RowBaselines, critic
from divalign.core.divergences import DIVERGENCES
from divalign.core.estimate import Clusters, effective_size, evaluate_critic
from divalign.core.losses import LogRatios, Method
from divalign.core.precision import in_widest
from divalign.train.couples import Couples

FEWEST = 10  # prompts, below which no 95 % interval exists
DRAWS = 500  # of the bootstrap: an end's own error is then a tenth of the interval's half width


class RowScores(NamedTuple):
    """Rows of both classes: r of each, the reference's log-probability behind it, and the aligned ones' tokens."""

    aligned: Float[Tensor, " n"]
    unaligned: Float[Tensor, " m"]
    reference_aligned: Float[Tensor, " n"]
    reference_unaligned: Float[Tensor, " m"]
    aligned_tokens: Num[Tensor, " n"]


def reward_metrics(scores: RowScores, *, beta: float, paired: bool) -> dict[str, float]:
    """Return rewards and log-probabilities of both classes, how often aligned beats unaligned, the sample behind e^r.

    `rewards/accuracies` is the share of pairs whose aligned response has the larger r, as in TRL; of unpaired rows the
    share of all (aligned, unaligned) couples, ties counted half: the area under the ROC curve of r. `divergence/ess`
    is the effective number of unaligned rows under the weights e^r: near 1, a single row decides KLDO's log-mean-exp.
    """
    aligned, unaligned, *references, tokens = (in_widest(side) for side in scores)
    return {
        "rewards/chosen": aligned.mean().item(),
        "rewards/rejected": unaligned.mean().item(),
        "rewards/margins": (aligned.mean() - unaligned.mean()).item(),
        "rewards/accuracies": in_widest(aligned > unaligned).mean().item() if paired else auc(aligned, unaligned),
        "logps/chosen": (aligned / beta + references[0]).mean().item(),
        "logps/rejected": (unaligned / beta + references[1]).mean().item(),
        "nll/chosen": -((aligned / beta + references[0]).sum() / tokens.sum()).item(),
        "divergence/ess": effective_size(unaligned),
    }


def critic_metrics(ratios: LogRatios, baseline: RowBaselines) -> dict[str, float]:
    """Return the means of T = r + b(x) by class, and mean and standard deviation of b over the rows, in nats of r.

    `baseline` is what losses take off r, so minus b.
    """
    values = -in_widest(torch.cat([baseline.aligned, baseline.unaligned]))
    aligned, unaligned = critic(ratios, baseline)[:2]
    return {
        "critic/chosen": in_widest(aligned).mean().item(),
        "critic/rejected": in_widest(unaligned).mean().item(),
        "baseline/mean": values.mean().item(),
        "baseline/sd": values.std(correction=0).item(),
    }


def held_out_scores(couples: Couples, ratios: LogRatios) -> tuple[RowScores, list[str], list[str]]:
    """Return the scores of a held-out set with the clusters of its aligned and of its unaligned rows."""
    references = [torch.tensor([row.reference for row in side]) for side in (couples.aligned, couples.unaligned)]
    tokens = torch.tensor([len(row.row.response_ids) for row in couples.aligned])
    scores = RowScores(ratios.aligned, ratios.unaligned, references[0], references[1], tokens)
    return scores, [row.cluster for row in couples.aligned], [row.cluster for row in couples.unaligned]


def is_supported(name: str, metrics: Mapping[str, float]) -> bool:
    """Tell whether an evaluation has the metric, with or without its prefix, or left it out as a divergence may be.

    Raises ValueError, with those there are, for a name that no evaluation has.
    """
    metric = f"eval_{name.removeprefix('eval_')}"
    divergence = metric.rpartition("divergence/")[2].removesuffix("_low").removesuffix("_high")
    if metric not in metrics and divergence not in DIVERGENCES:
        names = ", ".join(sorted(entry.removeprefix("eval_") for entry in metrics))
        raise ValueError(f"metric_for_best_model is {name!r}, expected one of {names}")
    return metric in metrics


def held_out_metrics(
    method: Method,
    scores: RowScores,
    aligned_clusters: Sequence[str],
    unaligned_clusters: Sequence[str],
    *,
    beta: float,
    paired: bool,
    seed: int = 0,
    baseline: RowBaselines | None = None,
) -> dict[str, float]:
    """Return the loss, the rewards and every divergence's lower bound on held-out rows, in nats.

    `divergence/<name>` is not below 0 and not above what the rows can show, and left out where they support no number.
    Bounded ones have `_low` and `_high`, 95 %, prompts being the units. `divergence/saturated` and `divergence/capped`
    count the divergences, bounded and unbounded, that are as large as these rows can show: such numbers measure
    training, not data. With fewer than ten prompts there are plain bounds and nothing else. `loss` is the method's own,
    without class weights and anchor; `nll/chosen_reference` is the reference's `nll/chosen`. With the `baseline` of a
    method that learns one, the loss reads it, and `critic/` stands before what the critic T = r + b(x) proves.
    """
    ratios = LogRatios(scores.aligned, scores.unaligned)
    nll_of_reference = -(in_widest(scores.reference_aligned).sum() / scores.aligned_tokens.sum()).item()
    same = set(aligned_clusters) == set(unaligned_clusters)
    units = len(set(aligned_clusters)) if same else min(map(len, ratios[:2]))
    clusters = (aligned_clusters, unaligned_clusters) if same else None
    metrics = {
        "loss": method.loss(ratios, baseline).item(),
        **reward_metrics(scores, beta=beta, paired=paired),
        "nll/chosen_reference": nll_of_reference,
    }
    metrics |= _measured(ratios, clusters, seed, units)
    if baseline is not None and method.prompt_baseline:
        with_baseline = _measured(critic(ratios, baseline), clusters, seed, units)
        metrics |= critic_metrics(ratios, baseline) | {f"critic/{name}": value for name, value in with_baseline.items()}
    return metrics


def _measured(ratios: LogRatios, clusters: Clusters | None, seed: int, units: int) -> dict[str, float]:
    if units < FEWEST:
        return {f"divergence/{name}": float(row.bound(*ratios[:2])) for name, row in DIVERGENCES.items()}
    bounds, counts = {}, {"saturated": 0, "capped": 0}
    for name in DIVERGENCES:
        evaluation = evaluate_critic(*ratios[:2], name, clusters, draws=DRAWS, seed=seed)
        ends = {"": evaluation.estimate.value, "_low": evaluation.estimate.low, "_high": evaluation.estimate.high}
        bounds |= {f"divergence/{name}{end}": value for end, value in ends.items() if value is not None}
        counts = {flag: count + (flag in evaluation.flags) for flag, count in counts.items()}
    return {**bounds, **{f"divergence/{flag}": float(count) for flag, count in counts.items()}}


def auc(high: Float[Tensor, " n"], low: Float[Tensor, " m"]) -> float:
    """Return P(high > low) + P(high = low) / 2 over all couples, by ranks: no n x m table."""
    values = torch.cat([high, low])
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[inverse]  # ties share the mean of their ranks, from 1
    n, m = len(high), len(low)
    return ((ranks[:n].sum() - n * (n + 1) / 2) / (n * m)).item()
