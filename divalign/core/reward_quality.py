"""How good a reward model is, from its margins on held-out pairs: reward of the preferred less that of the other.

The Bradley-Terry loss, mean -log sigmoid(margin), is DPO's with a free critic in place of r: ln 2 minus the loss is a
lower bound of JS(P x Q, Q x P), how far a pair of responses differs from the same pair swapped, in nats, at most ln 2.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import root_scalar
from scipy.special import expit

from divalign.core.estimate import evaluate_critic
from divalign.core.stats import Estimate, clustered_rate, mean_of_rows

BINS = 10
FEWEST = 10  # prompts, below which there is no interval


class PairQuality(NamedTuple):
    """Figures of a reward model on held-out pairs, the clusters being prompts.

    Every pair counts alike. `loss`: Bradley-Terry, nats. `js`: ln 2 minus it, a lower bound of JS(P x Q, Q x P), and 0
    where the loss is above ln 2; its interval is that of `core.estimate`, None below ten prompts. `accuracy`: share of
    pairs in the right order, ties being half. `calibration_error`: how far sigmoid(|margin|), the model's confidence in
    its own order, is from the share that is right, a mean over ten bins of confidence by their pairs.
    `calibration_slope`: what margins should be multiplied by: below 1 they are too sure, above 1 not sure enough; None
    where every pair is in the right order (no finite factor is best) or none is told apart.
    """

    loss: Estimate
    js: Estimate
    accuracy: Estimate
    calibration_error: float
    calibration_slope: float | None


def pair_quality(margins: Float[np.ndarray, " n"], clusters: Sequence[Hashable]) -> PairQuality:
    """Return the figures of these margins. Raises ValueError for none, for unequal lengths, and for one not finite."""
    if not np.isfinite(margins).all():
        raise ValueError("a margin is not finite; the reward model diverged: lower the learning rate")
    loss = mean_of_rows(np.logaddexp(0, -margins), clusters)
    return PairQuality(
        loss if loss.low is None else loss._replace(low=max(0.0, loss.low)),
        _product_js(margins, clusters),
        _accuracy(margins, clusters),
        _calibration_error(margins),
        calibration_slope(margins),
    )


def _product_js(margins: Float[np.ndarray, " n"], clusters: Sequence[Hashable]) -> Estimate:
    """Return what the margins prove of JS(P x Q, Q x P): half of the estimate of 2 JS with the margin as log-ratio."""
    count = len(set(clusters))
    if count < FEWEST:
        value = math.log(2) - float(np.logaddexp(0, -margins).mean())
        return Estimate(max(0.0, value), None, None, count)
    twice = evaluate_critic(margins, -margins, "js", (clusters, clusters)).estimate
    value, low, high = (None if end is None else end / 2 for end in (twice.value, twice.low, twice.high))
    return Estimate(value, low, high, twice.n)


def _accuracy(margins: Float[np.ndarray, " n"], clusters: Sequence[Hashable]) -> Estimate:
    """Return the share in the right order; a tie counts as one pair right and one wrong, every pair counted twice."""
    outcomes = [bool(first) for margin in margins for first in (margin > 0, margin >= 0)]
    share = clustered_rate(outcomes, [cluster for cluster in clusters for _ in range(2)])
    return share._replace(n=len(margins))


def _calibration_error(margins: Float[np.ndarray, " n"]) -> float:
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    right = np.where(margins == 0, 0.5, margins > 0)
    bins = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    gaps = [abs(float((right - confidence)[bins == number].sum())) for number in range(BINS)]
    return sum(gaps) / len(margins)


def calibration_slope(margins: Float[np.ndarray, " n"]) -> float | None:
    """Return the s that minimises mean -log sigmoid(s margin), at least 0; None where no finite one does."""
    if not (margins < 0).any() or not (margins > 0).any():
        return None

    def rise(s: float | int) -> float:
        """The derivative of the mean loss by s, which only ever rises."""
        return -float((margins * expit(-s * margins)).mean())

    if rise(0) >= 0:
        return 0.0
    most = 1 / float(np.abs(margins).max())
    while rise(most) < 0:  # margins of the wrong sign make it positive in the end
        most *= 2
    return float(root_scalar(rise, bracket=(0, most), method="brentq", xtol=1e-12 * most).root)
