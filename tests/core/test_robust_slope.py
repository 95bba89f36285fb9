import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import pearsonr

from divalign.core import robust_slope as module
from divalign.core.robust_slope import correlation_interval, power, robust_slope


def data(seed: int, *, studies: int = 1, recipes: int = 12, families: int = 2, correlation: float = 0.0):
    """Separations and outcomes, an orthonormal intercept for each family, and the recipes."""
    generator = np.random.default_rng(seed)
    family = np.repeat(np.arange(families), recipes)
    x, other = generator.normal(size=(2, studies, families * recipes))
    y = correlation * x + np.sqrt(1 - correlation**2) * other
    known = (family[:, None] == np.arange(families)) / np.sqrt(recipes)
    return x, y, known, np.tile(np.arange(recipes), families)


@pytest.mark.parametrize(("exponent", "kind"), [(0.0, "HC0"), (0.5, "HC2"), (1.0, "HC3")])
def test_the_exponents_of_the_leverage_are_the_known_robust_errors(
    exponent: float, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEVERAGE_EXPONENT", exponent)
    x, y, known, _ = data(0)
    fit = robust_slope(x, y, known, np.arange(24))
    expected = sm.OLS(y[0], np.column_stack([x[0], known])).fit(cov_type=kind)
    assert fit.t[0] == pytest.approx(expected.tvalues[0])


def test_without_leverage_the_error_is_that_of_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEVERAGE_EXPONENT", 0.0)
    x, y, known, recipe = data(1)
    options = {"groups": recipe, "use_correction": False}
    expected = sm.OLS(y[0], np.column_stack([x[0], known])).fit(cov_type="cluster", cov_kwds=options)
    assert robust_slope(x, y, known, recipe).t[0] == pytest.approx(expected.tvalues[0])


def test_with_the_square_root_of_the_leverage_the_error_is_unbiased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEVERAGE_EXPONENT", 0.5)
    x, y, known, recipe = data(2, studies=20)
    assert robust_slope(x, y, known, recipe).inflation == pytest.approx(1)  # CR2, whatever the separations


def test_the_correlation_is_pearsons_after_taking_out_what_is_known() -> None:
    x, y, known, recipe = data(3)
    inside = [side[0] - known @ (known.T @ side[0]) for side in (x, y)]
    assert robust_slope(x, y, known, recipe).correlation[0] == pytest.approx(pearsonr(*inside).statistic)


def test_what_is_known_never_matters() -> None:
    x, y, known, recipe = data(4)
    moved = robust_slope(x + known @ [9.0, -4.0], y + known @ [2.0, 7.0], known, recipe)
    assert np.allclose(moved, robust_slope(x, y, known, recipe))


def test_a_study_among_others_has_the_numbers_that_it_has_alone() -> None:
    x, y, known, recipe = data(5, studies=4)
    alone = [robust_slope(x[[at]], y[[at]], known, recipe) for at in range(4)]
    for name, together in robust_slope(x, y, known, recipe)._asdict().items():
        assert together == pytest.approx(np.concatenate([getattr(one, name) for one in alone]))


@pytest.mark.parametrize("recipes", [4, 12])
@pytest.mark.parametrize("level", [0.05, 0.4])
def test_the_interval_holds_zero_exactly_where_nothing_is_found(recipes: int, level: float) -> None:
    x, y, known, recipe = data(6, studies=400, recipes=recipes, correlation=-0.6)
    fit = robust_slope(x, y, known, recipe)
    low, high = correlation_interval(fit, level=level)
    assert ((low <= 0) & (high >= 0)).tolist() == (fit.p_value() >= level).tolist()
    assert ((low <= fit.correlation) & (fit.correlation <= high)).all()
    assert (np.abs([low, high]) <= 1).all()


@pytest.mark.parametrize("correlation", [0.0, -0.4, -0.8])
def test_the_interval_covers_the_correlation(correlation: float) -> None:
    x, y, known, recipe = data(7, studies=2000, recipes=15, correlation=correlation)
    low, high = correlation_interval(robust_slope(x, y, known, recipe), level=0.05)
    assert 0.94 <= np.mean((low <= correlation) & (correlation <= high)) <= 0.99


@pytest.mark.parametrize("recipes", [6, 20])
@pytest.mark.parametrize("level", [0.05, 0.05 / 6])
def test_power_is_the_share_found(recipes: int, level: float) -> None:
    x, y, known, recipe = data(8, studies=3000, recipes=recipes, correlation=-0.3)
    fit = robust_slope(x, y, known, recipe)
    found = np.mean((fit.p_value() < level) & (fit.t < 0))
    assert power(fit, -0.3, level=level).mean() == pytest.approx(found, abs=0.03)  # with a standard error of .008


def test_nothing_that_varies_gives_no_number() -> None:
    x, y, known, recipe = data(9)
    for fit in (robust_slope(known[:, :1].T, y, known, recipe), robust_slope(x, 0 * y + 3, known, recipe)):
        assert np.isnan(fit).all()
