"""Hidden states of two classes, validated once and represented by their Gram matrix.

Hidden states are wider than there are prompts, so every quantity here lives in the span of the prompts: the Gram
matrix is computed once, in float64, and each fold's principal axes, distances and projections are read off it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import eigh
from scipy.sparse.linalg import eigsh
from threadpoolctl import threadpool_limits
from torch import Tensor

from divalign.core.clusters import Groups, numbered

States = np.ndarray | Tensor
_ROWS_AT_ONCE = 1000


class Clouds(NamedTuple):
    """Hidden states of benign prompts, then of harmful ones: class labels, groups and the Gram matrix.

    `groups` is None, or one number per prompt: prompts of one group stay on one side of every split. `states` are
    centred; no more axes than their `width` exist.
    """

    harmful: Bool[np.ndarray, " n"]
    groups: Int[np.ndarray, " n"] | None
    gram: Float[np.ndarray, "n n"]
    states: Float[np.ndarray, "n d"]

    @property
    def width(self) -> int:
        return self.states.shape[1]


def as_cloud(states: States, name: str, *, at_least: int) -> Float[np.ndarray, "n d"]:
    """Return one class's states as a float64 array [prompts, width]. Raises ValueError for states that are none."""
    cloud = states.detach().cpu().double().numpy() if isinstance(states, Tensor) else np.asarray(states, dtype=float)
    if cloud.ndim != 2:
        raise ValueError(f"{name}: got an array of shape {cloud.shape}, expected [prompts, width]")
    if len(cloud) < at_least:
        raise ValueError(f"{name}: got {len(cloud)} prompts, expected at least {at_least}; add prompts of this class")
    wrong = np.flatnonzero(~np.isfinite(cloud).all(axis=1))
    if len(wrong):
        raise ValueError(f"{name}[{wrong[0]}]: the state is not finite ({len(wrong)} such); compute it in bf16 or fp32")
    return cloud


def pair_of_clouds(safe: States, harmful: States, *, at_least: int) -> tuple[np.ndarray, np.ndarray]:
    """Return both classes as float64 arrays of one width."""
    first, second = as_cloud(safe, "safe", at_least=at_least), as_cloud(harmful, "harmful", at_least=at_least)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"safe has width {first.shape[1]} and harmful {second.shape[1]}; expected one layer of one model"
        )
    return first, second


def clouds(
    safe: States, harmful: States, *, groups: Groups | None = None, at_least: int, copies: bool = False
) -> Clouds:
    """Return both classes with their Gram matrix. Raises ValueError for states that allow no measurement.

    Unless `copies` are allowed, two prompts of different groups with one and the same state are refused: a copy of
    a fitted prompt among the tested ones is no test.
    """
    first, second = pair_of_clouds(safe, harmful, at_least=at_least)
    numbers = numbered(groups, len(first), len(second))
    pooled = np.concatenate([first, second])
    if not copies:
        _refuse_copies(pooled, numbers, len(first))
    centred = pooled - pooled.mean(axis=0)
    return Clouds(np.arange(len(pooled)) >= len(first), numbers, centred @ centred.T, centred)


def _refuse_copies(pooled: Float[np.ndarray, "n d"], groups: np.ndarray | None, safe: int) -> None:
    first_index: dict[bytes, int] = {}
    for index, state in enumerate(pooled):
        first = first_index.setdefault(state.tobytes(), index)
        if first != index and (groups is None or groups[first] != groups[index]):
            names = [f"safe[{i}]" if i < safe else f"harmful[{i - safe}]" for i in (first, index)]
            raise ValueError(f"{names[0]} and {names[1]} have identical states; drop one or give both one group")


def distances(gram: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Euclidean distances from inner products; rounding below zero is taken back to it.

    Rows are made a block at a time: at 10,000 prompts one such array is 800 MB, and as a single expression there would
    be four beside the inner products.
    """
    squares, result = np.diag(gram), np.empty_like(gram)
    for start in range(0, len(gram), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        result[rows] = np.maximum(squares[rows, None] + squares[None, :] - 2 * gram[rows], 0)
    return np.sqrt(result, out=result)


def project(
    gram: Float[np.ndarray, "n n"], fitted: Bool[np.ndarray, " n"], dimensions: int
) -> Float[np.ndarray, "n k"]:
    """Coordinates of all points on the first principal axes of the `fitted` ones, largest variance first.

    The axes equal those of an SVD of the fitted points' centred states; the others do not touch them. Fewer axes come
    back where the fitted points span fewer. Each axis' sign makes its largest fitted coordinate positive.
    """
    inside = gram[np.ix_(fitted, fitted)]  # a copy, centred in place
    centre, overall = inside.mean(axis=0), inside.mean()
    inside -= centre
    inside -= centre[:, None]
    inside += overall
    values, vectors = _largest(inside, min(dimensions, len(inside) - 1))
    real = values > 1e-12 * max(values[0], 0)
    if not real.any():
        raise ValueError(f"the {len(inside)} fitted states are one and the same point; expected different states")
    values, vectors = values[real], vectors[:, real]
    tallest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[tallest, np.arange(vectors.shape[1])])
    # Subtracting the mean of the columns is centring: the columns of vectors sum to zero, rows need no shift.
    everyone = gram[:, fitted]
    everyone -= centre
    return (everyone @ vectors) / np.sqrt(values)


def _largest(matrix: Float[np.ndarray, "n n"], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Largest eigenvalues, descending, with their vectors; by Lanczos (to rounding) where few of many are wanted."""
    size = len(matrix)
    if size > 400 and count < size // 8:
        start = np.random.default_rng(0).standard_normal(size)  # ARPACK's own start changes from call to call
        with threadpool_limits(1):  # products with one vector: on a busy machine two threads took 13 s for 2
            values, vectors = eigsh(matrix, k=count, which="LA", v0=start)
    else:
        values, vectors = eigh(matrix, subset_by_index=[size - count, size - 1])
    order = np.argsort(values)[::-1]
    return values[order], vectors[:, order]
