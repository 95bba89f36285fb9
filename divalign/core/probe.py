"""The linear probe: standardised features, L2 logistic regression, its strength chosen inside the training prompts.

The fit is scikit-learn's `make_pipeline(StandardScaler(), LogisticRegression(C))` to rounding, in another order of
work: L2 regression does not change under rotations, so it is solved in the training prompts' own principal axes, at
most as many as there are prompts however wide the states are, where the Hessian is nearly diagonal. The means and
scales are those of the training prompts.

Source: Alain and Bengio 2017, arXiv 1610.01644 (linear probes); Hastie and Tibshirani 2004, Biostatistics 5 (the
rotation); Lin, Weng and Keerthi 2008, JMLR 9 (Newton's method with conjugate gradients).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import eigh
from scipy.special import expit

STRENGTHS = tuple(10.0**power for power in range(-4, 2))  # C, ascending: weakest fit first
_STEPS, _CONJUGATE_STEPS = 50, 60


class Rotated(NamedTuple):
    """Training and tested prompts on the training prompts' principal axes; `squares` are the axes' sums of squares."""

    trained: Float[np.ndarray, "n r"]
    tested: Float[np.ndarray, "m r"]
    squares: Float[np.ndarray, " r"]


def fold_log_odds(
    states: Float[np.ndarray, "n d"], labels: Bool[np.ndarray, " n"], fold: Int[np.ndarray, " n"], number: int
) -> Float[np.ndarray, " m"]:
    """Log-odds of the labels of one fold's prompts from a probe of the others'.

    The strength is that of the largest likelihood when each of the other folds is left out in its turn.
    """
    tested = fold == number
    axes = rotate(states[~tested], states[tested])
    strength = _best_strength(axes, labels[~tested], fold[~tested])
    coefficients = fit_logistic(axes, labels[~tested], np.ones((len(axes.trained), 1)), strength, tolerance=1e-5)
    return axes.tested @ coefficients[:-1, 0] + coefficients[-1, 0]


def rotate(trained: Float[np.ndarray, "n d"], tested: Float[np.ndarray, "m d"]) -> Rotated:
    """Standardise both by the training prompts' means and scales, and rotate to the training prompts' axes."""
    trained, tested = trained - trained.mean(axis=0), tested - trained.mean(axis=0)
    spread = np.sqrt(np.einsum("nd,nd->d", trained, trained) / len(trained))
    scale = 1 / np.where(spread > 1e-12 * spread.max(), spread, np.inf)  # a constant feature counts for nothing
    trained, tested = trained * scale, tested * scale
    wide = trained.shape[1] > len(trained)
    squares, vectors = eigh(trained @ trained.T if wide else trained.T @ trained, driver="evd")
    real = squares > 1e-10 * max(float(squares[-1]), 1e-300)
    squares, vectors = squares[real], vectors[:, real]
    if not wide:
        return Rotated(trained @ vectors, tested @ vectors, squares)
    roots = np.sqrt(squares)
    return Rotated(vectors * roots, (tested @ trained.T) @ (vectors / roots), squares)


def fit_logistic(
    axes: Rotated,
    labels: Bool[np.ndarray, " n"],
    weights: Float[np.ndarray, "n fits"],
    strength: float,
    *,
    start: Float[np.ndarray, "r1 fits"] | None = None,
    tolerance: float,
) -> Float[np.ndarray, "r1 fits"]:
    """Coefficients, the intercept last, that minimise |b|^2/2 + C sum w log(1 + e^(-y f)): one column per fit.

    Newton's method; its equations are solved by conjugate gradients, for all columns at once. `tolerance` is the norm
    of the gradient relative to that at zero.
    """
    points = np.hstack([axes.trained, np.ones((len(axes.trained), 1))])
    squares = np.append(axes.squares, len(points))[:, None]
    ridge = np.append(np.ones(len(axes.squares)), 0.0)[:, None]
    weights, truth = strength * weights, labels[:, None].astype(float)
    theta = np.zeros((points.shape[1], weights.shape[1])) if start is None else start.copy()
    first = np.linalg.norm(points.T @ (weights * (0.5 - truth)), axis=0)
    loss = _loss(points @ theta, theta * ridge, weights, truth)
    for _ in range(_STEPS):
        chance = expit(points @ theta)
        gradient = points.T @ (weights * (chance - truth)) + ridge * theta
        if (np.linalg.norm(gradient, axis=0) <= tolerance * first).all():
            break
        curvature = weights * np.maximum(chance * (1 - chance), 1e-10)
        step = _newton_step(points, gradient, curvature, ridge, squares)
        theta, loss = _descend(points, theta, step, loss, ridge, weights, truth)
    return theta


def _loss(scores: np.ndarray, penalised: np.ndarray, weights: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return (weights * (np.logaddexp(0, scores) - truth * scores)).sum(axis=0) + (penalised**2).sum(axis=0) / 2


def _descend(
    points: np.ndarray,
    theta: np.ndarray,
    step: np.ndarray,
    loss: np.ndarray,
    ridge: np.ndarray,
    weights: np.ndarray,
    truth: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Take the step, halved in each column until the loss falls."""
    length, scores, moves = np.ones(theta.shape[1]), points @ theta, points @ step

    def reached() -> np.ndarray:
        return _loss(scores - length * moves, (theta - length * step) * ridge, weights, truth)

    new = reached()
    for _ in range(20):
        worse = new > loss * (1 + 1e-12)
        if not worse.any():
            return theta - length * step, new
        length = np.where(worse, length / 2, length)
        new = reached()
    length = np.where(new > loss, 0.0, length)
    return theta - length * step, np.minimum(new, loss)


def _newton_step(
    points: np.ndarray, gradient: np.ndarray, curvature: np.ndarray, ridge: np.ndarray, squares: np.ndarray
) -> np.ndarray:
    """Solve H step = gradient in each column, preconditioned by H's value at equal curvatures, which is diagonal."""
    diagonal = ridge + curvature.mean(axis=0) * squares
    step, residual = np.zeros_like(gradient), gradient.copy()
    direction = conditioned = residual / diagonal
    energy = (residual * conditioned).sum(axis=0)
    goal = 1e-2 * np.linalg.norm(gradient, axis=0)
    for _ in range(_CONJUGATE_STEPS):
        if (np.linalg.norm(residual, axis=0) <= goal).all():
            break
        product = ridge * direction + points.T @ (curvature * (points @ direction))
        length = energy / np.maximum((direction * product).sum(axis=0), 1e-300)
        step, residual = step + length * direction, residual - length * product
        conditioned = residual / diagonal
        renewed = (residual * conditioned).sum(axis=0)
        direction, energy = conditioned + renewed / np.maximum(energy, 1e-300) * direction, renewed
    return step


def _best_strength(axes: Rotated, labels: Bool[np.ndarray, " n"], fold: Int[np.ndarray, " n"]) -> float:
    """The C of the largest likelihood of left-out folds, from the weakest on until one is worse than the best."""
    left_out = fold[:, None] == np.unique(fold)
    best, lowest, start = STRENGTHS[0], np.inf, None
    for strength in STRENGTHS:
        start = fit_logistic(axes, labels, (~left_out).astype(float), strength, start=start, tolerance=1e-2)
        scores = ((axes.trained @ start[:-1] + start[-1]) * left_out).sum(axis=1)
        loss = float(np.logaddexp(0, np.where(labels, -scores, scores)).mean())
        if loss > lowest:
            break
        best, lowest = strength, loss
    return best
