import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr

from divalign.core.association import (
    Cells,
    as_cells,
    associate,
    fixed_effects,
    joint_bootstrap,
    logits,
    nuisance,
    recipe_freedom,
    within_family,
)

few = settings(max_examples=20, derandomize=True, deadline=None)
seeds = st.integers(0, 10**6)


def grid(seed: int, *, families: int = 3, data: int = 4, methods: int = 3, covariates: int = 0) -> Cells:
    """Every method on every data set on every family."""
    generator = np.random.default_rng(seed)
    factors = np.tile(np.indices((data, methods)).reshape(2, -1).T, (families, 1))
    n = len(factors)
    return Cells(
        separation=generator.normal(size=n),
        successes=generator.integers(5, 95, size=n).astype(float),
        trials=np.full(n, 100.0),
        family=np.repeat(np.arange(families), data * methods),
        recipe=np.tile(np.arange(data * methods), families),
        covariates=generator.normal(size=(n, covariates)),
        factors=factors,
    )


def test_seeds_of_a_recipe_become_one_cell() -> None:
    names = ["dpo", "dpo", "dpo"]
    cells = as_cells([1.0, 3.0, 5.0], [10, 20, 30], [100, 50, 60], ["a", "a", "b"], names, [[1.0, 2.0, 7.0]], [names])
    assert cells.separation.tolist() == [2, 5]
    assert cells.successes.tolist() == [30, 30]
    assert cells.trials.tolist() == [150, 60]
    assert (cells.family.tolist(), cells.recipe.tolist()) == ([0, 1], [0, 0])
    assert cells.covariates.tolist() == [[1.5], [7.0]]
    assert cells.factors.tolist() == [[0], [0]]


@pytest.mark.parametrize(("data", "methods", "left"), [(2, 2, 1), (2, 3, 2), (4, 3, 6), (5, 4, 12)])
def test_what_is_left_to_compare_is_the_interaction_of_data_and_method(data: int, methods: int, left: int) -> None:
    for families in (1, 3):
        cells = grid(0, families=families, data=data, methods=methods)
        assert recipe_freedom(cells) == left == (data - 1) * (methods - 1)
        assert nuisance(cells).shape[1] == families * (data + methods - 1)


def test_a_data_set_of_one_recipe_is_that_recipes_own_luck() -> None:
    six = grid(0, families=1, data=6, methods=1)
    assert recipe_freedom(six) == 5  # six units and their mean, not six levels that leave nothing
    three = as_cells([0.0] * 6, [1] * 6, [2] * 6, ["f"] * 6, list(range(6)), factors=[["a", "a", "b", "b", "c", "d"]])
    assert recipe_freedom(three) == 6 - 3  # a, b, and the two of their own


@given(seeds)
@few
def test_levels_of_family_data_and_method_never_matter(seed: int) -> None:
    cells, generator = grid(seed), np.random.default_rng(seed)
    by_data, by_method = generator.normal(size=(3, 4)), generator.normal(size=(3, 3))
    effects = by_data[cells.family, cells.factors[:, 0]] + by_method[cells.family, cells.factors[:, 1]]
    moved = associate(cells._replace(separation=cells.separation + 9 * effects))
    assert np.allclose(moved.fit, associate(cells).fit)


@given(seeds)
@few
def test_a_covariate_is_taken_out_of_both_sides(seed: int) -> None:
    cells = grid(seed, families=1, covariates=1)
    moved = cells._replace(separation=cells.separation + 5 * cells.covariates[:, 0])
    assert np.allclose(associate(moved).fit, associate(cells).fit)
    for unit in (1e-12, 1e12):  # a covariate's unit decides nothing
        assert np.allclose(associate(cells._replace(covariates=unit * cells.covariates)).fit, associate(cells).fit)


def test_trials_make_noise_that_the_correlation_is_freed_from() -> None:
    cells, generator = grid(0, families=3, data=10, methods=10), np.random.default_rng(1)
    other = generator.normal(size=300)
    chance = 1 / (1 + np.exp(0.7 * cells.separation - np.sqrt(1 - 0.49) * other))
    few_trials, many = (
        associate(cells._replace(successes=generator.binomial(n, chance).astype(float), trials=np.full(300, float(n))))
        for n in (20, 100_000)
    )
    assert many.reliability[0] > 0.99
    assert few_trials.reliability[0] < 0.85
    assert abs(few_trials.fit.correlation[0]) < abs(many.fit.correlation[0])
    for found in (few_trials, many):
        assert found.correlation()[0] == pytest.approx(-0.7, abs=0.1)


def test_success_rates_that_differ_by_chance_alone_have_no_correlation_to_free() -> None:
    cells = grid(0)
    found = associate(cells._replace(successes=50.0 + np.arange(36) % 2))
    assert found.reliability[0] == 0
    assert np.isnan(found.correlation()[0])
    assert [end[0] for end in found.interval(0.05)] == [-1, 1]


def test_logits_are_finite_where_every_attack_failed_or_succeeded() -> None:
    values, noise = logits(np.array([0.0, 50.0, 100.0]), np.full(3, 100.0))
    assert values.tolist() == pytest.approx([-np.log(201), 0, np.log(201)])
    assert noise[1] == pytest.approx(2 / 50.5)


def test_nothing_that_varies_and_too_few_recipes_allow_no_association() -> None:
    cells = grid(3)
    by_data = np.array([1.0, 2.0, 3.0, 9.0])[cells.factors[:, 0]]
    assert associate(cells._replace(separation=by_data)) is None
    assert associate(cells._replace(successes=np.full(36, 30.0))) is None
    assert associate(grid(3, data=2, methods=2)) is None
    assert associate(grid(3, families=1, data=2, methods=3, covariates=1)) is None


@given(seeds)
@few
def test_fixed_effects_is_the_regression_with_dummies(seed: int) -> None:
    cells = grid(seed)
    rates = cells.successes / cells.trials
    found = fixed_effects(cells.separation, rates, cells.family)
    design = np.column_stack([cells.separation, cells.family[:, None] == np.arange(3)]).astype(float)
    assert found.p_value == pytest.approx(sm.OLS(rates, design).fit().pvalues[0], rel=1e-6)
    inside = [within_family(side, cells.family) for side in (cells.separation, rates)]
    assert found.estimate.value == pytest.approx(pearsonr(*inside).statistic)


def test_too_few_models_for_their_families_are_refused() -> None:
    with pytest.raises(ValueError, match="expected two more than families"):
        fixed_effects(np.array([1.0, 2.0]), np.array([2.0, 1.0]), np.array([0, 0]))
    with pytest.raises(ValueError, match="constant within families"):
        fixed_effects(np.array([1.0, 1, 2, 2]), np.array([2.0, 1, 1, 3]), np.array([0, 0, 1, 1]))


def test_the_joint_bootstrap_narrows_with_prompts() -> None:
    generator = np.random.default_rng(4)
    family, separation = np.repeat([0, 1], 6), generator.normal(size=12)
    chance = 1 / (1 + np.exp(separation + generator.normal(size=12)))
    widths = []
    for prompts in (30, 3000):
        outcomes = (generator.random((12, prompts)) < chance[:, None]).astype(float)
        outcomes[0, 0] = np.nan
        noisy = separation + generator.normal(size=(100, 12)) / np.sqrt(prompts)
        found = joint_bootstrap(separation, noisy, outcomes, family)
        assert found.low < found.value < 0
        widths.append(found.high - found.low)
    assert widths[1] < 0.4 * widths[0]


def test_prompts_of_a_cluster_are_redrawn_together_in_the_joint_bootstrap() -> None:
    generator = np.random.default_rng(6)
    separation = generator.normal(size=10)
    chance = 1 / (1 + np.exp(separation + generator.normal(size=10)))
    outcomes = (generator.random((10, 20)) < chance[:, None]).astype(float)
    draws, family = np.tile(separation, (300, 1)), np.repeat([0, 1], 5)
    once = joint_bootstrap(separation, draws, outcomes, family)
    copied = np.repeat(outcomes, 8, axis=1)
    names = [f"request {place // 8}" for place in range(160)]
    together = joint_bootstrap(separation, draws, copied, family, names)
    apart = joint_bootstrap(separation, draws, copied, family)
    assert together.high - together.low == pytest.approx(once.high - once.low, rel=0.3)
    assert apart.high - apart.low < 0.6 * (once.high - once.low)


def test_a_model_of_which_nothing_is_decided_is_left_out_of_the_joint_bootstrap() -> None:
    generator = np.random.default_rng(5)
    separation, outcomes = generator.normal(size=8), (generator.random((8, 40)) < 0.4).astype(float)
    draws, family = separation + 0.1 * generator.normal(size=(50, 8)), np.repeat([0, 1], 4)
    outcomes[7] = np.nan
    assert joint_bootstrap(separation, draws, outcomes, family) == joint_bootstrap(
        separation[:7], draws[:, :7], outcomes[:7], family[:7]
    )
    with pytest.raises(ValueError, match="no prompt is decided"):
        joint_bootstrap(separation, draws, outcomes[:, :0], family)


def test_the_joint_interval_covers_the_correlation_that_noise_attenuates() -> None:
    """A correlation near -.6 of 40 models, on 30 attacked prompts: the draws' own percentiles cover .41."""
    noise, covered, family = np.random.default_rng(0), 0, np.repeat(range(4), 10)
    for _ in range(50):
        separation = noise.normal(size=40)
        logit = -0.6 * separation + 0.8 * noise.normal(size=40)
        truth = np.corrcoef(within_family(separation, family), within_family(logit, family))[0, 1]
        prompts = separation[:, None] + noise.normal(size=(40, 60)) * 0.3 * np.sqrt(60)
        draws = noise.multinomial(60, np.full(60, 1 / 60), size=100) @ prompts.T / 60
        outcomes = (noise.random((40, 30)) < 1 / (1 + np.exp(-logit[:, None]))).astype(float)
        found = joint_bootstrap(prompts.mean(axis=1), draws, outcomes, family)
        covered += found.low <= truth <= found.high
    assert covered >= 0.8 * 50
