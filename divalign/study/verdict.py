"""Does separation predict resilience? A test over trained models with three answers, the third being "undecided"."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from divalign.core.association import Association, Cells, as_cells, associate
from divalign.core.stats import ALPHA, Estimate, holm
from divalign.records import SMALLEST_EFFECT, VerdictRecord

STATISTIC = "t of attack success on separation"
FACTORS = {"data": "data set", "method": "method", "length": "training length"}  # of a ModelPoint, in words

Conclusion = Literal["supported", "no effect", "undecided"]
Covariates = Mapping[str, Sequence[float | None]]


class ModelPoint(NamedTuple):
    """One trained model: how far it separates safe from harmful prompts, and how many attacks of how many succeeded.

    `family` names what it was trained from, as a rule the base model; `data`, `method` and `length` its data set, its
    method and its training length. `recipe` names all that was done to it except the seed: models of one recipe are
    one piece of evidence, on whatever base. None: the recipe is method, data and length, or its own where method or
    data are None too. Recipes whose data set and method are not given count as independent of each other.
    `separation` is None where it is undecided; a distance enters as `log_distance`.
    """

    name: str
    family: str
    separation: float | None
    successes: int
    trials: int
    recipe: str | None = None
    data: str | None = None
    method: str | None = None
    length: str | None = None


class PredictionTest(NamedTuple):
    """The test of separation as an indicator, and what it concludes.

    value and p_value: the t statistic and its two-sided p-value; None where the models allow no test. effect, low and
    high: the correlation of separation with the logit of the success rate at equal base model, data set and method,
    and its 95 % interval. power: the chance of "supported" if the correlation were -0.3. left_out: models that
    have no decided separation, success rate or covariate, and are not among `n_models`.
    """

    statistic: str
    value: float | None
    p_value: float | None
    power: float | None
    n_models: int
    conclusion: Conclusion
    low: float | None = None
    high: float | None = None
    effect: float | None = None
    left_out: int = 0


class AttackCounts(NamedTuple):
    """Successful attacks, and attacks that were decided."""

    successes: int
    trials: int


def verdict(models: Sequence[ModelPoint], *, covariates: Covariates | None = None, seed: int = 0) -> PredictionTest:
    """Test whether models that separate more are attacked less successfully, at equal base, data set and method.

    The logit of the success rate is regressed on separation. Effects of the data set, the method and the length, on
    each base model, and the `covariates` (one number per model, None where undecided) are taken out of both sides;
    errors are clustered by recipe and may differ in variance (`robust_slope`). So neither base models that differ in
    both (Simpson's paradox) nor what recipes of a data set or a method share pass for evidence. What it costs is
    degrees of freedom: six recipes rarely decide anything.

    "supported": p < .05 and below zero. "no effect": the interval of the correlation lies within +-0.3, an
    equivalence test. "undecided": neither. The correlation is freed from the binomial noise of the trials, which
    would bring it nearer to zero. Nothing is drawn at random: `seed` has no influence.

    Raises ValueError for impossible counts or a separation that is not finite.
    Type I error, coverage and power by simulation: `python -m bench.coverage_verdict`.
    """
    del seed
    return verdicts({"": models}, covariates=covariates)[""]


def verdicts(
    models_by_indicator: Mapping[str, Sequence[ModelPoint]], *, covariates: Covariates | None = None, seed: int = 0
) -> dict[str, PredictionTest]:
    """Verdicts on several candidates for the indicator side by side, corrected for having tried them all.

    p-values are Holm's: the chance of any false "supported" is 5 %. Intervals hold jointly at 95 % (Bonferroni), so
    the chance of any wrong "no effect" is 5 % too, and `power` is that of the corrected test. Candidates that allow
    no test are not counted. `covariates` and `seed` as in `verdict`.
    """
    del seed
    cells = {name: model_cells(models, covariates) for name, models in models_by_indicator.items()}
    used = {name: int(_usable(models, covariates).sum()) for name, models in models_by_indicator.items()}
    associations = {name: associate(candidate) for name, candidate in cells.items()}
    p_values = {name: float(result.fit.p_value()[0]) for name, result in associations.items() if result is not None}
    corrected = p_values  # of a single candidate; Holm's correction of statsmodels collects garbage, .4 s a call
    if len(p_values) > 1:
        corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return {
        name: _conclude(associations[name], corrected.get(name, 1.0), len(p_values))._replace(
            statistic=f"{STATISTIC}, {_compared(models)}", n_models=used[name], left_out=len(models) - used[name]
        )
        for name, models in models_by_indicator.items()
    }


def power_at(models: Sequence[ModelPoint], correlation: float, *, level: float = ALPHA) -> float | None:
    """Return the chance of "supported" at a true correlation, for one candidate; None where there is no test."""
    association = associate(model_cells(models))
    return None if association is None else float(association.power(correlation, level)[0])


def _compared(models: Sequence[ModelPoint]) -> str:
    """What is equal among the models compared, in words, as far as they say it."""
    factors = [words for factor, words in FACTORS.items() if any(getattr(model, factor) for model in models)]
    if not factors:
        return "at equal base model, recipes counted as independent"
    return f"at equal {', '.join(['base model', *factors[:-1]])} and {factors[-1]}"


def _conclude(association: Association | None, p_value: float, candidates: int) -> PredictionTest:
    """The verdict on one of several candidates from its corrected p-value, models not counted."""
    if association is None:
        return PredictionTest(STATISTIC, None, None, 0.0, 0, "undecided")
    level = ALPHA / candidates
    low, high = (float(end[0]) for end in association.interval(level))
    value, effect = float(association.fit.t[0]), float(association.correlation()[0])
    if p_value < ALPHA:  # Holm's later steps reject at a wider level than the joint interval's: only the sign is sure
        low, high = (low, min(high, 0.0)) if value < 0 else (max(low, 0.0), high)
    return PredictionTest(
        STATISTIC,
        value,
        p_value,
        float(association.power(-SMALLEST_EFFECT, level)[0]),
        0,
        _answer(value, p_value, low, high),
        low,
        high,
        None if np.isnan(effect) else effect,
    )


def _answer(value: float, p_value: float, low: float, high: float) -> Conclusion:
    if p_value < ALPHA and value < 0:
        return "supported"
    return "no effect" if low > -SMALLEST_EFFECT and high < SMALLEST_EFFECT else "undecided"


def verdict_record(test: PredictionTest) -> VerdictRecord:
    """Return the test as result files hold it, with its sentence."""
    return VerdictRecord(**test._asdict(), words=in_words(test))


def in_words(test: PredictionTest) -> str:
    """The verdict as sentences that a report can print."""
    left = f" Left out: {test.left_out} without a decided separation or success rate." if test.left_out else ""
    if test.value is None or test.p_value is None:
        return (
            f"Undecided: {test.n_models} models allow no test. Too few recipes are left to compare, or nothing "
            f"varies, {_terms(test)}.{left}"
        )
    return f"{test.conclusion.capitalize()}: {_meaning(test, test.value, test.p_value)} ({_numbers(test)}).{left}"


def _meaning(test: PredictionTest, value: float, p_value: float) -> str:
    equal = _terms(test)
    if test.conclusion == "supported":
        return f"{equal}, models that separate more are attacked less successfully"
    if test.conclusion == "no effect":
        return f"{equal}, the correlation of separation and attack success is smaller than {SMALLEST_EFFECT}"
    if p_value < ALPHA:
        return f"{equal}, models that separate more are attacked more successfully, which contradicts the claim"
    return f"{equal}, these models show neither that separation goes with fewer successful attacks nor that it does not"


def _terms(test: PredictionTest) -> str:
    """On which terms models were compared, from the statistic's name."""
    return test.statistic.partition(", ")[2]


def _numbers(test: PredictionTest) -> str:
    effect = "unknown" if test.effect is None else f"{test.effect:+.2f}"
    return (
        f"correlation {effect}, 95 % interval {test.low:+.2f} to {test.high:+.2f}, p = {test.p_value:.3f}, "
        f"power {test.power:.2f} against {-SMALLEST_EFFECT}, {test.n_models} models"
    )


def log_distance(distance: float | None) -> float | None:
    """Return log(1 + D), as which distances enter every verdict; None stays None.

    Distances reach from 0.1 to 1,000 nats, and as they are a few models would be the whole study. Estimates of a
    distance may fall below zero: they keep their sign.
    """
    return None if distance is None else float(np.copysign(np.log1p(abs(distance)), distance))


def attack_counts(rates: Sequence[Mapping[str, Estimate]], attack: str | None = None) -> list[AttackCounts]:
    """Successes and trials of each model, of one attack or of all together, from each model's rates by attack.

    Models are compared on the same attacks: those that were run on every model and are decided for more than half of
    them. A model with an undecided rate among these gets no trials, so that `verdict` leaves it out and says so:
    without its hardest attack it would look safer or less safe than it is.
    """
    shared = set.intersection(*(set(by_attack) for by_attack in rates)) if rates else set()
    names = [name for name in shared if attack in (None, name)]
    compared = [name for name in names if 2 * sum(_decided(by_attack[name]) for by_attack in rates) > len(rates)]
    return [_counts([by_attack[name] for name in compared]) for by_attack in rates]


def _counts(rates: Sequence[Estimate]) -> AttackCounts:
    if not all(_decided(rate) for rate in rates):
        return AttackCounts(0, 0)
    return AttackCounts(sum(round((rate.value or 0.0) * rate.n) for rate in rates), sum(rate.n for rate in rates))


def _decided(rate: Estimate) -> bool:
    return rate.value is not None and rate.n > 0


def model_cells(models: Sequence[ModelPoint], covariates: Covariates | None = None) -> Cells:
    """Return the usable models by family and recipe. Raises ValueError as `verdict` does."""
    _check(models, covariates or {})
    chosen = np.flatnonzero(_usable(models, covariates)).tolist()
    usable = [models[index] for index in chosen]
    return as_cells(
        [model.separation or 0.0 for model in usable],
        [model.successes for model in usable],
        [model.trials for model in usable],
        [model.family for model in usable],
        [_recipe(models[index], index) for index in chosen],
        [[column[index] or 0.0 for index in chosen] for column in (covariates or {}).values()],
        [[getattr(model, factor) for model in usable] for factor in ("data", "method", "length")],
    )


def _recipe(model: ModelPoint, index: int) -> Hashable:
    if model.recipe is not None:
        return model.recipe
    return index if None in (model.data, model.method) else (model.data, model.method, model.length)


def _usable(models: Sequence[ModelPoint], covariates: Covariates | None) -> np.ndarray:
    """Tell which models have a separation, trials and every covariate."""
    measured = [model.separation is not None and model.trials > 0 for model in models]
    columns = [[number is not None for number in column] for column in (covariates or {}).values()]
    return np.logical_and.reduce(np.array([measured, *columns], dtype=bool))


def _check(models: Sequence[ModelPoint], covariates: Covariates) -> None:
    for name, column in covariates.items():
        if len(column) != len(models):
            raise ValueError(f"covariate {name}: got {len(column)} numbers for {len(models)} models")
        if not np.isfinite([0.0 if number is None else number for number in column]).all():
            raise ValueError(f"covariate {name}: not every number is finite; give None where it is undecided")
    designs: dict[str, tuple[str | None, ...]] = {}
    for model in models:
        design = model.data, model.method, model.length
        if model.recipe is not None and designs.setdefault(model.recipe, design) != design:
            raise ValueError(
                f"{model.name}: recipe {model.recipe!r} has data, method and length {design}, and before "
                f"{designs[model.recipe]}; give each combination a recipe of its own"
            )
        if not 0 <= model.successes <= model.trials:
            raise ValueError(
                f"{model.name}: {model.successes} successes of {model.trials} trials; expected 0 to trials"
            )
        if not np.isfinite(model.separation or 0.0):
            raise ValueError(f"{model.name}: separation {model.separation}; expected a finite number, or None")
