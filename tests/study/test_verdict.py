import numpy as np
import pytest

from divalign.study.verdict import ModelPoint, in_words, verdict, verdicts


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


def conclusions(count: int, *, simulations: int = 1, **kwargs) -> tuple[list[str], float]:
    found = [verdict(study(seed, **kwargs), most_shuffles=300, simulations=simulations) for seed in range(count)]
    return [one.conclusion for one in found], float(np.mean([one.power for one in found]))


def test_a_planted_effect_is_supported_at_the_stated_power() -> None:
    for families in (2, 4):
        found, power = conclusions(80, simulations=60, families=families, correlation=0.7)
        # Standard error of a share of 80 is at most 0.056; the power errs by some points, mostly downwards.
        assert found.count("supported") / 80 == pytest.approx(power, abs=0.12)
    assert power > 0.9


def test_no_effect_is_supported_in_less_than_five_percent() -> None:
    found, _ = conclusions(120)
    assert found.count("supported") <= 0.05 * 120


def test_families_that_differ_in_both_support_nothing() -> None:
    # Simpson: over all models separation and success correlate strongly, within no family at all.
    points = study(0, family_effect=3.0)
    overall = np.corrcoef([point.separation for point in points], [point.successes for point in points])[0, 1]
    assert overall < -0.8
    found, _ = conclusions(120, family_effect=3.0)
    assert found.count("supported") <= 0.05 * 120


def test_recipes_repeated_on_many_bases_are_no_new_evidence() -> None:
    # Four methods on eight bases, nothing but their own luck: as 32 experiments this "supports" far too often.
    luck = {"families": 8, "recipes": 4, "shared": 0.9}
    found, _ = conclusions(200, **luck)
    assert found.count("supported") <= 0.05 * 200
    naive = [
        verdict([point._replace(recipe=None) for point in study(seed, **luck)], most_shuffles=300, simulations=1)
        for seed in range(100)
    ]
    assert sum(one.conclusion == "supported" for one in naive) > 0.15 * 100


def test_seeds_are_averaged_into_their_recipe() -> None:
    points = study(1, families=1, recipes=8, correlation=0.7)
    once = [point._replace(recipe=point.name) for point in points]
    thrice = [point._replace(name=f"{point.name} {seed}", recipe=point.name) for point in points for seed in range(3)]
    assert verdict(thrice).p_value == pytest.approx(verdict(once).p_value, abs=0.02)
    assert verdict(thrice).n_models == 24


def test_the_opposite_effect_is_not_support() -> None:
    found = verdict([point._replace(successes=100 - point.successes) for point in study(0, correlation=0.9)])
    assert found.p_value < 0.05
    assert (found.conclusion, found.value > 0) == ("not supported", True)
    assert in_words(found).startswith("Not supported: within families, models that separate more are attacked more")


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


def test_two_models_are_underpowered() -> None:
    found = verdict(study(0, families=1, recipes=2))
    assert (found.conclusion, found.power) == ("underpowered", 0.0)


def test_models_without_a_measurement_count_for_nothing() -> None:
    bare = [ModelPoint("a", "f", None, 3, 10), ModelPoint("b", "f", 1.0, 0, 0)]
    for models in ([], bare):
        found = verdict(models)
        assert found[1:] == (None, None, 0.0, 0, "underpowered")
    points = study(2, correlation=0.7)
    assert verdict([*points, *bare]) == verdict(points)


def test_equal_success_rates_are_underpowered() -> None:
    found = verdict([point._replace(successes=0) for point in study(0)])
    assert (found.value, found.conclusion) == (None, "underpowered")


def test_candidates_pay_for_each_other() -> None:
    plain, attacked = study(3), study(3, correlation=0.8)
    found = verdicts({"plain": plain, "under attack": attacked, "missing": []})
    alone = verdict(attacked)
    assert found["under attack"].conclusion == "supported"
    assert found["under attack"].p_value == pytest.approx(2 * alone.p_value)
    assert found["plain"].conclusion != "supported"
    assert found["missing"].p_value is None


def test_every_conclusion_has_words() -> None:
    sentences = [
        in_words(verdict(points))
        for points in (study(0, correlation=0.9), study(0), study(0, families=1, recipes=4), [])
    ]
    starts = ["Supported: ", "Not supported: ", "Underpowered: nothing", "Underpowered: 0 models"]
    assert all(sentence.startswith(start) for sentence, start in zip(sentences, starts, strict=True))


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


def test_a_covariate_costs_its_degree_of_freedom_with_few_recipes() -> None:
    generator, found = np.random.default_rng(0), 0
    for _ in range(1000):
        refusal, separation, logit = generator.normal(size=(3, 6))
        wins = generator.binomial(200, 1 / (1 + np.exp(-0.7 * logit)))
        points = [ModelPoint(str(i), "base", float(separation[i]), int(wins[i]), 200) for i in range(6)]
        found += verdict(points, covariates={"refusal": refusal.tolist()}, simulations=1).p_value < 0.05
    assert found <= 64  # 5 % of 1,000, and two standard errors; without the second taking out it is 89


def test_covariates_must_fit_the_models() -> None:
    with pytest.raises(ValueError, match="covariate utility: got 1 numbers for 24 models"):
        verdict(study(0), covariates={"utility": [1.0]})
    with pytest.raises(ValueError, match="not every number is finite"):
        verdict(study(0), covariates={"utility": [float("nan")] * 24})
