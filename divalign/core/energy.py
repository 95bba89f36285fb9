"""Two measures from pairwise distances: energy and silhouette, on bootstrap weights and shuffled labels at once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float


def energy(
    distances: Float[np.ndarray, "n n"], safe: Float[np.ndarray, "n draws"], harmful: Float[np.ndarray, "n draws"]
) -> Float[np.ndarray, " draws"]:
    """Energy coefficient of two samples, one value per column of weights: 0 for equal distributions, 1 for two points.

    H = (2A - B - C) / 2A, with A the mean distance between the classes and B, C those within them, over pairs of
    different prompts (unbiased, so that it comes out slightly below zero as often as above where they are equal).
    A weight is how often a prompt counts in its class; 0 keeps it out. No unit: scaling all states changes nothing.
    Source: Szekely and Rizzo 2013, J. Stat. Plann. Inference 143, sections 2 and 6.
    """
    from_safe = distances @ safe
    between = (harmful * from_safe).sum(axis=0) / (safe.sum(axis=0) * harmful.sum(axis=0))
    within_safe = _within(from_safe, safe)
    within_harmful = _within(distances @ harmful, harmful)
    return 1 - (within_safe + within_harmful) / (2 * between)


def _within(summed: np.ndarray, weights: np.ndarray) -> np.ndarray:
    # A prompt drawn twice is no pair at distance 0: its pairs with itself leave the denominator too.
    return (weights * summed).sum(axis=0) / (weights.sum(axis=0) ** 2 - (weights**2).sum(axis=0))


def silhouette(
    distances: Float[np.ndarray, "n n"], harmful: Bool[np.ndarray, " n"], weights: Float[np.ndarray, "n draws"]
) -> Float[np.ndarray, " draws"]:
    """Mean silhouette of the two classes, one value per column of weights; from -1 to 1, larger is more apart.

    (b - a) / max(a, b) for each prompt, a its mean distance to its own class without itself, b to the other class;
    0 for a prompt that is all of its class, nan where a column of weights lacks a class.
    Source: Rousseeuw 1987, J. Comput. Appl. Math. 20, p. 55.
    """
    total = np.zeros(weights.shape[1])
    for label in (False, True):
        mine = harmful == label
        own, other = weights[mine], weights[~mine]
        empty = other.sum(axis=0) == 0
        companions = own.sum(axis=0) - own
        inside = distances[np.ix_(mine, mine)] @ own / np.maximum(companions, 1)
        outside = distances[np.ix_(mine, ~mine)] @ other / np.where(empty, np.nan, other.sum(axis=0))
        larger = np.maximum(inside, outside)
        each = np.divide(
            outside - inside, larger, out=np.zeros_like(larger), where=~((larger <= 0) | (companions == 0))
        )
        total += np.where(empty, np.nan, (own * each).sum(axis=0))
    return total / np.maximum(weights.sum(axis=0), 1)
