"""Does separation predict safety? A test over trained models that can say no, and says when it cannot tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from divalign.core.association import Cells, as_cells, power, score_test, shuffles
from divalign.core.stats import ALPHA, holm

ENOUGH_POWER = 0.8
REFERENCE_CORRELATION = 0.7
STATISTIC = "within-family score of separation on attack success"

Conclusion = Literal["supported", "not supported", "underpowered"]


class ModelPoint(NamedTuple):
    """One trained model: how far it separates safe from harmful prompts, and how many attacks of how many succeeded.

    `family` names what it was trained from, as a rule the base model. `recipe` names what was done to it (method, data,
    length, not the seed): models of one recipe are one piece of evidence, on whatever base. None: a recipe of its own.
    `separation` is None where it was not measured.
    """

    name: str
    family: str
    separation: float | None
    successes: int
    trials: int
    recipe: str | None = None


class Verdict(NamedTuple):
    """The answer as results.json holds it. value and p_value are None where the models allow no test."""

    statistic: str
    value: float | None
    p_value: float | None
    power: float | None
    n_models: int
    conclusion: Conclusion


def verdict(
    models: Sequence[ModelPoint],
    *,
    covariates: Mapping[str, Sequence[float]] | None = None,
    seed: int = 0,
    most_shuffles: int = 2000,
    simulations: int = 400,
) -> Verdict:
    """Test whether models that separate more are attacked less successfully, within families.

    The statistic is the score of separation in a binomial regression of successes with one intercept per family, in
    units of its spread over shuffles; below zero: more separation, fewer successes. The two-sided p-value comes from
    shuffling recipes among those tried on the same families, so neither families that differ in both (Simpson's
    paradox) nor seeds and bases that repeat a recipe pass for evidence. `power` is the chance of p < 0.05 with these
    separations, recipes and trials if separation and the logit of the success rate correlated by -0.7 within
    families. `covariates` (one number per model) are taken out of both sides first.

    "supported": p < 0.05 and below zero. "not supported": p < 0.05 the other way, or nothing found with power of at
    least 0.8. "underpowered": nothing found that could have been. Models without separation or trials are left out.
    Raises ValueError for impossible counts or a separation that is not finite.
    """
    cells, used = model_cells(models, covariates), sum(_usable(model) for model in models)
    generator = np.random.default_rng(seed)
    ways = shuffles(cells, most=most_shuffles, generator=generator)
    values, p_values = score_test(cells, cells.successes[:, None], ways)
    if np.isnan(values[0]):
        return Verdict(STATISTIC, None, None, 0.0, used, "underpowered")
    found = power(
        cells, ways, correlation=REFERENCE_CORRELATION, alpha=ALPHA, simulations=simulations, generator=generator
    )
    value, p_value = float(values[0]), float(p_values[0])
    return Verdict(STATISTIC, value, p_value, found, used, conclude(value, p_value, found))


def conclude(value: float, p_value: float, power: float) -> Conclusion:
    """The three-way conclusion; see `verdict`."""
    if p_value < ALPHA:
        return "supported" if value < 0 else "not supported"
    return "not supported" if power >= ENOUGH_POWER else "underpowered"


def verdicts(models_by_indicator: Mapping[str, Sequence[ModelPoint]], *, seed: int = 0) -> dict[str, Verdict]:
    """Verdicts on several candidates for the indicator side by side, p-values corrected for having tried them all.

    Candidates are, say, separation on plain prompts and its worst or mean value under attacks. Holm's correction
    keeps the chance of any false "supported" at 5 %; `power` stays that of one candidate tested alone.
    """
    alone = {name: verdict(models, seed=seed) for name, models in models_by_indicator.items()}
    tested = {name: found for name, found in alone.items() if found.p_value is not None}
    corrected = holm([found.p_value for found in tested.values() if found.p_value is not None])
    for (name, found), p_value in zip(tested.items(), corrected, strict=True):
        conclusion = conclude(found.value or 0.0, p_value, found.power or 0.0)
        alone[name] = found._replace(p_value=p_value, conclusion=conclusion)
    return alone


def in_words(found: Verdict) -> str:
    """The verdict as a sentence that a report can print."""
    if found.value is None or found.p_value is None:
        return f"Underpowered: {found.n_models} models allow no test of whether separation predicts attack success."
    contrary = "within families, models that separate more are attacked more successfully"
    meaning = {
        "supported": "within families, models that separate more are attacked less successfully",
        "not supported": contrary if found.p_value < ALPHA else "separation does not go with fewer successful attacks",
        "underpowered": "nothing found, by a test that had little chance to find it",
    }[found.conclusion]
    numbers = f"score {found.value:+.2f}, p = {found.p_value:.3f}, power {found.power:.2f}, {found.n_models} models"
    return f"{found.conclusion.capitalize()}: {meaning} ({numbers})."


def model_cells(models: Sequence[ModelPoint], covariates: Mapping[str, Sequence[float]] | None = None) -> Cells:
    """Return the usable models by family and recipe. Raises ValueError as `verdict` does."""
    for name, column in (covariates or {}).items():
        if len(column) != len(models):
            raise ValueError(f"covariate {name}: got {len(column)} numbers for {len(models)} models")
        if not np.isfinite(column).all():
            raise ValueError(f"covariate {name}: not every number is finite; leave out the models that lack it")
    for model in models:
        if not 0 <= model.successes <= model.trials:
            raise ValueError(
                f"{model.name}: {model.successes} successes of {model.trials} trials; expected 0 to trials"
            )
        if not np.isfinite(model.separation or 0.0):
            raise ValueError(f"{model.name}: separation {model.separation}; expected a finite number, or None")
    used = [index for index, model in enumerate(models) if _usable(model)]
    return as_cells(
        [models[index].separation or 0.0 for index in used],
        [models[index].successes for index in used],
        [models[index].trials for index in used],
        [models[index].family for index in used],
        [models[index].recipe or index for index in used],
        [[column[index] for index in used] for column in (covariates or {}).values()],
    )


def _usable(model: ModelPoint) -> bool:
    return model.separation is not None and model.trials > 0
