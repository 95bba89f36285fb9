"""Splitting, redrawing and shuffling prompts, by group where prompts belong together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from torch import Tensor

from divalign.core.stats import Estimate, rate

Names = Sequence[Hashable] | np.ndarray | Tensor
Groups = tuple[Names, Names]
FOLDS = 5


def numbered(groups: Groups | None, safe: int, harmful: int) -> Int[np.ndarray, " n"] | None:
    """Return one number per prompt, safe ones first, equal where the groups' names are equal; None stays None."""
    if groups is None:
        return None
    if (len(groups[0]), len(groups[1])) != (safe, harmful):
        raise ValueError(f"groups name {len(groups[0])} + {len(groups[1])} prompts, expected {safe} + {harmful}")
    return numbers_of([*names_of(groups[0]), *names_of(groups[1])])


def names_of(names: Names) -> list[Hashable]:
    """Return names as plain values: two entries of a tensor that hold one number are not one object."""
    return names.tolist() if isinstance(names, np.ndarray | Tensor) else list(names)


def numbers_of(names: Names, *, ordered: bool = False) -> Int[np.ndarray, " n"]:
    """Return 0, 1, ... for each name, in the order in which they first occur; 1 and "1" are two names.

    With `ordered` in the names' own order, if they have one: the order of rows then changes nothing.
    """
    names = names_of(names)
    different: list[Any] = list(dict.fromkeys(names))
    if ordered:
        with suppress(TypeError):
            different = sorted(different)
    numbers = {name: number for number, name in enumerate(different)}
    return np.array([numbers[name] for name in names], dtype=int)


def fold_of_each(
    labels: Bool[np.ndarray, " n"], groups: Int[np.ndarray, " n"] | None, *, seed: int, folds: int = FOLDS
) -> Int[np.ndarray, " n"]:
    """Number of the fold that tests each prompt: classes spread evenly, a group never split."""
    if groups is not None and len(np.unique(groups)) < folds:
        raise ValueError(f"got {len(np.unique(groups))} groups, expected at least {folds}: a group is never split")
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = kind(folds, shuffle=True, random_state=seed)
    fold = np.empty(len(labels), dtype=int)
    for number, (_, test) in enumerate(splitter.split(labels, labels, groups)):
        fold[test] = number
    for number in range(folds):
        if len(set(labels[fold == number])) < 2:
            raise ValueError(f"{folds} folds: one holds prompts of one class only; give more or smaller groups")
    return fold


def bootstrap_weights(
    labels: Bool[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"] | None,
    *,
    draws: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, "n draws"]:
    """How often each prompt is in each bootstrap sample.

    Units are prompts, or groups where given; they are redrawn within strata of equal class content, so that no
    sample lacks a class. Multiplicities instead of copies: a statistic on weights costs one matrix product.
    """
    units = np.arange(len(labels)) if groups is None else groups
    number = int(units.max()) + 1
    holds_harmful = np.bincount(units, weights=labels, minlength=number) > 0
    holds_safe = np.bincount(units, weights=~labels, minlength=number) > 0
    counts = np.zeros((number, draws))
    for content in {*zip(holds_safe, holds_harmful, strict=True)}:
        stratum = np.flatnonzero((holds_safe == content[0]) & (holds_harmful == content[1]))
        counts[stratum] = generator.multinomial(len(stratum), np.full(len(stratum), 1 / len(stratum)), size=draws).T
    return counts[units]


def shuffled_labels(
    labels: Bool[np.ndarray, " n"], groups: Int[np.ndarray, " n"] | None, generator: np.random.Generator
) -> Bool[np.ndarray, " n"]:
    """Permute the labels as under the null hypothesis.

    Without groups any order will do. A group of both classes keeps its labels among its own prompts (a pair swaps or
    does not); groups of one class swap labels as wholes.
    """
    if groups is None:
        return generator.permutation(labels)
    result = labels.copy()
    order = np.argsort(groups, kind="stable")  # and not a search for each group, which 10,000 of them make slow
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    pure = [indices for indices in members if len(set(labels[indices])) == 1]
    for indices in members:
        result[indices] = generator.permutation(labels[indices])
    swapped = generator.permutation(len(pure))
    for indices, other in zip(pure, swapped, strict=True):
        result[indices] = labels[pure[other][0]]
    return result


def units_of(chosen: Bool[np.ndarray, " n"], groups: Int[np.ndarray, " n"] | None) -> int:
    """How many independent units the chosen prompts are: groups where there are any."""
    return int(chosen.sum()) if groups is None else len(np.unique(groups[chosen]))


def with_interval(value: float, draws: Float[np.ndarray, " draws"], n: int, *, confidence: float = 0.95) -> Estimate:
    """A value with the percentile interval of its bootstrap draws; no interval where a draw has no number."""
    if not np.isfinite(draws).all():
        return Estimate(float(value), None, None, n)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(value), float(low), float(high), n)


def share_with_interval(
    value: float, draws: Float[np.ndarray, " draws"], n: int, *, rests_on: int, confidence: float = 0.95
) -> Estimate:
    """A share between 0 and 1 with its interval, which reaches as far as a perfect score's.

    No bootstrap sample of a perfect score is less than perfect. There the Wilson interval of `rests_on` units
    stands in: 100 of 100 is [0.963, 1], not [1, 1]. A first error must not narrow it: an AUC of .994 on 100 prompts a
    class was covered in .90 of simulations without this rule.
    """
    perfect = rate([bool(round(value))] * rests_on, confidence=confidence)
    assert perfect.low is not None
    assert perfect.high is not None
    if np.ptp(draws) == 0 and value in (0.0, 1.0):
        return perfect._replace(n=n)
    estimate = with_interval(value, draws, n, confidence=confidence)
    if estimate.low is None or estimate.high is None:
        return estimate
    nearest = max(perfect.low, 1 - perfect.high)
    return estimate._replace(low=min(estimate.low, nearest), high=max(estimate.high, 1 - nearest))
