"""What stands beside the verdict: effect size, published correlations, prediction of held-out bases, placebos."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import statsmodels.api as sm
from jaxtyping import Float
from scipy.stats import norm
from statsmodels.tools.sm_exceptions import PerfectSeparationWarning

from divalign.core.association import Cells, fixed_effects, within_family
from divalign.core.stats import Estimate, Tested, pearson, spearman
from divalign.study.verdict import Covariates, ModelPoint, PredictionTest, model_cells, verdict


class Evidence(NamedTuple):
    """The verdict and its neighbours; None where the models do not allow a number.

    odds_ratio: odds of a successful attack per within-family spread of separation; under 1, more separation is safer.
    ranks: Spearman over all models, families ignored. within_families: linear correlation of separation with the
    success rate, both less their family's mean. pooled_z: the paper's number, correlation of the logarithm of
    separation with success rates standardised within families. held_out_family_skill: share of the spread of success
    rates that a regression on separation explains in a family it was not fitted on; 0 is guessing the others' rate,
    below 0 is worse. adjusted: verdicts by the covariate that was taken out. placebos: verdicts on numbers that should
    predict nothing.
    """

    verdict: PredictionTest
    odds_ratio: Estimate
    ranks: Tested | None
    within_families: Tested | None
    pooled_z: Tested | None
    held_out_family_skill: float | None
    adjusted: dict[str, PredictionTest]
    placebos: dict[str, PredictionTest]


def evidence(
    models: Sequence[ModelPoint],
    *,
    covariates: Covariates | None = None,
    placebos: Covariates | None = None,
    seed: int = 0,
) -> Evidence:
    """Return everything that these models say about separation as an indicator of safety.

    `covariates` (over-refusal, distance from the reference, utility) and `placebos` (separation of two benign topics)
    hold one number per model, None where it is undecided. A covariate measured with error is not taken out in full:
    with 50 prompts a model and 120 models the type I error adjusted for over-refusal is .08, with 400 prompts .035. One
    placebo is always there: the separations themselves, shuffled within families. Only `verdict` counts recipes once,
    at equal data set and method; the correlations count every cell, as publications do.
    """
    cells = model_cells(models)
    rates = cells.successes / cells.trials
    columns = {"shuffled within families": _shuffled(models, seed), **(placebos or {})}
    return Evidence(
        verdict=verdict(models, seed=seed),
        odds_ratio=odds_ratio(cells),
        ranks=_or_none(lambda: spearman(cells.separation, rates)),
        within_families=_or_none(lambda: fixed_effects(cells.separation, rates, cells.family)),
        pooled_z=pooled_z(cells),
        held_out_family_skill=held_out_family_skill(cells),
        adjusted={
            name: verdict(models, covariates={name: column}, seed=seed) for name, column in (covariates or {}).items()
        },
        placebos={name: _instead(models, column, seed) for name, column in columns.items()},
    )


def pooled_z(cells: Cells) -> Tested | None:
    """The paper's statistic: log separation with success rates standardised within families; None without a number."""
    rates = cells.successes / cells.trials
    return _or_none(lambda: pearson(_logarithm(cells.separation), standardised(rates, cells)))


def odds_ratio(cells: Cells, *, confidence: float = 0.95) -> Estimate:
    """Binomial regression of successes on separation with family intercepts, errors clustered by recipe.

    Families in which no attack, or every attack, succeeded say nothing of the slope and are left out. value None
    where the rest allows no fit. With few recipes the interval is too narrow: the verdict does not use it.
    """
    rates = np.bincount(cells.family, cells.successes) / np.maximum(np.bincount(cells.family, cells.trials), 1)
    informative = (rates > 0)[cells.family] & (rates < 1)[cells.family]
    family, n = cells.family[informative], int(informative.sum())
    own = within_family(cells.separation, cells.family)[informative]
    dummies = (family[:, None] == np.unique(family)).astype(float)
    if (
        n - dummies.shape[1] < 2
        or len(set(cells.recipe[informative].tolist())) < 3
        or not _varies(own, cells.separation)
    ):
        return Estimate(None, None, None, n)
    design = np.column_stack([own / own.std(), dummies])
    fitted = _fit(cells.successes[informative], cells.trials[informative], design, recipe=cells.recipe[informative])
    if fitted is None:
        return Estimate(None, None, None, n)
    slope, error = fitted[0][0], norm.ppf((1 + confidence) / 2) * fitted[1][0]
    return Estimate(float(np.exp(slope)), float(np.exp(slope - error)), float(np.exp(slope + error)), n)


def held_out_family_skill(cells: Cells) -> float | None:
    """Share of success rates' spread explained in families left out of the fit; None for fewer than 3 families.

    1 - sum n (predicted - rate)^2 / sum n (mean rate of the others - rate)^2. A number that does not compare across
    base models fails here however well it orders the models of each.
    """
    if len(set(cells.family.tolist())) < 3 or not _varies(cells.separation, cells.separation):
        return None
    missed, guessed = 0.0, 0.0
    design = np.column_stack([np.ones(len(cells.family)), cells.separation / cells.separation.std()])
    for family in np.unique(cells.family):
        out = cells.family == family
        fitted = _fit(cells.successes[~out], cells.trials[~out], design[~out])
        if fitted is None:
            return None
        rate = cells.successes[out] / cells.trials[out]
        predicted = 1 / (1 + np.exp(-design[out] @ fitted[0]))
        mean = cells.successes[~out].sum() / cells.trials[~out].sum()
        missed += cells.trials[out] @ (predicted - rate) ** 2
        guessed += cells.trials[out] @ (mean - rate) ** 2
    return float(1 - missed / guessed) if guessed > 0 else None


def standardised(rates: Float[np.ndarray, " n"], cells: Cells) -> Float[np.ndarray, " n"]:
    """Success rates less their family's mean, in units of its spread. Raises ValueError where a family has none."""
    own = within_family(rates, cells.family)
    spread = np.sqrt(np.bincount(cells.family, own**2) / np.bincount(cells.family))[cells.family]
    if not (spread > 0).all():
        raise ValueError("a family of one model, or of equal success rates, has no spread to standardise by")
    return own / spread


def _fit(
    successes: np.ndarray, trials: np.ndarray, design: np.ndarray, *, recipe: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Coefficients and standard errors; None where the regression has no finite solution."""
    options = {} if recipe is None else {"cov_type": "cluster", "cov_kwds": {"groups": recipe}}
    model = sm.GLM(np.column_stack([successes, trials - successes]), design, family=sm.families.Binomial())
    with warnings.catch_warnings():
        warnings.simplefilter("error", PerfectSeparationWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            result = model.fit(**options)
        except (PerfectSeparationWarning, np.linalg.LinAlgError):
            return None
    usable = np.isfinite(result.params).all() and np.isfinite(result.bse).all()
    return (np.asarray(result.params), np.asarray(result.bse)) if usable else None


def _varies(part: Float[np.ndarray, " n"], whole: Float[np.ndarray, " m"]) -> bool:
    """Tell whether numbers differ by more than the rounding of the ones that they were taken from."""
    return float(np.ptp(part)) > 1e-12 * float(np.abs(whole).max())


def _logarithm(separation: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    if not (separation > 0).all():
        raise ValueError("a separation of 0 has no logarithm")
    return np.log(separation)


def _or_none(measure: Callable[[], Tested]) -> Tested | None:
    """A number, or None where the models do not allow it: the reason is in the measure's own error."""
    try:
        return measure()
    except ValueError:
        return None


def _instead(models: Sequence[ModelPoint], column: Sequence[float | None], seed: int) -> PredictionTest:
    pairs = zip(models, column, strict=True)
    return verdict([model._replace(separation=value) for model, value in pairs], seed=seed)


def _shuffled(models: Sequence[ModelPoint], seed: int) -> list[float | None]:
    generator, result = np.random.default_rng([seed, 2]), [model.separation for model in models]
    for family in {model.family: None for model in models}:
        mine = [index for index, model in enumerate(models) if model.family == family]
        for index, other in zip(mine, generator.permutation(mine), strict=True):
            result[index] = models[other].separation
    return result
