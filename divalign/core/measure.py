"""The whole protocol of a published divergence: split by prompt, fit on one part, evaluate once on the other.

Two kinds of critic. `measure` takes log-ratios r of a policy and fits one number on the training prompts, a constant
shift, in place of the prompt baseline that no trainer fitted. `measure_features` takes one feature vector per response
(a frozen model's hidden state) and fits a logistic critic, so that a data set can be measured before any training.
Both then report the held-out bound, its distance to the training bound, and what the same critic yields on the same
rows when their labels are shuffled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from divalign.core.critics import Critic, fit_critic
from divalign.core.divergences import Divergence, find_divergence, samples
from divalign.core.estimate import Clusters, Evaluation, cluster_ids, evaluate_critic
from divalign.core.stats import Estimate

TIE = 1e-9  # bounds that differ by less differ by rounding
Contexts = tuple[Float[np.ndarray, "a _"], Float[np.ndarray, "u _"]]


@dataclass(frozen=True, kw_only=True)
class MeasurementPlan:
    """How to measure: the confidence of the interval, how prompts are split, and how much is resampled."""

    confidence: float = 0.95
    train_share: float = 0.5
    permutations: int = 200
    draws: int = 2000
    seed: int = 0
    same_prompts: bool = True


@dataclass(frozen=True)
class Measurement:
    """A held-out divergence and what it must be read with, in nats.

    `train_bound` is the bound on the rows that the critic was fitted on, `overfit_gap` what it has above the held-out
    one: near 0 when the number is reliable. `null` is the held-out bound with shuffled labels (mean, central 95 %,
    permutations); `p_value` how often that is as large as the true one (one-sided, never 0). `shift` was taken off
    every r.
    """

    held_out: Evaluation
    train_bound: float
    overfit_gap: float
    shift: float
    null: Estimate
    p_value: float


class _Half(NamedTuple):
    """Critic values or features of some prompts, and the prompt number of every row."""

    aligned: np.ndarray
    unaligned: np.ndarray
    prompts: tuple[np.ndarray, np.ndarray]


class Split(NamedTuple):
    """Critic values of the prompts that the critic was fitted on and of the others; `clustered`: prompts were named."""

    train: _Half
    test: _Half
    clustered: bool


def measure(
    aligned: object,
    unaligned: object,
    divergence: str | Divergence = "js",
    clusters: Clusters | None = None,
    plan: MeasurementPlan | None = None,
) -> Measurement:
    """Return the divergence that log-ratios r prove on held-out prompts, after a shift fitted on the other prompts.

    The policy behind r must not have been trained on any of these rows. `clusters` holds the prompt ids of both;
    without it every row is its own prompt. Raises what `estimate_divergence` raises.
    """
    plan = plan or MeasurementPlan()
    values = samples(aligned, "aligned").detach().numpy(), samples(unaligned, "unaligned").detach().numpy()
    return measure_split(_split(*values, clusters, plan), divergence, plan)


def measure_features(
    aligned: Float[np.ndarray, "a _"],
    unaligned: Float[np.ndarray, "u _"],
    divergence: str | Divergence = "js",
    clusters: Clusters | None = None,
    plan: MeasurementPlan | None = None,
    *,
    contexts: Contexts | None = None,
) -> Measurement:
    """Return the divergence between two sets of feature vectors that a logistic critic proves on held-out prompts.

    Features lose information, never add it (data processing): the number is a lower bound for the responses themselves.
    `contexts` holds features of each row's prompt, for both sets; the critic is then bilinear in both (`core.critics`).

    Raises ValueError for features that are empty, not finite or of unequal width, and what `estimate_divergence`
    raises.
    """
    plan = plan or MeasurementPlan()
    return measure_split(split_by_features(aligned, unaligned, clusters, plan, contexts=contexts), divergence, plan)


def split_by_features(
    aligned: Float[np.ndarray, "a _"],
    unaligned: Float[np.ndarray, "u _"],
    clusters: Clusters | None = None,
    plan: MeasurementPlan | None = None,
    *,
    contexts: Contexts | None = None,
) -> Split:
    """Return critic values of both halves of the prompts, the critic fitted on the first: once for any divergence."""
    plan = plan or MeasurementPlan()
    _check_features(aligned, unaligned)
    width = None if contexts is None else aligned.shape[1]
    if contexts is not None:
        _check_features(*contexts)
        aligned, unaligned = np.hstack([aligned, contexts[0]]), np.hstack([unaligned, contexts[1]])
    halves = _split(aligned, unaligned, clusters, plan)
    critic = _critic(halves.train, width)
    train, test = (part._replace(aligned=critic(part.aligned), unaligned=critic(part.unaligned)) for part in halves[:2])
    return Split(train, test, halves.clustered)


def fit_shift(divergence: Divergence, aligned: np.ndarray, unaligned: np.ndarray) -> float:
    """Return the constant b that maximises the bound of r - b on these rows, by ever finer scans.

    For kl it is log-mean-exp over the unaligned rows. The bound need not be concave in b (chi2, lecam and tv are not),
    hence the scans.
    """
    rows = torch.from_numpy(aligned), torch.from_numpy(unaligned)

    def bounds(shifts: np.ndarray) -> np.ndarray:
        shift = torch.from_numpy(shifts)[:, None]
        return (divergence.score(rows[0] - shift).mean(1) - divergence.penalty(rows[1] - shift).mean(1)).numpy()

    reach = 1.0 + max(np.abs(aligned).max(), np.abs(unaligned).max())
    best, step = 0.0, reach
    # Each round scans around the best so far, itself included, and narrows tenfold: 10 rounds reach rounding error.
    for _ in range(10):
        grid = best + step * np.linspace(-1, 1, 41)
        best, step = float(grid[int(np.argmax(bounds(grid)))]), step / 10
    return best if bounds(np.array([best]))[0] > bounds(np.zeros(1))[0] else 0.0


def measure_split(split: Split, divergence: str | Divergence, plan: MeasurementPlan | None = None) -> Measurement:
    """Return what critic values of two halves of the prompts prove: a shift is fitted on the first half."""
    plan, (train, test, clustered) = plan or MeasurementPlan(), split
    row = find_divergence(divergence) if isinstance(divergence, str) else divergence
    shift = fit_shift(row, train.aligned, train.unaligned)
    held_out = evaluate_critic(
        test.aligned - shift,
        test.unaligned - shift,
        row,
        test.prompts if clustered else None,
        plan.confidence,
        draws=plan.draws,
        seed=plan.seed,
        same_prompts=plan.same_prompts,
    )
    train_bound = float(row.bound(train.aligned - shift, train.unaligned - shift))
    shuffled = _shuffled_bounds(row, test, shift, plan)
    low, high = np.quantile(shuffled, [0.025, 0.975])
    null = Estimate(float(shuffled.mean()), float(low), float(high), plan.permutations)
    as_large = int((shuffled >= held_out.bound - TIE * max(1.0, abs(held_out.bound))).sum())
    p_value = (1 + as_large) / (1 + plan.permutations)
    return Measurement(held_out, train_bound, train_bound - held_out.bound, shift, null, p_value)


def _split(aligned: np.ndarray, unaligned: np.ndarray, clusters: Clusters | None, plan: MeasurementPlan) -> Split:
    """Divide the prompts at random; without clusters, the rows of each class."""
    if not 0 < plan.train_share < 1:
        raise ValueError(f"train_share is {plan.train_share}; expected a number between 0 and 1, such as 0.5")
    random = np.random.default_rng(plan.seed)
    lengths = len(aligned), len(unaligned)
    if clusters is None:
        prompts = np.arange(lengths[0]), lengths[0] + np.arange(lengths[1])
        trained = np.concatenate([_random_share(ids, plan.train_share, random) for ids in prompts])
    else:
        prompts = cluster_ids(clusters, lengths, same_prompts=plan.same_prompts)
        trained = _random_share(np.unique(np.concatenate(prompts)), plan.train_share, random)
    masks = [np.isin(ids, trained) for ids in prompts]

    def part(rows: list[np.ndarray]) -> _Half:
        return _Half(aligned[rows[0]], unaligned[rows[1]], (prompts[0][rows[0]], prompts[1][rows[1]]))

    return Split(part(masks), part([~mask for mask in masks]), clusters is not None)


def _random_share(ids: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Pick that share of the ids, at least one, and leave at least one."""
    if len(ids) < 2:
        raise ValueError(f"got {len(ids)} prompts (or rows of one class); expected at least 2, to split them")
    return random.permutation(ids)[: min(max(round(share * len(ids)), 1), len(ids) - 1)]


def _shuffled_bounds(row: Divergence, test: _Half, shift: float, plan: MeasurementPlan) -> Float[np.ndarray, " n"]:
    """The bound under shuffled labels: within each prompt that has both classes, between those that have one."""
    values = torch.from_numpy(np.concatenate([test.aligned, test.unaligned]) - shift)
    score, penalty = row.score(values).numpy(), row.penalty(values).numpy()
    labels = np.arange(len(values)) < len(test.aligned)
    prompts = np.unique(np.concatenate(test.prompts), return_inverse=True)[1]
    random = np.random.default_rng(plan.seed)
    bounds = np.empty(plan.permutations)
    for index in range(plan.permutations):
        aligned = _shuffle(labels, prompts, random)
        bounds[index] = score[aligned].mean() - penalty[~aligned].mean()
    return bounds


def _shuffle(labels: np.ndarray, prompts: np.ndarray, random: np.random.Generator) -> np.ndarray:
    aligned_share = np.bincount(prompts, weights=labels) / np.bincount(prompts)
    pure = np.isin(aligned_share, (0.0, 1.0))
    aligned_share[pure] = random.permutation(aligned_share[pure])
    moved = aligned_share[prompts] == 1.0
    if pure.all():
        return moved
    shuffled = np.empty_like(labels)
    shuffled[np.argsort(prompts, kind="stable")] = labels[np.lexsort((random.random(len(labels)), prompts))]
    return np.where(pure[prompts], moved, shuffled)


def _critic(train: _Half, response_width: int | None) -> Critic:
    features = np.concatenate([train.aligned, train.unaligned])
    labels = np.arange(len(features)) < len(train.aligned)
    return fit_critic(features, labels, np.concatenate(train.prompts), response_width=response_width)


def _check_features(aligned: np.ndarray, unaligned: np.ndarray) -> None:
    for name, features in (("aligned", aligned), ("unaligned", unaligned)):
        if features.ndim != 2 or not features.size or not np.isfinite(features).all():
            raise ValueError(
                f"{name} features have shape {features.shape}; expected one finite vector per response: look for NaN "
                "hidden states (half precision overflows) and empty responses"
            )
    if aligned.shape[1] != unaligned.shape[1]:
        raise ValueError(f"got features of width {aligned.shape[1]} and {unaligned.shape[1]}; use one model and layer")
