import math

import numpy as np
import pytest

from bench.coverage_verdict import SPREADS, Design, Variance, alone, attacked, holm_columns, simulate
from divalign.core.stats import Estimate, holm
from divalign.study.run import _verdict
from divalign.study.verdict import (
    ModelPoint,
    attack_counts,
    in_words,
    log_distance,
    verdict,
    verdict_record,
    verdicts,
)
from tests.study.sweep_models import changed, simulated


def study(
    seed: int,
    *,
    families: int = 4,
    recipes: int = 6,
    correlation: float = 0.0,
    family_effect: float = 0.0,
    shared: float = 0.0,
) -> list[ModelPoint]:
    """Models whose logit of the success rate correlates with separation by -`correlation` within families.

    `family_effect` moves a family's separation up and its success rate down (Simpson). `shared` is the share of
    either's variance that belongs to the recipe, whatever the family.
    """
    generator = np.random.default_rng(seed)

    def varied() -> np.ndarray:
        own, common = generator.normal(size=(families, recipes)), generator.normal(size=(1, recipes))
        values = np.sqrt(shared) * common + np.sqrt(1 - shared) * own
        centred = values - values.mean(axis=1, keepdims=True)
        return centred / centred.std()

    separation, other = varied(), varied()
    base = family_effect * generator.normal(size=(families, 1))
    logit = -0.5 - base + 0.8 * (-correlation * separation + np.sqrt(1 - correlation**2) * other)
    wins = generator.binomial(100, 1 / (1 + np.exp(-logit)))
    return [
        ModelPoint(
            f"{f}.{r}",
            str(f),
            float(separation[f, r] + 2 * base[f, 0]),
            int(wins[f, r]),
            100,
            f"recipe {r}" if shared else None,
        )
        for f in range(families)
        for r in range(recipes)
    ]


def crossed(seed: int, design: Design, variance: Variance, correlation: float = 0.0) -> list[list[ModelPoint]]:
    """Twenty studies of a crossed design, as model points that name their data set and method."""
    generator = np.random.default_rng(seed)
    cells, separation, outcome = simulate(design, variance, correlation, 20, generator)
    wins = attacked(outcome, cells, generator)
    names = [
        (f"base {f}", f"data {d}", f"method {m}") for f, (d, m, _) in zip(cells.family, cells.factors, strict=True)
    ]
    return [
        [
            ModelPoint(f"{index}", family, float(x), int(k), design.trials, f"{method} on {data}", data, method)
            for index, ((family, data, method), x, k) in enumerate(zip(names, separations, successes, strict=True))
        ]
        for separations, successes in zip(separation, wins, strict=True)
    ]


def share(answer: str, design: Design, variance: Variance, correlation: float = 0.0, *, count: int = 100) -> float:
    """Share of simulated studies with this answer."""
    conclusions = [
        verdict(points).conclusion
        for seed in range(count // 20)
        for points in crossed(seed, design, variance, correlation)
    ]
    return conclusions.count(answer) / count


@pytest.mark.parametrize("variance", [Variance(data=0.7), Variance(method=0.5)])
def test_recipes_that_share_a_data_set_or_a_method_are_no_new_evidence(variance: Variance) -> None:
    # Recipes shuffled as if exchangeable: .19 to .24 "supported" or its opposite here, half of that "supported".
    assert share("supported", Design(5, 4), variance) <= 0.04


@pytest.mark.parametrize("spread", ["one recipe tenfold", "lognormal, sigma 1.5"])
def test_recipes_of_unequal_variance_hold_the_level(spread: str) -> None:
    # Shuffled as if exchangeable: .27 to .37, half of that "supported".
    assert share("supported", Design(4, 4), Variance(spread=spread)) <= 0.05


@pytest.mark.parametrize("families", [1, 3])
@pytest.mark.parametrize("recipes", [6, 14, 20])
def test_type_i_error_is_at_most_seven_percent(recipes: int, families: int) -> None:
    design = Design(2, 3) if recipes == 6 else Design(5, 4, recipes=recipes)
    for spread in SPREADS:
        for variance in (Variance(spread=spread), Variance(data=0.7, spread=spread)):
            (level, *wrong) = alone("", design._replace(families=families), variance, 500)
            assert level.value <= 0.07 + 2.5 * 0.011  # the bound, and the luck of 500 studies
            assert all(row.value <= 0.02 for row in wrong)


def test_a_planted_effect_is_supported() -> None:
    assert share("supported", Design(5, 4, families=3), Variance(data=0.5), -0.7, count=40) > 0.7


def test_no_effect_is_shown_by_many_recipes_whose_interval_is_narrow() -> None:
    results = [verdict(points) for points in crossed(0, Design(12, 12), Variance(data=0.5))]
    none = [result for result in results if result.conclusion == "no effect"]
    assert len(none) > 0.5 * len(results)
    for result in none:
        assert -0.3 < result.low < result.effect < result.high < 0.3
        assert result.power > 0.7
        assert in_words(result).startswith("No effect: ")


@pytest.mark.parametrize("correlation", [-0.4, -0.7])
def test_no_effect_is_never_said_of_an_effect(correlation: float) -> None:
    results = [verdict(points) for points in crossed(0, Design(12, 12), Variance(data=0.5), correlation)]
    assert "no effect" not in [result.conclusion for result in results]


def test_few_trials_hide_no_effect_behind_their_noise() -> None:
    # At 8 trials and a spread of logits of .3, a true -.6 is observed as -.25: within the margin, taken as it is.
    generator, results = np.random.default_rng(3), []
    for _ in range(10):
        x, other = generator.normal(size=(2, 300))
        wins = generator.binomial(8, 1 / (1 + np.exp(0.3 * (0.6 * x + 0.8 * other))))
        results.append(verdict([ModelPoint(str(i), "f", float(x[i]), int(wins[i]), 8) for i in range(300)]))
    assert "no effect" not in [result.conclusion for result in results]


def test_families_that_differ_in_both_support_nothing() -> None:
    # Simpson: over all models separation and success correlate strongly, within no family at all.
    points = study(0, family_effect=3.0)
    overall = np.corrcoef([point.separation for point in points], [point.successes for point in points])[0, 1]
    assert overall < -0.8
    conclusions = [verdict(study(seed, family_effect=3.0)).conclusion for seed in range(100)]
    assert conclusions.count("supported") <= 0.05 * 100


def test_recipes_repeated_on_many_bases_are_no_new_evidence() -> None:
    # Four methods on eight bases, nothing but their own luck: as 32 experiments this "supports" far too often.
    studies = [study(seed, families=8, recipes=4, shared=0.9) for seed in range(80)]
    assert [verdict(points).conclusion for points in studies].count("supported") <= 0.05 * 80
    naive = [verdict([point._replace(recipe=None) for point in points]).conclusion for points in studies]
    assert naive.count("supported") > 0.1 * 80


def test_seeds_are_averaged_into_their_recipe() -> None:
    points = study(1, families=1, recipes=8, correlation=0.7)
    once = [point._replace(recipe=point.name) for point in points]
    thrice = [point._replace(name=f"{point.name} {seed}", recipe=point.name) for point in points for seed in range(3)]
    assert verdict(thrice).p_value == pytest.approx(verdict(once).p_value, rel=0.05)
    assert verdict(thrice).n_models == 24


def test_method_data_and_length_name_a_recipe_without_one() -> None:
    (points, *_) = crossed(1, Design(4, 4), Variance())
    seeds = [point._replace(name=f"{point.name} {seed}") for point in points for seed in range(2)]
    assert verdict([point._replace(recipe=None) for point in seeds]) == verdict(seeds)


def test_the_opposite_effect_is_not_support() -> None:
    result = verdict([point._replace(successes=100 - point.successes) for point in study(0, correlation=0.9)])
    assert result.p_value < 0.05
    assert result.low > 0
    assert result.conclusion == "undecided"
    assert "models that separate more are attacked more successfully" in in_words(result)


def test_a_covariate_that_explains_both_leaves_nothing() -> None:
    generator = np.random.default_rng(0)
    refusal = generator.normal(size=24)
    points = []
    for index, x in enumerate(refusal):
        chance = 1 / (1 + np.exp(1.5 * x + 0.3 * generator.normal()))
        own = float(x + 0.3 * generator.normal())
        points.append(ModelPoint(str(index), str(index % 3), own, int(generator.binomial(100, chance)), 100))
    assert verdict(points).conclusion == "supported"
    assert verdict(points, covariates={"over_refusal": refusal.tolist()}).p_value > 0.05


@pytest.mark.parametrize("recipes", [6, 12])
def test_given_a_covariate_the_level_holds_with_few_recipes(recipes: int) -> None:
    generator, rejections = np.random.default_rng(0), 0
    for _ in range(200):
        refusal, own, other = generator.normal(size=(3, recipes))
        wins = generator.binomial(200, 1 / (1 + np.exp(refusal - 0.7 * other)))
        points = [ModelPoint(str(i), "base", float((own + refusal)[i]), int(wins[i]), 200) for i in range(recipes)]
        rejections += verdict(points, covariates={"refusal": refusal.tolist()}).p_value < 0.05
    assert rejections <= 0.05 * 200 + 6  # two standard errors


def test_two_models_decide_nothing() -> None:
    result = verdict(study(0, families=1, recipes=2))
    assert (result.conclusion, result.power, result.value, result.low) == ("undecided", 0.0, None, None)


def test_two_methods_on_two_data_sets_decide_nothing() -> None:
    (points, *_) = crossed(0, Design(2, 2, families=3), Variance(), -0.95)
    assert verdict(points).value is None


def test_models_without_a_measurement_are_left_out_and_said_to_be() -> None:
    bare = [ModelPoint("a", "f", None, 3, 10), ModelPoint("b", "f", 1.0, 0, 0)]
    points = study(2, correlation=0.7)
    assert verdict([*points, *bare]) == verdict(points)._replace(left_out=2)
    assert "Left out: 2 without a decided separation or success rate." in in_words(verdict([*points, *bare]))
    for models, left_out in (([], 0), (bare, 2)):
        result = verdict(models)
        assert (result.value, result.conclusion, result.n_models, result.left_out) == (None, "undecided", 0, left_out)
    refusal = [None, *np.random.default_rng(0).normal(size=23).tolist()]
    adjusted = verdict(points, covariates={"over-refusal": refusal})
    assert adjusted == verdict(points[1:], covariates={"over-refusal": refusal[1:]})._replace(left_out=1)


def test_equal_success_rates_are_undecided() -> None:
    result = verdict([point._replace(successes=0) for point in study(0)])
    assert (result.value, result.conclusion) == (None, "undecided")


def test_candidates_pay_for_each_other() -> None:
    plain, attacked_ones = study(3), study(3, correlation=0.8)
    result = verdicts({"plain": plain, "under attack": attacked_ones, "missing": []})
    alone = verdict(attacked_ones)
    assert result["under attack"].conclusion == "supported"
    assert result["under attack"].p_value == pytest.approx(2 * alone.p_value)
    assert result["under attack"].power < alone.power
    assert result["under attack"].high > alone.high
    assert result["plain"].conclusion != "supported"
    assert result["missing"].p_value is None


def test_an_interval_excludes_zero_exactly_where_p_is_under_five_percent() -> None:
    for seed in range(12):
        tried = {str(part): study(100 * part + seed, recipes=8, correlation=0.25) for part in range(3)}
        for result in verdicts(tried).values():
            assert (result.low >= 0 or result.high <= 0) == (result.p_value < 0.05)


def test_every_conclusion_has_words() -> None:
    sentences = [
        in_words(verdict(points))
        for points in (study(0, correlation=0.9), study(0), study(0, families=1, recipes=2), [])
    ]
    starts = ["Supported: ", "Undecided: at equal", "Undecided: 2 models allow", "Undecided: 0 models allow"]
    assert all(sentence.startswith(start) for sentence, start in zip(sentences, starts, strict=True))


def test_a_verdict_says_what_was_equal_among_the_models_it_compared() -> None:
    (points, *_) = crossed(0, Design(5, 4), Variance())
    for models, terms in (
        (points, "at equal base model, data set and method"),
        ([point._replace(length="short") for point in points], "data set, method and training length"),
        ([point._replace(data=None, method=None) for point in points], "base model, recipes counted as independent"),
    ):
        result = verdict(models)
        assert result.statistic.endswith(terms)
        assert terms in in_words(result)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (ModelPoint("a", "f", 1.0, 11, 10), "a: 11 successes of 10 trials"),
        (ModelPoint("a", "f", float("nan"), 1, 10), "a: separation nan"),
    ],
)
def test_impossible_models_are_refused(point: ModelPoint, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verdict([point])


def test_one_recipe_of_two_data_sets_is_refused() -> None:
    points = [ModelPoint(data, "f", 1.0, 1, 10, "kldo", data=data, method="kldo") for data in ("cr", "pref")]
    with pytest.raises(ValueError, match="pref: recipe 'kldo' has data, method and length"):
        verdict(points)


def test_covariates_must_fit_the_models() -> None:
    with pytest.raises(ValueError, match="covariate utility: got 1 numbers for 24 models"):
        verdict(study(0), covariates={"utility": [1.0]})
    with pytest.raises(ValueError, match="not every number is finite"):
        verdict(study(0), covariates={"utility": [float("nan")] * 24})


def test_distances_enter_by_their_logarithm() -> None:
    assert log_distance(math.e - 1) == pytest.approx(1)
    assert log_distance(0.0) == 0
    assert log_distance(-0.5) == pytest.approx(-math.log(1.5))  # an estimate of a small distance, less its bias
    assert log_distance(None) is None


def rate(value: float | None, n: int = 10) -> Estimate:
    return Estimate(value, 0.0, 1.0, n)


def test_models_are_compared_on_attacks_run_on_all_of_them() -> None:
    rates = [{"direct": rate(0.5), "gcg": rate(0.9)}, {"direct": rate(0.2)}]
    assert attack_counts(rates) == [(5, 10), (2, 10)]
    assert attack_counts(rates, "direct") == attack_counts(rates)
    assert attack_counts([]) == []


def test_a_model_with_an_undecided_attack_is_not_compared_on_the_others() -> None:
    decided = {"direct": rate(0.5), "wrapper": rate(0.5)}
    rates = [decided, decided, {"direct": rate(0.1), "wrapper": rate(None, 0)}]
    assert attack_counts(rates) == [(10, 20), (10, 20), (0, 0)]


def test_an_attack_that_is_mostly_undecided_compares_nobody() -> None:
    rates = [{"direct": rate(0.5), "wrapper": rate(value, n)} for value, n in ((0.1, 10), (None, 0), (None, 0))]
    assert attack_counts(rates) == [(5, 10)] * 3


def test_holm_by_columns_is_holm() -> None:
    p_values = np.random.default_rng(0).uniform(size=(6, 5)) ** 3
    for column, corrected in zip(p_values.T, holm_columns(p_values).T, strict=True):
        assert corrected.tolist() == pytest.approx(holm(column.tolist()))


def test_a_runs_own_verdict_takes_the_logarithm_of_distances_and_the_design() -> None:
    pairs = [(method, data) for method in ("kldo", "bco", "dpo") for data in ("cr", "pref", "ranked")]
    distances = (1000.0, 0.5, 3.0, 8.0, 0.1, 40.0, 2.0, 7.0, None)
    shares = (0.1, 0.7, 0.4, 0.3, 0.9, 0.2, 0.5, 0.2, 0.3)
    models, points = [], []
    for (method, data), distance, success in zip(pairs, distances, shares, strict=True):
        rates = {"direct": rate(success, 100)} | ({"only here": rate(0.0, 100)} if data == "cr" else {})
        model = simulated(0, slope=0.0)[0]
        separation = model.separation.model_copy(update={"bhattacharyya_paper": Estimate(distance, None, None, 9)})
        models.append(
            changed(model, name=f"{method} {data}", method=method, data=data, separation=separation, asr=rates)
        )
        points.append(
            ModelPoint(
                f"{method} {data}", "base", log_distance(distance), round(100 * success), 100, data=data, method=method
            )
        )
    base = changed(models[0], method=None, data=None)
    record = _verdict([base, *models])
    assert record == verdict_record(verdict(points))
    assert (record.n_models, record.left_out) == (8, 1)
    assert "Left out: 1" in record.words
