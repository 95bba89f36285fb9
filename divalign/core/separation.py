"""How far apart a model holds safe and harmful prompts: two clouds of hidden states in, numbers with intervals out."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression

from divalign.core.bhattacharyya import Gaussian, bhattacharyya, fit, gains, many_bhattacharyya
from divalign.core.clouds import Clouds, States, clouds, project, squared_distances
from divalign.core.energy import energy, silhouette
from divalign.core.ranking import auc, tpr_at_fpr
from divalign.core.resampling import FOLDS, Groups, bootstrap_weights, fold_of_each, shuffled_labels, with_interval
from divalign.core.stats import Estimate

DIMENSIONS = (2, 4, 8, 16, 32, 64)
Mode = Literal["paper", "heldout"]


class Separation(NamedTuple):
    """How far apart two clouds are, in five ways; larger is further in each. `flags` say what to doubt.

    bhattacharyya in nats from 0; silhouette -1 to 1; probe_auc 0.5 (chance) to 1; tpr_at_1_fpr and energy 0 to 1.
    `energy_p_value` tests equal laws by shuffling labels; `null` is the Bhattacharyya distance that shuffled labels
    give (mean, 2.5 % and 97.5 % quantiles); `dimensions` are those chosen in each fold. Paper mode leaves None what
    the paper's code does not measure.
    """

    bhattacharyya: Estimate
    silhouette: Estimate
    probe_auc: Estimate
    tpr_at_1_fpr: Estimate
    energy: Estimate
    flags: frozenset[str]
    energy_p_value: float | None = None
    null: Estimate | None = None
    dimensions: tuple[int, ...] = ()


def separation(
    safe: States,
    harmful: States,
    mode: Mode = "heldout",
    *,
    seed: int = 0,
    groups: Groups | None = None,
    lexical: Estimate | None = None,
    in_sample: bool = False,
    draws: int = 1000,
    null_draws: int = 100,
) -> Separation:
    """Measure how far apart the hidden states of safe and harmful prompts lie, [prompts, width] each.

    "paper" is the published measurement: principal plane of all prompts, sample covariances, Gaussian Bhattacharyya
    distance and Euclidean silhouette of the points the plane was fitted on. Its intervals redraw prompts within that
    plane, so they leave out the plane's own error. "heldout" scores each prompt by a fit (axes, scales, Ledoit-Wolf
    covariances, linear probe) that has not seen it, in five folds; the number of axes is chosen on a further fold.
    Its Bhattacharyya distance is that of the chosen subspace, so at most that of the whole space.

    `groups` (one list per class) keeps prompts that belong together, such as topic pairs, in one fold and redraws
    them together. `lexical` is the AUC that the prompts' words alone reach, `in_sample` tells that the prompts were
    trained on. Flags: "in sample"; "words alone do as well" (lexical AUC not below the probe's interval);
    "extrapolated" (the distance claims an error rate exp(-D)/2 under one in n, which n prompts cannot show).

    Raises ValueError for states that are not finite, empty or tiny classes (paper 4, heldout 10 prompts each),
    unequal widths, points too alike for a covariance and, in heldout mode, copies of one state across groups.
    Source: arXiv 2502.00657 section 5.2 and its code (paper); bhattacharyya.gains (heldout).
    """
    if mode == "paper":
        result = _paper(safe, harmful, groups=groups, seed=seed, draws=draws)
        in_sample = True
    elif mode == "heldout":
        held = clouds(safe, harmful, groups=groups, at_least=2 * FOLDS)
        result = _heldout(held, seed=seed, draws=draws, null_draws=null_draws)
    else:
        raise ValueError(f'mode: got {mode!r}, expected "paper" or "heldout"')
    return result._replace(flags=_flags(result, lexical=lexical, in_sample=in_sample))


def plane(safe: States, harmful: States) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "m 2"]]:
    """Coordinates of both classes in the principal plane of all prompts, for a scatter: paper mode's points.

    Each axis points to where its largest coordinate is positive, so a figure does not flip from run to run.
    """
    pooled = clouds(safe, harmful, at_least=4, copies=True)
    points = _plane(pooled)
    return points[~pooled.harmful], points[pooled.harmful]


def _plane(pooled: Clouds) -> Float[np.ndarray, "n 2"]:
    points = project(pooled.gram, np.ones(len(pooled.gram), dtype=bool), 2)
    if points.shape[1] < 2:
        raise ValueError("all states lie on one line; expected a plane: are the prompts (nearly) the same?")
    return points


def _paper(safe: States, harmful: States, *, groups: Groups | None, seed: int, draws: int) -> Separation:
    pooled = clouds(safe, harmful, groups=groups, at_least=4, copies=True)
    points, labels, n = _plane(pooled), pooled.harmful, len(pooled.harmful)
    sides = [Gaussian(side.mean(axis=0), np.cov(side, rowvar=False)) for side in (points[~labels], points[labels])]
    weights = bootstrap_weights(labels, pooled.groups, draws=draws, generator=np.random.default_rng(seed))
    distances = np.sqrt(squared_distances(points @ points.T))
    nothing = Estimate(None, None, None, n)
    return Separation(
        with_interval(bhattacharyya(*sides), many_bhattacharyya(points, labels, weights), n),
        with_interval(_once(silhouette, distances, labels), silhouette(distances, labels, weights), n),
        *(nothing, nothing, nothing),
        flags=frozenset(),
    )


def _heldout(pooled: Clouds, *, seed: int, draws: int, null_draws: int) -> Separation:
    labels, n = pooled.harmful, len(pooled.harmful)
    generator = np.random.default_rng(seed)
    fold = fold_of_each(labels, pooled.groups, seed=seed)
    weights = bootstrap_weights(labels, pooled.groups, draws=draws, generator=generator)
    fits = [_FoldAxes.of(pooled.gram, labels, fold, number) for number in range(FOLDS)]

    scores = np.empty(n)
    for axes in fits:
        scores[axes.tested] = axes.probe_scores(labels)
    distance = _mean_of_classes(_gains(fits, labels), labels, weights)
    point = _mean_of_classes(_gains(fits, labels), labels, np.ones((n, 1)))[0]
    shuffled = [shuffled_labels(labels, pooled.groups, generator) for _ in range(null_draws)]
    null = np.array([_mean_of_classes(_gains(fits, other), other, np.ones((n, 1)))[0] for other in shuffled])
    apart, p_value = _energy(pooled, weights, draws, generator)
    return Separation(
        _not_negative(with_interval(point, distance, n)),
        with_interval(_silhouette(fits, labels, np.ones((n, 1)))[0], _silhouette(fits, labels, weights), n),
        with_interval(_once(auc, scores, labels), auc(scores, labels, weights), n),
        _hits(scores, labels, weights),
        apart,
        flags=frozenset(),
        energy_p_value=p_value,
        null=_not_negative(with_interval(null.mean(), null, null_draws)) if null_draws else None,
        dimensions=tuple(axes.dimension for axes in fits),
    )


class _FoldAxes(NamedTuple):
    """What one fold's fit knows: the axes of the prompts outside it, and how many of them serve."""

    tested: Bool[np.ndarray, " n"]
    chooses: Bool[np.ndarray, " n"]
    points: Float[np.ndarray, "n k"]
    dimension: int

    @classmethod
    def of(cls, gram: np.ndarray, labels: np.ndarray, fold: Int[np.ndarray, " n"], number: int) -> _FoldAxes:
        tested, chooses = fold == number, fold == (number + 1) % FOLDS
        points = project(gram, ~tested, DIMENSIONS[-1])
        axes = cls(tested, chooses, points, 0)
        return axes._replace(dimension=max(axes.candidates(labels), key=lambda k: axes.gain_on_choosing(labels, k)))

    def candidates(self, labels: Bool[np.ndarray, " n"]) -> list[int]:
        """Numbers of axes that the smaller class can carry: two prompts more than axes."""
        fitted = ~self.tested & ~self.chooses
        room = min(self.points.shape[1], (labels & fitted).sum() - 2, (~labels & fitted).sum() - 2)
        return [k for k in DIMENSIONS if k <= room] or [1]

    def gain_on_choosing(self, labels: Bool[np.ndarray, " n"], dimension: int) -> float:
        gain = self.gain(labels, ~self.tested & ~self.chooses, self.chooses, dimension, corrected=False)
        return (gain[labels[self.chooses]].mean() + gain[~labels[self.chooses]].mean()) / 2

    def gain(
        self, labels: np.ndarray, fitted: np.ndarray, scored: np.ndarray, dimension: int, *, corrected: bool = True
    ) -> Float[np.ndarray, " scored"]:
        """Gains of the scored prompts under Gaussians of the fitted ones, each axis in within-class spreads."""
        points = self.points[:, :dimension]
        spread = np.sqrt(sum(points[fitted & side].var(axis=0) for side in (labels, ~labels)) / 2)
        points = points / np.where(spread > 0, spread, 1)
        safe, harmful = fit(points[fitted & ~labels]), fit(points[fitted & labels])
        result = np.empty(len(labels))
        for own, other, side in ((safe, harmful, ~labels), (harmful, safe, labels)):
            result[scored & side] = gains(own, other, points[scored & side], corrected=corrected)
        return result[scored]

    def probe_scores(self, labels: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " tested"]:
        """Log-odds of harmful for the tested prompts, by a linear probe whose number of axes is chosen likewise."""
        fitted = ~self.tested & ~self.chooses
        room = [k for k in DIMENSIONS if k <= self.points.shape[1]] or [1]
        dimension = max(room, key=lambda k: self._probe(labels, fitted, k).score_of(self.chooses, labels))
        return self._probe(labels, ~self.tested, dimension).log_odds(self.tested)

    def _probe(self, labels: np.ndarray, fitted: np.ndarray, dimension: int) -> _Probe:
        points = self.points[:, :dimension] / self.points[fitted, :dimension].std(axis=0)
        return _Probe(LogisticRegression(max_iter=1000).fit(points[fitted], labels[fitted]), points)


class _Probe(NamedTuple):
    model: LogisticRegression
    points: Float[np.ndarray, "n k"]

    def log_odds(self, scored: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " scored"]:
        return self.model.decision_function(self.points[scored])

    def score_of(self, scored: Bool[np.ndarray, " n"], labels: Bool[np.ndarray, " n"]) -> float:
        """Mean log-likelihood of the labels, in nats: finer than accuracy where few prompts choose."""
        signs = np.where(labels[scored], -1, 1)
        return -np.logaddexp(0, signs * self.log_odds(scored)).mean()


def _gains(fits: list[_FoldAxes], labels: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    result = np.empty(len(labels))
    for axes in fits:
        result[axes.tested] = axes.gain(labels, ~axes.tested, axes.tested, axes.dimension)
    return result


def _mean_of_classes(
    values: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"], weights: Float[np.ndarray, "n draws"]
) -> Float[np.ndarray, " draws"]:
    means = [values[side] @ weights[side] / weights[side].sum(axis=0) for side in (labels, ~labels)]
    return (means[0] + means[1]) / 2


def _silhouette(fits: list[_FoldAxes], labels: np.ndarray, weights: np.ndarray) -> Float[np.ndarray, " draws"]:
    """Mean over folds of the tested prompts' silhouette on that fold's axes."""
    total, count = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
    for axes in fits:
        points = axes.points[axes.tested, : axes.dimension]
        mine = weights[axes.tested]
        distances = np.sqrt(squared_distances(points @ points.T))
        total += silhouette(distances, labels[axes.tested], mine) * mine.sum(axis=0)
        count += mine.sum(axis=0)
    return total / count


def _energy(pooled: Clouds, weights: np.ndarray, draws: int, generator: np.random.Generator) -> tuple[Estimate, float]:
    distances, labels = np.sqrt(squared_distances(pooled.gram)), pooled.harmful[:, None]
    value = energy(distances, ~labels * 1.0, labels * 1.0)[0]
    redrawn = energy(distances, weights * ~labels, weights * labels)
    shuffled = np.stack([shuffled_labels(pooled.harmful, pooled.groups, generator) for _ in range(draws)], axis=1)
    null = energy(distances, ~shuffled * 1.0, shuffled * 1.0)
    p_value = (1 + (null >= value - 1e-12).sum()) / (1 + draws)
    return _not_negative(with_interval(value, redrawn, len(labels))), float(p_value)


def _hits(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Estimate:
    if (~labels).sum() < 100:  # one in a hundred of fewer than a hundred is no prompt
        return Estimate(None, None, None, len(labels))
    value = tpr_at_fpr(scores, labels, np.ones((len(labels), 1)), fpr=0.01)[0]
    return with_interval(value, tpr_at_fpr(scores, labels, weights, fpr=0.01), len(labels))


def _once(statistic, points: np.ndarray, labels: np.ndarray) -> float:
    return float(statistic(points, labels, np.ones((len(labels), 1)))[0])


def _not_negative(estimate: Estimate) -> Estimate:
    """A distance is never below zero: taking value and interval back to it cannot worsen either."""
    ends = (None if end is None else max(0.0, end) for end in estimate[:3])
    return Estimate(*ends, n=estimate.n)


def _flags(result: Separation, *, lexical: Estimate | None, in_sample: bool) -> frozenset[str]:
    flags = {"in sample"} if in_sample else set()
    distance, probe = result.bhattacharyya, result.probe_auc
    if distance.value is not None and np.exp(-distance.value) / 2 < 1 / distance.n:
        flags.add("extrapolated")
    words = None if lexical is None else lexical.value
    if words is not None and probe.low is not None and words >= probe.low:
        flags.add("words alone do as well")
    return frozenset(flags)
