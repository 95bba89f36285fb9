"""Held-out separation: every prompt is scored by axes, Gaussians and a probe that were fitted without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit, logit

from divalign.core.bhattacharyya import fit, gains
from divalign.core.clouds import Clouds, distances, project
from divalign.core.clusters import FOLDS, fold_of_each, shuffled_labels
from divalign.core.energy import energy, silhouette
from divalign.core.probe import fold_log_odds
from divalign.core.ranking import auc, tpr_at_fpr

DIMENSIONS = (2, 4, 8, 16, 32, 64)
# The variance of a k-fold mean is 1/k + tested/trained = 1/k + 1/(k - 1) of one fold's, not the 1/k that redrawing the
# tested prompts shows: 1.5 standard errors for one. Source: Nadeau and Bengio 2003, Machine Learning 52, section 3.
FITS_VARY = float(np.sqrt(1 + FOLDS / (FOLDS - 1)))


class FoldAxes(NamedTuple):
    """One fold: masks of the tested and the selecting prompts, points on the untested ones' axes, whole states."""

    tested: Bool[np.ndarray, " n"]
    chooses: Bool[np.ndarray, " n"]
    points: Float[np.ndarray, "n k"]
    states: Float[np.ndarray, "n d"]

    @property
    def fitted(self) -> Bool[np.ndarray, " n"]:
        """Mask of the prompts fitted on for the selection of axes; the final fit includes the selecting fold."""
        return ~self.tested & ~self.chooses


@dataclass(frozen=True)
class HeldOut:
    """A cross-fit of both classes: tested prompts take no part in the fit. Methods take bootstrap weights [n, draws].

    `gains` are the prompts' contributions to the Bhattacharyya distance, `dimensions` the number of axes that each
    fold chose.
    """

    pooled: Clouds
    folds: tuple[FoldAxes, ...]
    dimensions: tuple[int, ...]
    gains: Float[np.ndarray, " n"]

    @cached_property
    def log_odds(self) -> Float[np.ndarray, " n"]:
        """The linear probe's log-odds of harmful; fitted when first read, as it takes most of the time."""
        fold, result = np.argmax([axes.tested for axes in self.folds], axis=0), np.empty(len(self.gains))
        for number, axes in enumerate(self.folds):
            result[axes.tested] = fold_log_odds(axes.states, self.pooled.harmful, fold, number)
        return result

    def bhattacharyya(self, weights: Float[np.ndarray, "n draws"]) -> Float[np.ndarray, " draws"]:
        """The held-out gain: what Gaussians fitted on four fifths of the prompts show on the others, in nats.

        For states like Gaussians its expectation is at most the distance of the two populations: the fit's errors and
        the choice of axes cost something, and less with more prompts; heavy tails may add a fifth (docs/separation.md).
        May fall below zero: that is the noise of an estimate on prompts that were not fitted on. Draws spread out by
        `FITS_VARY`, as the fits vary too.
        """
        value = mean_of_classes(self.gains, self.pooled.harmful, np.ones((len(weights), 1)))
        return value + FITS_VARY * (mean_of_classes(self.gains, self.pooled.harmful, weights) - value)

    def silhouette(self, weights: Float[np.ndarray, "n draws"]) -> Float[np.ndarray, " draws"]:
        """Euclidean silhouette of all prompts in the whole space; it fits nothing.

        On the axes that each fold chose, 2 to 16 of them, its interval covered .30 to .81, for the choice changes from
        sample to sample more than the prompts do. In the whole space it covers .93 to .96.
        """
        return silhouette(distances(self.pooled.gram), self.pooled.harmful, weights)

    def probe_auc(self, weights: Float[np.ndarray, "n draws"]) -> Float[np.ndarray, " draws"]:
        """Draws vary as much as the probe with its fit, not only as the tested prompts: see `with_fits`."""
        return with_fits(partial(auc, self.log_odds, self.pooled.harmful), weights)

    def tpr_at_1_fpr(self, weights: Float[np.ndarray, "n draws"]) -> Float[np.ndarray, " draws"]:
        return with_fits(partial(tpr_at_fpr, self.log_odds, self.pooled.harmful, fpr=0.01), weights)

    def energy(self, weights: Float[np.ndarray, "n draws"]) -> Float[np.ndarray, " draws"]:
        """Fits nothing, so it takes all prompts in the whole space."""
        harmful = self.pooled.harmful[:, None]
        return energy(distances(self.pooled.gram), weights * ~harmful, weights * harmful)

    def energy_of_shuffles(self, generator: np.random.Generator, draws: int) -> Float[np.ndarray, " draws"]:
        """Energy under permuted labels."""
        labels = [shuffled_labels(self.pooled.harmful, self.pooled.groups, generator) for _ in range(draws)]
        shuffled = np.stack(labels, axis=1)
        return energy(distances(self.pooled.gram), ~shuffled * 1.0, shuffled * 1.0)

    def distances_of_shuffles(self, generator: np.random.Generator, draws: int) -> Float[np.ndarray, " draws"]:
        """Bhattacharyya distance under permuted labels, Gaussians refitted on the same axes."""
        once, result = np.ones((len(self.gains), 1)), np.empty(draws)
        for draw in range(draws):
            labels = shuffled_labels(self.pooled.harmful, self.pooled.groups, generator)
            result[draw] = mean_of_classes(_all_gains(self.folds, self.dimensions, labels), labels, once)[0]
        return result


def hold_out(pooled: Clouds, *, seed: int) -> HeldOut:
    """Fit and score in five folds; each is the test fold once, and selects the number of axes for its neighbour once.

    Axes are principal axes of the untested prompts, without their labels. The number of axes is what gives the
    choosing fold the largest distance, among those that both classes' fitted prompts outnumber by two. The probe needs
    no axes: it takes whole states.
    """
    fold = fold_of_each(pooled.harmful, pooled.groups, seed=seed)
    folds = tuple(_axes(pooled, fold, number) for number in range(FOLDS))
    dimensions = tuple(_best_dimension(axes, pooled.harmful) for axes in folds)
    return HeldOut(pooled, folds, dimensions, _all_gains(folds, dimensions, pooled.harmful))


def with_fits(
    share: Callable[[Float[np.ndarray, "n draws"]], Float[np.ndarray, " draws"]], weights: Float[np.ndarray, "n draws"]
) -> Float[np.ndarray, " draws"]:
    """Bootstrap draws of a cross-validated share between 0 and 1, spread out for what the fits add to its variance.

    Redrawing scored prompts leaves the fits as they are: such an interval covered its own expectation in .75 to .92 of
    simulations. So draws move away from the value by `FITS_VARY`, in log-odds.
    """
    value, draws = share(np.ones((len(weights), 1)))[0], share(weights)
    edge = 1 / len(weights) ** 2
    odds, centre = logit(np.clip(draws, edge, 1 - edge)), logit(np.clip(value, edge, 1 - edge))
    return np.where(draws == value, value, expit(centre + FITS_VARY * (odds - centre)))


def mean_of_classes(
    values: Float[np.ndarray, " n"], harmful: Bool[np.ndarray, " n"], weights: Float[np.ndarray, "n draws"]
) -> Float[np.ndarray, " draws"]:
    """Weighted mean of each class, averaged over the two: a larger class counts no more."""
    means = [values[side] @ weights[side] / weights[side].sum(axis=0) for side in (harmful, ~harmful)]
    return (means[0] + means[1]) / 2


def _axes(pooled: Clouds, fold: Int[np.ndarray, " n"], number: int) -> FoldAxes:
    tested, most = fold == number, min(DIMENSIONS[-1], pooled.width)
    return FoldAxes(tested, fold == (number + 1) % FOLDS, project(pooled.gram, ~tested, most), pooled.states)


def _candidates(axes: FoldAxes, harmful: Bool[np.ndarray, " n"]) -> list[int]:
    smaller = min((axes.fitted & harmful).sum(), (axes.fitted & ~harmful).sum())
    room = min(axes.points.shape[1], smaller - 2)
    return [dimension for dimension in DIMENSIONS if dimension <= room] or [1]


def _best_dimension(axes: FoldAxes, harmful: Bool[np.ndarray, " n"]) -> int:
    def distance_on_choosing(dimension: int) -> float:
        gain = _gain(axes.points[:, :dimension], harmful, axes.fitted, axes.chooses, corrected=False)
        return mean_of_classes(gain, harmful[axes.chooses], np.ones((len(gain), 1)))[0]

    return max(_candidates(axes, harmful), key=distance_on_choosing)


def _all_gains(
    folds: tuple[FoldAxes, ...], dimensions: tuple[int, ...], harmful: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    result = np.empty(len(harmful))
    for axes, dimension in zip(folds, dimensions, strict=True):
        result[axes.tested] = _gain(axes.points[:, :dimension], harmful, ~axes.tested, axes.tested)
    return result


def _gain(
    points: Float[np.ndarray, "n k"],
    harmful: Bool[np.ndarray, " n"],
    fitted: Bool[np.ndarray, " n"],
    scored: Bool[np.ndarray, " n"],
    *,
    corrected: bool = True,
) -> Float[np.ndarray, " scored"]:
    """Gains of the scored prompts under the fitted ones' Gaussians, in units of each axis' spread within classes.

    Units matter to Ledoit-Wolf alone: its target is a sphere, and raw axes differ by orders of magnitude.
    """
    sides = [points[fitted & side] for side in (~harmful, harmful)]
    variance = sum(side.var(axis=0) for side in sides) / 2
    if (variance <= 1e-12 * points[fitted].var(axis=0)).any():
        raise ValueError("both classes are single points along an axis: their covariance is singular; add prompts")
    scale = np.sqrt(variance)
    safe, unsafe = fit(sides[0] / scale), fit(sides[1] / scale)
    result = np.empty(len(points))
    for own, other, side in ((safe, unsafe, scored & ~harmful), (unsafe, safe, scored & harmful)):
        result[side] = gains(own, other, points[side] / scale, corrected=corrected)
    return result[scored]
