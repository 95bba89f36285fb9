import math
from itertools import permutations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr

from divalign.core.association import (
    Cells,
    as_cells,
    fixed_effects,
    joint_bootstrap,
    score_test,
    shuffles,
    within_family,
)

few = settings(max_examples=20, derandomize=True, deadline=None)
seeds = st.integers(0, 10**6)


def grid(seed: int, *, families: int = 3, recipes: int = 4, covariates: int = 0, shared: bool = True) -> Cells:
    generator = np.random.default_rng(seed)
    n = families * recipes
    family = np.repeat(np.arange(families), recipes)
    return Cells(
        separation=generator.normal(size=n),
        successes=generator.integers(5, 95, size=n).astype(float),
        trials=np.full(n, 100.0),
        family=family,
        recipe=np.tile(np.arange(recipes), families) if shared else np.arange(n),
        covariates=generator.normal(size=(n, covariates)),
    )


def drawn(cells: Cells, most: int = 500):
    return shuffles(cells, most=most, generator=np.random.default_rng(0))


def test_seeds_of_a_recipe_become_one_cell() -> None:
    cells = as_cells(
        [1.0, 3.0, 5.0], [10, 20, 30], [100, 50, 60], ["a", "a", "b"], ["dpo", "dpo", "dpo"], [[1.0, 2.0, 7.0]]
    )
    assert cells.separation.tolist() == [2, 5]
    assert cells.successes.tolist() == [30, 30]
    assert cells.trials.tolist() == [150, 60]
    assert (cells.family.tolist(), cells.recipe.tolist()) == ([0, 1], [0, 0])
    assert cells.covariates.tolist() == [[1.5], [7.0]]


def test_shared_recipes_move_together_and_own_recipes_within_families() -> None:
    together, alone = grid(0), grid(0, shared=False)
    ways = drawn(together)
    assert ways.complete
    assert len(ways.orders) == math.factorial(4)
    for order in ways.orders:
        assert (together.family[order] == together.family).all()
        moved = together.recipe[order].reshape(3, 4)
        assert (moved == moved[0]).all()
    ways = drawn(alone)
    assert not ways.complete  # 24^3 ways
    assert all((alone.family[order] == alone.family).all() for order in ways.orders)


def test_a_recipe_tried_on_fewer_families_stays_among_its_like() -> None:
    cells = as_cells([1.0, 2.0, 3.0, 4.0, 5.0], [1] * 5, [2] * 5, ["a", "b", "a", "b", "a"], ["x", "x", "y", "y", "z"])
    assert [order.tolist() for order in drawn(cells).orders] == [[0, 1, 2, 3, 4], [2, 3, 0, 1, 4]]


def test_the_score_test_is_the_definition() -> None:
    cells = grid(1)
    value, p_value = score_test(cells, cells.successes[:, None], drawn(cells))
    scores = []
    for way in permutations(range(4)):
        score = 0.0
        for family in range(3):
            mine = cells.family == family
            rate = cells.successes[mine].sum() / cells.trials[mine].sum()
            score += cells.separation[mine][list(way)] @ (cells.successes[mine] - 100 * rate)
        scores.append(score)
    centred = np.array(scores) - np.mean(scores)
    assert value[0] == pytest.approx(centred[0] / np.std(scores))
    assert p_value[0] == pytest.approx(np.mean(np.abs(centred) >= abs(centred[0]) - 1e-9))


def test_the_score_is_the_slope_of_the_binomial_regression_at_zero() -> None:
    cells = grid(2, shared=False)
    design = np.column_stack([cells.separation, cells.family[:, None] == np.arange(3)]).astype(float)
    counts = np.column_stack([cells.successes, cells.trials - cells.successes])
    null = sm.GLM(counts, design[:, 1:], family=sm.families.Binomial()).fit()
    slope = sm.GLM(counts, design, family=sm.families.Binomial()).score(np.r_[0, null.params])[0]
    ways = drawn(cells)
    value, _ = score_test(cells, cells.successes[:, None], ways)
    residual = cells.successes - cells.trials * null.fittedvalues
    nulls = cells.separation[ways.orders] @ residual
    assert value[0] == pytest.approx((slope - nulls.mean()) / nulls.std())


@given(seeds)
@few
def test_family_levels_never_matter(seed: int) -> None:
    cells = grid(seed)
    moved = cells._replace(separation=cells.separation + np.array([0, 50, -9])[cells.family])
    first, second = (score_test(one, one.successes[:, None], drawn(one)) for one in (cells, moved))
    assert first[0] == pytest.approx(second[0], abs=1e-6)
    assert first[1] == pytest.approx(second[1], abs=0.05)  # a near-tie may fall either way: one shuffle of 24


def test_without_a_link_p_is_uniform_and_with_a_covariate_too() -> None:
    p_values = {0: [], 1: []}
    for seed in range(150):
        for covariates, found in p_values.items():
            cells = grid(seed, recipes=6, covariates=covariates, shared=False)
            if covariates:  # the covariate drives both sides: without adjusting, p would be tiny
                link = cells.covariates[:, 0]
                chance = 1 / (1 + np.exp(-1.5 * link))
                cells = cells._replace(separation=cells.separation + link, successes=np.round(100 * chance))
                noise = np.random.default_rng(seed).integers(-15, 16, size=len(link))
                cells = cells._replace(successes=np.clip(cells.successes + noise, 0, 100))
            found.append(score_test(cells, cells.successes[:, None], drawn(cells, 100))[1][0])
    for found in p_values.values():
        assert np.mean(np.array(found) < 0.05) < 0.1  # 5 % with a standard error of 1.8 %
        assert np.mean(found) == pytest.approx(0.5, abs=0.08)


def test_nothing_that_varies_gives_no_number() -> None:
    cells = grid(3)
    flat = cells._replace(separation=np.repeat([1.0, 2.0, 3.0], 4))
    assert np.isnan(score_test(flat, flat.successes[:, None], drawn(flat))).all()
    even = cells._replace(successes=np.full(12, 30.0))
    assert np.isnan(score_test(even, even.successes[:, None], drawn(even))).all()


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
