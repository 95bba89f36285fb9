"""Correlation of a number measured on trained models with their attack success: robust, partial, and tested.

The models come from a crossed design: base model (family) x data set x method x length x seed. The independent unit is
the recipe, what was done to a base model (method, data, length): seeds of a recipe are averaged, and its entries on
several base models are one cluster. Recipes of one data set or one method are not independent either, so both effects
are partialled out of both variables, on each base model separately.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import t as student

from divalign.core.bootstrap import with_interval
from divalign.core.robust_slope import Slopes, correlation_interval, power, robust_slope
from divalign.core.stats import Estimate, Tested


class Cells(NamedTuple):
    """One entry per family and recipe, seeds averaged: separation, attack successes and trials, further columns.

    `factors` holds one column per factor that recipes share (data set, method, length), as codes.
    """

    separation: Float[np.ndarray, " n"]
    successes: Float[np.ndarray, " n"]
    trials: Float[np.ndarray, " n"]
    family: Int[np.ndarray, " n"]
    recipe: Int[np.ndarray, " n"]
    covariates: Float[np.ndarray, "n c"]
    factors: Int[np.ndarray, "n f"]


def as_cells(
    separation: Sequence[float],
    successes: Sequence[int],
    trials: Sequence[int],
    families: Sequence[Hashable],
    recipes: Sequence[Hashable],
    covariates: Sequence[Sequence[float]] = (),
    factors: Sequence[Sequence[Hashable]] = (),
) -> Cells:
    """Return the models by family and recipe: separations and covariates averaged, successes and trials summed.

    `factors` are columns that do not differ within a recipe: the level of a cell is that of its first model.
    """
    keys = list(dict.fromkeys(zip(families, recipes, strict=True)))
    cell = np.array([keys.index(key) for key in zip(families, recipes, strict=True)], dtype=int)
    count = np.bincount(cell, minlength=len(keys))
    first = [cell.tolist().index(index) for index in range(len(keys))]

    def total(values: Sequence[float] | Sequence[int]) -> Float[np.ndarray, " n"]:
        return np.bincount(cell, weights=np.asarray(values, float), minlength=len(keys)).astype(float)

    return Cells(
        total(separation) / count,
        total(successes),
        total(trials),
        _codes([family for family, _ in keys]),
        _codes([recipe for _, recipe in keys]),
        np.array([total(column) / count for column in covariates]).reshape(len(covariates), len(keys)).T,
        np.array([_codes([column[at] for at in first]) for column in factors], int).reshape(len(factors), len(keys)).T,
    )


def _codes(names: Sequence[Hashable]) -> Int[np.ndarray, " n"]:
    """Number names in the order of their first appearance."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], dtype=int)


def nuisance(cells: Cells) -> Float[np.ndarray, "n k"]:
    """Return an orthonormal basis of the nuisance effects that are partialled out of both variables.

    One intercept per family, the effects of each factor's levels on each family, and the covariates. Levels of a
    single recipe are shared by no other and count as one level, so that six data sets with one recipe each remain six
    units.
    """
    inside = _dummies(cells.family)
    columns = [inside, cells.covariates]
    for factor in cells.factors.T:
        levels = _dummies(_shared_levels(factor, cells.recipe))
        columns += [levels * own[:, None] for own in inside.T]
    return _basis(np.hstack(columns))


def _shared_levels(factor: Int[np.ndarray, " n"], recipe: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Levels of a factor as codes from 0, those of a single recipe merged into one."""
    recipes = {level: len(set(recipe[factor == level].tolist())) for level in set(factor.tolist())}
    return _codes([level if recipes[level] > 1 else -1 for level in factor.tolist()])


def _basis(columns: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n k"]:
    """Orthonormal basis of what these columns span, each column in units of its length."""
    lengths = np.linalg.norm(columns, axis=0)
    scaled = columns[:, lengths > 0] / lengths[lengths > 0]
    left, values, _ = np.linalg.svd(scaled, full_matrices=False)
    return left[:, values > 1e-9 * values.max(initial=0)]


def recipe_freedom(cells: Cells) -> int:
    """Recipes less the effects taken out of them: what is left to compare, the slope included."""
    _, first = np.unique(cells.recipe, return_index=True)
    one_family = Cells(*(column[first] for column in cells))._replace(family=np.zeros(len(first), dtype=int))
    return len(first) - nuisance(one_family).shape[1] if len(first) else 0


class Association(NamedTuple):
    """Separation and the logit of the success rate in several studies of one design.

    fit: of the observed logits. reliability: the share of the logits' residual variance that is not the binomial noise
    of the trials. That noise brings correlations nearer to zero, by the square root of the reliability.
    """

    fit: Slopes
    reliability: Float[np.ndarray, " s"]

    def interval(self, level: float) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
        """Ends of the interval at 1 - `level` without the trials' noise; -1 and 1 where the logits are all noise."""
        low, high = correlation_interval(self.fit, level=level)
        return np.where(self.reliability > 0, self._freed(low), -1), np.where(
            self.reliability > 0, self._freed(high), 1
        )

    def correlation(self) -> Float[np.ndarray, " s"]:
        """The correlation without the trials' noise; nan where the logits vary no more than that noise does."""
        return np.where(self.reliability > 0, self._freed(self.fit.correlation), np.nan)

    def power(self, correlation: float, level: float) -> Float[np.ndarray, " s"]:
        """Chance of p < `level` below zero at this correlation without the trials' noise."""
        return power(self.fit, correlation * np.sqrt(self.reliability), level=level)

    def _freed(self, correlation: Float[np.ndarray, " s"]) -> Float[np.ndarray, " s"]:
        return np.clip(correlation / np.sqrt(np.where(self.reliability > 0, self.reliability, 1)), -1, 1)


def associate(cells: Cells) -> Association | None:
    """Associate separation with the logit of the success rate at equal family, factors and covariates: one study.

    None where nothing varies or where fewer than two comparisons of recipes are left: one for the slope and one for
    its error.
    """
    if recipe_freedom(cells) < 2 or np.ptp(cells.successes / cells.trials) == 0:
        return None
    studies = cells.separation[None], cells.successes[None], cells.trials
    association = associate_all(*studies, nuisance(cells), cells.recipe)
    return None if np.isnan(association.fit.t[0]) else association


def associate_all(
    separation: Float[np.ndarray, "s n"],
    successes: Float[np.ndarray, "s n"],
    trials: Float[np.ndarray, " n"],
    basis: Float[np.ndarray, "n k"],
    recipe: Int[np.ndarray, " n"],
) -> Association:
    """`associate` for many studies of one design, whose nuisance is `basis`."""
    outcome, noise = logits(successes, trials)
    residual = outcome - (outcome @ basis) @ basis.T
    variance = (residual**2).sum(axis=1)
    share = noise @ (1 - (basis**2).sum(axis=1)) / np.where(variance > 0, variance, np.inf)
    return Association(robust_slope(separation, outcome, basis, recipe), np.maximum(1 - share, 0))


def logits(
    successes: Float[np.ndarray, "*s n"], trials: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "*s n"], Float[np.ndarray, "*s n"]]:
    """Empirical logits of success rates, finite at 0 and 1, and the variance that the trials give them.

    Source: Gart and Zweifel 1967, Biometrika 54.
    """
    wins, losses = successes + 0.5, trials - successes + 0.5
    return np.log(wins / losses), 1 / wins + 1 / losses


def fixed_effects(
    first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"], family: Int[np.ndarray, " n"]
) -> Tested:
    """Linear correlation within families, tested with one degree of freedom less for each family.

    Takes entries as independent, which models of one recipe are not: for comparison with published numbers. No
    interval. Raises ValueError where nothing varies within families or no degree of freedom is left.
    """
    freedom = len(first) - len(set(family.tolist())) - 1
    if freedom < 1:
        raise ValueError(f"got {len(first)} models, too few for their families; expected two more than families")
    r = _correlation_within(first, second, family)
    p_value = 2 * student.sf(abs(r) * math.sqrt(freedom / max(1 - r**2, 1e-300)), freedom)
    return Tested(Estimate(r, None, None, len(first)), float(p_value))


def _correlation_within(
    first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"], family: Int[np.ndarray, " n"]
) -> float:
    x, y = within_family(first, family), within_family(second, family)
    if not (np.ptp(x) > 1e-12 * np.abs(first).max() and np.ptp(y) > 1e-12 * np.abs(second).max()):
        raise ValueError("one of the two numbers is constant within families: nothing can correlate with it")
    return float(np.clip(x @ y / math.sqrt((x @ x) * (y @ y)), -1, 1))


def joint_bootstrap(
    separation: Float[np.ndarray, " n"],
    separation_draws: Float[np.ndarray, "draws n"],
    outcomes: Float[np.ndarray, "n prompts"],
    family: Int[np.ndarray, " n"],
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
) -> Estimate:
    """Within-family correlation of separation with the logit of the success rate, prompts of both redrawn.

    `separation_draws` are each model's bootstrap draws, the same prompts redrawn for every model (`separation_draws`
    with one seed); `outcomes` are 1 and 0, nan where undecided, one column per attacked prompt. Prompts that share one
    of `clusters` (wordings of a request) are redrawn together. The interval covers the sampling of prompts, for these
    models; the sampling of models is covered by the verdict.
    Redrawing adds noise to both sides, and draws lie as much nearer to zero as the value itself lies nearer to zero
    than the truth; so the interval is the basic one, draws reflected about the value: in simulations it covers .88 to
    .97, the percentiles .03 to .94. Models without a decided outcome are left out. Raises ValueError for no prompt, and
    where nothing varies within families.

    Source: Davison, Hinkley 1997, "Bootstrap methods and their application", section 5.2.
    """
    usable = ~np.isnan(outcomes).all(axis=1)
    if not usable.any():
        raise ValueError("no prompt is decided for any model; expected outcomes of prompts that all of them met")
    separation, separation_draws, outcomes = separation[usable], separation_draws[:, usable], outcomes[usable]
    family = np.unique(family[usable], return_inverse=True)[1]

    def correlation(x: Float[np.ndarray, " n"], weights: Float[np.ndarray, " prompts"]) -> float:
        decided = ~np.isnan(outcomes)
        wins = np.where(decided, outcomes, 0) @ weights
        logit = np.log((wins + 0.5) / (decided @ weights - wins + 0.5))
        return _correlation_within(x, logit, family)

    prompts, generator = outcomes.shape[1], np.random.default_rng(seed)
    cluster = np.arange(prompts) if clusters is None else _codes(clusters)
    units = int(cluster.max()) + 1
    counts = generator.multinomial(units, np.full(units, 1 / units), size=len(separation_draws))
    weights = counts[:, cluster].astype(float)
    draws = [correlation(x, weight) for x, weight in zip(separation_draws, weights, strict=True)]
    percentiles = with_interval(correlation(separation, np.ones(prompts)), np.array(draws), len(separation))
    if percentiles.value is None or percentiles.low is None or percentiles.high is None:
        return percentiles
    low, high = 2 * percentiles.value - percentiles.high, 2 * percentiles.value - percentiles.low
    return percentiles._replace(low=max(-1.0, min(low, percentiles.value)), high=min(1.0, max(high, percentiles.value)))


def within_family(values: Float[np.ndarray, " n"], family: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Values less their family's mean."""
    dummies = _dummies(family)
    return values - dummies @ ((dummies.T @ values) / dummies.sum(axis=0))


def _dummies(family: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n families"]:
    return (family[:, None] == np.arange(family.max(initial=-1) + 1)).astype(float)
