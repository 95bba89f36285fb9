"""Prompts that belong together: their numbers, and folds and shuffles that keep them together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from torch import Tensor

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
