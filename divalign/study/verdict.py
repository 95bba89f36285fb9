"""Does separation predict safety? A test over trained models that can say no, and says when it cannot tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

ALPHA = 0.05
ENOUGH_POWER = 0.8
REFERENCE_CORRELATION = 0.7

Conclusion = Literal["supported", "not supported", "underpowered"]


class ModelPoint(NamedTuple):
    """One trained model: how far it separates safe from harmful prompts, and how many attacks of how many succeeded.

    `family` names what it shares with others, as a rule its base model. None separation: not measured.
    """

    name: str
    family: str
    separation: float | None
    successes: int
    trials: int


class Verdict(NamedTuple):
    """The answer as results.json holds it. value and p_value are None where the models allow no test."""

    statistic: str
    value: float | None
    p_value: float | None
    power: float | None
    n_models: int
    conclusion: Conclusion


def verdict(
    models: Sequence[ModelPoint], *, seed: int = 0, permutations: int = 2000, simulations: int = 400
) -> Verdict:
    """Test whether models that separate more are attacked less successfully, within families.

    The statistic is the score of a binomial regression of successes on separation with one intercept per family, in
    units of its spread when separations are shuffled within families; below zero: more separation, fewer successes.
    Its two-sided p-value comes from those shuffles, so families that differ in both (Simpson's paradox) count for
    nothing. `power` is the chance of p < 0.05 on these separations, families and trials if the within-family
    correlation of separation with the logit of the success rate were -0.7.

    "supported": p < 0.05 and below zero. "not supported": p < 0.05 the other way, or power of at least 0.8 and
    nothing found. "underpowered": nothing found that could have been.
    """
    used = [model for model in models if model.separation is not None and model.trials > 0]
    data = _Data.of(used)
    generator = np.random.default_rng(seed)
    name = "within-family score of separation on attack success"
    observed = data.successes[:, None]
    value, p_value = _score_test(data, observed, permutations, generator)
    if np.isnan(value[0]):
        return Verdict(name, None, None, 0.0, len(used), "underpowered")
    power = _power(data, permutations=499, simulations=simulations, generator=generator)
    return Verdict(name, float(value[0]), float(p_value[0]), power, len(used), _conclusion(value[0], p_value[0], power))


def _conclusion(value: float, p_value: float, power: float) -> Conclusion:
    if p_value < ALPHA:
        return "supported" if value < 0 else "not supported"
    return "not supported" if power >= ENOUGH_POWER else "underpowered"


class _Data(NamedTuple):
    separation: Float[np.ndarray, " n"]
    family: Int[np.ndarray, " n"]
    successes: Float[np.ndarray, " n"]
    trials: Float[np.ndarray, " n"]

    @classmethod
    def of(cls, models: Sequence[ModelPoint]) -> _Data:
        for model in models:
            if not 0 <= model.successes <= model.trials:
                raise ValueError(
                    f"{model.name}: {model.successes} successes of {model.trials} trials; expected 0 to trials"
                )
        names = sorted({model.family for model in models})
        return cls(
            np.array([model.separation for model in models], dtype=float),
            np.array([names.index(model.family) for model in models], dtype=int),
            np.array([model.successes for model in models], dtype=float),
            np.array([model.trials for model in models], dtype=float),
        )


def _score_test(
    data: _Data, successes: Float[np.ndarray, "n draws"], permutations: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Standardised score and two-sided permutation p for every column of successes; nan where nothing varies."""
    shuffles = np.stack([_shuffled(data, generator) for _ in range(permutations)])
    pooled = np.zeros_like(successes)
    for family in range(data.family.max(initial=-1) + 1):
        mine = data.family == family
        pooled[mine] = successes[mine].sum(axis=0) / data.trials[mine].sum()
    residual = successes - data.trials[:, None] * pooled
    score, null = data.separation @ residual, shuffles @ residual
    spread = null.std(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = null.mean(axis=0)
        extreme = (np.abs(null - centre) >= np.abs(score - centre) - 1e-9 * spread).sum(axis=0)
        tested = spread > 1e-12
        return (
            np.where(tested, (score - centre) / spread, np.nan),
            np.where(tested, (1 + extreme) / (1 + permutations), np.nan),
        )


def _shuffled(data: _Data, generator: np.random.Generator) -> Float[np.ndarray, " n"]:
    result = data.separation.copy()
    for family in np.unique(data.family):
        mine = np.flatnonzero(data.family == family)
        result[mine] = data.separation[generator.permutation(mine)]
    return result


def _power(data: _Data, *, permutations: int, simulations: int, generator: np.random.Generator) -> float:
    """Share of simulated studies, on these separations and trials, that find the reference correlation."""
    logit = np.log((data.successes + 0.5) / (data.trials - data.successes + 0.5))
    centred, level = data.separation.copy(), logit.copy()
    for family in np.unique(data.family):
        mine = data.family == family
        centred[mine] -= centred[mine].mean()
        level[mine] = logit[mine].mean()
    spread = max(float((logit - level).std()), 0.25)
    signal = -REFERENCE_CORRELATION * spread * centred / centred.std()
    noise = generator.normal(size=(len(logit), simulations)) * spread * np.sqrt(1 - REFERENCE_CORRELATION**2)
    chance = 1 / (1 + np.exp(-(level[:, None] + signal[:, None] + noise)))
    successes = generator.binomial(data.trials.astype(int)[:, None], chance).astype(float)
    value, p_value = _score_test(data, successes, permutations, generator)
    return float(((p_value < ALPHA) & (value < 0)).mean())
