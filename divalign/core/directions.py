"""The refusal direction: found from two clouds, compared, read per prompt, and projected out of a model.

An abliterated model, one with this direction projected out of every matrix that writes to its residual stream, is the
negative control for separation: it no longer refuses, and its hidden states may separate as before.
Source: Arditi et al. 2024, arXiv 2406.11717, sections 2.3 and 2.4.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from divalign.core.clouds import States, pair_of_clouds
from divalign.core.clusters import FOLDS, Groups, fold_of_each, numbered
from divalign.core.precision import in_widest

Matrix = TypeVar("Matrix", np.ndarray, Tensor)


def refusal_direction(safe: States, harmful: States) -> Float[np.ndarray, " d"]:
    """Unit vector from the mean safe to the mean harmful state of one layer and position.

    Raises ValueError if the means are equal: no direction leads from a point to itself.
    """
    first, second = pair_of_clouds(safe, harmful, at_least=1)
    return _unit(second.mean(axis=0) - first.mean(axis=0))


def project_out(matrix: Matrix, direction: np.ndarray | Tensor, *, axis: int = -1) -> Matrix:
    """Return the matrix without what it holds along `direction` on one of its axes; kind, dtype and device are kept.

    h - (h.r) r for states [n, d] (axis -1), and for a weight [d_out, d_in] that writes to the residual stream
    (axis 0), after which nothing it writes points along the direction. Doing it twice changes nothing.
    Raises ValueError where the axis is not as long as the direction.
    """
    values = in_widest(torch.as_tensor(matrix)).movedim(axis, -1)
    unit = torch.from_numpy(_unit(_vector(direction))).to(values)
    if values.shape[-1] != len(unit):
        raise ValueError(
            f"axis {axis} of {tuple(matrix.shape)} has length {values.shape[-1]}, the direction {len(unit)}"
        )
    rest = (values - (values @ unit)[..., None] * unit).movedim(-1, axis)
    return rest.to(matrix.dtype) if isinstance(matrix, Tensor) else rest.numpy().astype(matrix.dtype)


def cosine(first: np.ndarray | Tensor, second: np.ndarray | Tensor) -> float:
    """Cosine of two directions: 1 the same, 0 unrelated, -1 opposite."""
    return float(_unit(_vector(first)) @ _unit(_vector(second)))


def margins(
    safe: States, harmful: States, *, seed: int = 0, groups: Groups | None = None
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """How far each prompt lies on the harmful side, along the refusal direction of the other folds' prompts.

    (h - c).r / s with c the point halfway between the class means and s the spread within classes along r, all from
    the other four folds: above 0 is the harmful side, and a unit is one spread. Raises ValueError for fewer than 10
    prompts in a class, and as `separation` does.
    """
    first, second = pair_of_clouds(safe, harmful, at_least=2 * FOLDS)
    states, labels = np.concatenate([first, second]), np.arange(len(first) + len(second)) >= len(first)
    fold = fold_of_each(labels, numbered(groups, len(first), len(second)), seed=seed)
    result = np.empty(len(states))
    for number in range(FOLDS):
        tested = fold == number
        sides = [states[~tested & side] for side in (~labels, labels)]
        direction = refusal_direction(*sides)
        along = [side @ direction for side in sides]
        spread = np.sqrt((along[0].var() + along[1].var()) / 2)
        if spread == 0:
            raise ValueError("no class varies along the refusal direction; expected different states within a class")
        result[tested] = (states[tested] @ direction - (along[0].mean() + along[1].mean()) / 2) / spread
    return result[~labels], result[labels]


def _vector(direction: np.ndarray | Tensor) -> Float[np.ndarray, " d"]:
    return direction.detach().cpu().double().numpy() if isinstance(direction, Tensor) else np.asarray(direction, float)


def _unit(vector: Float[np.ndarray, " d"]) -> Float[np.ndarray, " d"]:
    length = np.linalg.norm(vector)
    if not length > 0:
        raise ValueError("a direction of length 0: are both classes' mean states the same?")
    return vector / length
