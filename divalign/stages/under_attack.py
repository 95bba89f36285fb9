"""Separation of hidden states under attack: the same prompts transformed by each attack, and inside a prefill.

Attacks come as plain functions from a prompt to a conversation. A model may tell plain prompts apart perfectly and
lose the difference behind a wrapper; then the separation of plain prompts says nothing about that wrapper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from divalign.core.bootstrap import bootstrap_weights, share_with_interval, with_interval
from divalign.core.clouds import clouds
from divalign.core.heldout import HeldOut, hold_out
from divalign.core.separation import FEWEST_PROMPTS
from divalign.core.stats import Estimate
from divalign.data.examples import Conversation, Row

Transform = Callable[[str], Conversation]
MEASURES = ("bhattacharyya", "probe_auc")


class UnderAttack(NamedTuple):
    """Held-out separation under each attack; the least and the mean of them, all on the same draws of prompts.

    A value that could not be measured is None, and then so are `worst` and `mean`: the worst of some is not the worst.
    The value of `worst` is the least of the estimates, which lies below the least separation where several are close:
    the least of several errors. Its interval holds the least separation itself.
    """

    by_attack: dict[str, Estimate]
    worst: Estimate
    mean: Estimate


def inside_openings(attacks: Mapping[str, Transform]) -> dict[str, Transform]:
    """Return the attacks and, for each that opens the response, one more for every shorter opening, word by word.

    "prefill" with the opening "Sure, here is" gains "prefill 1 of 3" and "prefill 2 of 3".
    """
    transforms: dict[str, Transform] = {}
    for name, attack in attacks.items():
        words = len(attack("a prompt").prefill.split(" ")) if attack("a prompt").prefill else 0
        transforms |= {f"{name} {count} of {words}": _cut(attack, count) for count in range(1, words)}
        transforms[name] = attack
    return transforms


def separation_under_attack(
    states: Mapping[str, Float[np.ndarray, "n d"]],
    prompts: Sequence[Row],
    *,
    measure: str = "bhattacharyya",
    seed: int = 0,
    draws: int = 1000,
) -> UnderAttack:
    """Measure held-out separation ("bhattacharyya" in nats, or "probe_auc") under each attack, its worst and mean.

    The same folds and the same redrawn prompts serve all attacks. Raises ValueError for no attacks and for a measure of
    another name.
    """
    return summary(draws_under_attack(states, prompts, measure=measure, seed=seed, draws=draws), prompts, measure)


def summary(
    draws: Mapping[str, Float[np.ndarray, " draws"] | None], prompts: Sequence[Row], measure: str
) -> UnderAttack:
    """Return what `draws_under_attack` found as estimates with intervals; a perfect AUC gets Wilson's."""
    n, smaller = len(prompts), min(len(set(clusters)) for clusters in sides(prompts)[1])

    def estimate(values: np.ndarray | None) -> Estimate:
        if values is None:
            return Estimate(None, None, None, n)
        if measure == "probe_auc":
            return share_with_interval(float(values[0]), values[1:], n, rests_on=smaller)
        return with_interval(values[0], values[1:], n)

    estimates = {name: estimate(values) for name, values in draws.items()}
    worst, mean = estimates.pop("worst"), estimates.pop("mean")
    attacks = [values[1:] for name, values in draws.items() if name in estimates and values is not None]
    return UnderAttack(estimates, _least([*estimates.values()], attacks, worst), mean)


def _least(
    estimates: Sequence[Estimate], draws: Sequence[Float[np.ndarray, " draws"]], worst: Estimate, tail: float = 0.025
) -> Estimate:
    """Return `worst`, the least of the estimates, with an interval of the least of what they estimate.

    The least is above every attack's lower end where that attack's own value is, so the least lower end bounds it. It
    is below every attack's upper end at once where the ends are simultaneous: at the quantile that all attacks of a
    bootstrap draw keep to in 1 - `tail` of the draws. The draws of a minimum themselves are no help: they lie below the
    minimum as it lies below the truth.
    """
    lows = [estimate.low for estimate in estimates if estimate.low is not None]
    if worst.value is None or len(lows) < len(estimates):
        return worst._replace(low=None, high=None)
    ranks = np.array([rankdata(each, method="max") / len(each) for each in draws])
    level = np.quantile(ranks.max(axis=0), 1 - tail)
    highs = [estimate.high or 0.0 for estimate in estimates]
    ends = [max(float(np.quantile(each, level)), high) for each, high in zip(draws, highs, strict=True)]
    return worst._replace(low=min(worst.value, *lows), high=max(worst.value, min(ends)))


def draws_under_attack(
    states: Mapping[str, Float[np.ndarray, "n d"]],
    prompts: Sequence[Row],
    *,
    measure: str = "bhattacharyya",
    seed: int = 0,
    draws: int = 1000,
) -> dict[str, Float[np.ndarray, " draws"] | None]:
    """Return, for each attack and for "worst" and "mean", the value and after it its bootstrap draws, or None.

    The options and errors are those of `separation_under_attack`.
    """
    if not states or measure not in MEASURES:
        raise ValueError(f"got {len(states)} attacks and the measure {measure!r}; expected some, and one of {MEASURES}")
    by_attack = {name: _measured(rows, prompts, measure, seed=seed, draws=draws) for name, rows in states.items()}
    finite = [values for values in by_attack.values() if values is not None]
    if len(finite) < len(by_attack):
        return {**by_attack, "worst": None, "mean": None}
    return {**by_attack, "worst": np.min(finite, axis=0), "mean": np.mean(finite, axis=0)}


def sides(prompts: Sequence[Row]) -> tuple[np.ndarray, tuple[list[str], list[str]]]:
    """Return which prompts are harmful, and the clusters of the safe and of the harmful ones."""
    harmful = np.array([bool(row["harmful"]) for row in prompts])
    clusters = tuple([row["cluster"] for row in prompts if bool(row["harmful"]) is side] for side in (False, True))
    return harmful, (clusters[0], clusters[1])


def _measured(
    rows: np.ndarray, prompts: Sequence[Row], measure: str, *, seed: int, draws: int
) -> Float[np.ndarray, " draws"] | None:
    """Return the value and after it its bootstrap draws; None where these states allow no number."""
    harmful, groups = sides(prompts)
    try:
        pooled = clouds(rows[~harmful], rows[harmful], groups=groups, at_least=FEWEST_PROMPTS["heldout"])
        crossfit = hold_out(pooled, seed=seed)
        weights = bootstrap_weights(pooled.harmful, pooled.groups, draws=draws, generator=np.random.default_rng(seed))
        return _of(crossfit, measure, np.concatenate([np.ones((len(rows), 1)), weights], axis=1))
    except ValueError:
        return None


def _of(crossfit: HeldOut, measure: str, weights: np.ndarray) -> Float[np.ndarray, " draws"]:
    if measure == "probe_auc":
        return crossfit.probe_auc(weights)
    return np.maximum(crossfit.bhattacharyya(weights), 0)


def _cut(attack: Transform, words: int) -> Transform:
    def cut(prompt: str) -> Conversation:
        whole = attack(prompt)
        return whole._replace(prefill=" ".join(whole.prefill.split(" ")[:words]))

    return cut
