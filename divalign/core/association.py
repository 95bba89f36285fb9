"""Does a number known of trained models go with how often they fail? Permutation test, power and joint bootstrap.

The unit is neither the model nor the base model but the recipe: what was done to a base model (method, data, length).
Seeds of one recipe and the same recipe on several base models share its luck, so they are moved together.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from itertools import permutations, product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import t as student

from divalign.core.resampling import with_interval
from divalign.core.stats import Estimate, Tested


class Cells(NamedTuple):
    """One entry per family and recipe, seeds averaged: separation, attack successes and trials, further columns."""

    separation: Float[np.ndarray, " n"]
    successes: Float[np.ndarray, " n"]
    trials: Float[np.ndarray, " n"]
    family: Int[np.ndarray, " n"]
    recipe: Int[np.ndarray, " n"]
    covariates: Float[np.ndarray, "n c"]


class Shuffles(NamedTuple):
    """Which cell's separation each cell gets, per shuffle; `complete` where these are all there are."""

    orders: Int[np.ndarray, "shuffles n"]
    complete: bool


def as_cells(
    separation: Sequence[float],
    successes: Sequence[int],
    trials: Sequence[int],
    families: Sequence[Hashable],
    recipes: Sequence[Hashable],
    covariates: Sequence[Sequence[float]] = (),
) -> Cells:
    """Return the models by family and recipe: separations and covariates averaged, successes and trials summed."""
    keys = list(dict.fromkeys(zip(families, recipes, strict=True)))
    cell = np.array([keys.index(key) for key in zip(families, recipes, strict=True)], dtype=int)
    count = np.bincount(cell, minlength=len(keys))

    def total(values: Sequence[float] | Sequence[int]) -> Float[np.ndarray, " n"]:
        return np.bincount(cell, weights=np.asarray(values, float), minlength=len(keys)).astype(float)

    sides = [list(dict.fromkeys(side)) for side in (families, recipes)]
    family, recipe = ([names.index(key[at]) for key in keys] for at, names in enumerate(sides))
    return Cells(
        total(separation) / count,
        total(successes),
        total(trials),
        np.array(family, dtype=int),
        np.array(recipe, dtype=int),
        np.array([total(column) / count for column in covariates]).reshape(len(covariates), len(keys)).T,
    )


def shuffles(cells: Cells, *, most: int, generator: np.random.Generator) -> Shuffles:
    """Ways to exchange recipes among those tried on the same families, in all families at once.

    Where every recipe is its own, this shuffles within families. All ways if there are at most `most`, else that many
    at random.
    """
    blocks = _blocks(cells)
    ways = math.prod(math.factorial(len(block)) for block in blocks)
    if ways <= most:
        return Shuffles(np.array([_moved(cells, blocks, way) for way in _all_ways(blocks)]), complete=True)
    drawn = ([generator.permutation(len(block)).tolist() for block in blocks] for _ in range(most))
    return Shuffles(np.array([_moved(cells, blocks, way) for way in drawn]), complete=False)


def _blocks(cells: Cells) -> list[Int[np.ndarray, "recipes families"]]:
    """Cell numbers of recipes that were tried on the same families, one array per set of families."""
    by_recipe: dict[int, dict[int, int]] = {}
    for index, (family, recipe) in enumerate(zip(cells.family, cells.recipe, strict=True)):
        by_recipe.setdefault(int(recipe), {})[int(family)] = index
    blocks: dict[tuple[int, ...], list[list[int]]] = {}
    for where in by_recipe.values():
        blocks.setdefault(tuple(sorted(where)), []).append([where[family] for family in sorted(where)])
    return [np.array(block) for block in blocks.values()]


def _all_ways(blocks: list[np.ndarray]) -> Iterator[tuple[tuple[int, ...], ...]]:
    return product(*(permutations(range(len(block))) for block in blocks))


def _moved(cells: Cells, blocks: list[np.ndarray], way: Sequence[Sequence[int]]) -> Int[np.ndarray, " n"]:
    order = np.arange(len(cells.separation))
    for block, permutation in zip(blocks, way, strict=True):
        order[block] = block[np.asarray(permutation)]
    return order


def score_test(
    cells: Cells, successes: Float[np.ndarray, "n studies"], ways: Shuffles
) -> tuple[Float[np.ndarray, " studies"], Float[np.ndarray, " studies"]]:
    """Score of separation in a binomial regression of successes with family intercepts, and its two-sided p.

    U = sum of x_i (k_i - n_i p_family(i)), in units of its spread over the shuffles of x; below zero: more separation,
    fewer successes. One study per column of `successes`; nan where nothing varies. Covariates are taken out of both
    sides first, what is left of x is shuffled, and they are taken out of each shuffle again: without that the level of
    a test at 0.05 is 0.09 with six recipes.
    Source: score test, Rao 1948; covariates, the method named after B. Smith in Winkler et al. 2014, NeuroImage 92.
    """
    nuisance = _dummies(cells.family)
    expected = nuisance @ ((nuisance.T @ successes) / (nuisance.T @ cells.trials)[:, None])
    residual = successes - cells.trials[:, None] * expected
    separation = within_family(cells.separation, cells.family)
    if cells.covariates.shape[1]:
        inside = np.stack([within_family(column, cells.family) for column in cells.covariates.T], axis=1)
        known = inside @ np.linalg.pinv(inside)
        separation, residual = separation - known @ separation, residual - known @ residual
        shuffled = _without(known, separation[ways.orders], float(np.linalg.norm(separation)))
    else:
        shuffled = separation[ways.orders]
    score, null = separation @ residual, shuffled @ residual
    centre, spread = null.mean(axis=0), null.std(axis=0)
    as_extreme = (np.abs(null - centre) >= np.abs(score - centre) - 1e-9 * spread).sum(axis=0)
    itself = 0 if ways.complete else 1
    p_value = (itself + as_extreme) / (itself + len(null))
    varies = spread > 1e-9 * (np.abs(cells.separation).max(initial=0) * cells.trials.sum() + 1)
    safe_spread = np.where(varies, spread, 1)
    return np.where(varies, (score - centre) / safe_spread, np.nan), np.where(varies, p_value, np.nan)


def _without(
    known: Float[np.ndarray, "n n"], shuffled: Float[np.ndarray, "shuffles n"], norm: float
) -> Float[np.ndarray, "shuffles n"]:
    """Shuffles less what the covariates say of them, at the length `norm` of what was shuffled."""
    left = shuffled - shuffled @ known.T
    lengths = np.linalg.norm(left, axis=1, keepdims=True)
    return left * (norm / np.where(lengths > 1e-9 * norm, lengths, np.inf))


def power(
    cells: Cells, ways: Shuffles, *, correlation: float, alpha: float, simulations: int, generator: np.random.Generator
) -> float:
    """Chance that `score_test` finds p < alpha below zero if separation went with success rates as given.

    Within families and over recipes, the logit of the success rate is made to correlate with separation by
    -`correlation`; the rest of its variation is the observed one dealt out anew by recipe, so that recipes keep what
    they share over families. In simulated studies with that correlation the share found was never more than 2 points
    under the number given here (one entry per recipe; seeds that differ more than recipes do cost up to 6).
    A spread of logits under 0.25 is taken as 0.25: models that hardly differ would make any effect look findable.
    """
    logit = np.log((cells.successes + 0.5) / (cells.trials - cells.successes + 0.5))
    own = within_family(logit, cells.family)
    separation = within_family(cells.separation, cells.family)
    if not separation.std() > 0:
        return 0.0
    signal = -correlation * max(own.std(), 0.25) * separation / separation.std()
    dealt = own[ways.orders[generator.integers(len(ways.orders), size=simulations)]].T
    chance = 1 / (1 + np.exp(-((logit - own + signal)[:, None] + math.sqrt(1 - correlation**2) * dealt)))
    simulated = generator.binomial(cells.trials.astype(int)[:, None], chance).astype(float)
    value, p_value = score_test(cells, simulated, ways)
    return float(((p_value < alpha) & (value < 0)).mean())


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
    *,
    seed: int = 0,
) -> Estimate:
    """Within-family correlation of separation with the logit of the success rate, prompts of both redrawn.

    `separation_draws` are each model's bootstrap draws, the same prompts redrawn for every model (`separation_draws`
    with one seed); `outcomes` are 1 and 0, nan where undecided, one column per attacked prompt. The interval says what
    other prompts could have given for these models; what other models could have given is the verdict's business.
    Redrawing adds noise to both sides, so the interval leans towards zero where prompts are few. Models without a
    decided outcome are left out. Raises ValueError for no prompt, and where nothing varies within families.
    """
    known = ~np.isnan(outcomes).all(axis=1)
    if not known.any():
        raise ValueError("no prompt is decided for any model; expected outcomes of prompts that all of them met")
    separation, separation_draws, outcomes = separation[known], separation_draws[:, known], outcomes[known]
    family = np.unique(family[known], return_inverse=True)[1]

    def correlation(x: Float[np.ndarray, " n"], weights: Float[np.ndarray, " prompts"]) -> float:
        decided = ~np.isnan(outcomes)
        wins = np.where(decided, outcomes, 0) @ weights
        logit = np.log((wins + 0.5) / (decided @ weights - wins + 0.5))
        return _correlation_within(x, logit, family)

    prompts, generator = outcomes.shape[1], np.random.default_rng(seed)
    weights = generator.multinomial(prompts, np.full(prompts, 1 / prompts), size=len(separation_draws)).astype(float)
    draws = [correlation(x, weight) for x, weight in zip(separation_draws, weights, strict=True)]
    return with_interval(correlation(separation, np.ones(prompts)), np.array(draws), len(separation))


def within_family(values: Float[np.ndarray, " n"], family: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Values less their family's mean."""
    dummies = _dummies(family)
    return values - dummies @ ((dummies.T @ values) / dummies.sum(axis=0))


def _dummies(family: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n families"]:
    return (family[:, None] == np.arange(family.max(initial=-1) + 1)).astype(float)
