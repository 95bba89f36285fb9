"""The linear probe is scikit-learn's pipeline, and its interval covers its own expectation."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from divalign.core.bootstrap import bootstrap_weights
from divalign.core.clouds import clouds
from divalign.core.clusters import fold_of_each
from divalign.core.heldout import hold_out
from divalign.core.probe import STRENGTHS, fit_logistic, fold_log_odds, rotate
from divalign.core.separation import separation


def labelled(seed: int, *, n: int, width: int, shift: float, scales: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian states of n safe and n harmful prompts, means apart over four features of unequal scale."""
    generator = np.random.default_rng(seed)
    states, labels = generator.normal(size=(2 * n, width)), np.arange(2 * n) >= n
    states[labels, -4:] += shift / 2
    return states * np.geomspace(scales, 1, width), labels


def held_out_log_odds(states: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return the log-odds of each prompt's label from a probe of the other folds' prompts."""
    result = np.empty(len(states))
    for number in np.unique(fold):
        result[fold == number] = fold_log_odds(states, labels, fold, int(number))
    return result


@pytest.mark.parametrize(("n", "width"), [(60, 20), (60, 300)])
@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
def test_the_fit_is_scikit_learns(n: int, width: int, strength: float) -> None:
    states, labels = labelled(0, n=n, width=width, shift=2.0, scales=30.0)
    trained = np.arange(2 * n) % 3 > 0
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=10_000, tol=1e-10))
    expected = model.fit(states[trained], labels[trained]).decision_function(states[~trained])
    axes = rotate(states[trained], states[~trained])
    fits = fit_logistic(axes, labels[trained], np.ones((trained.sum(), 2)), strength, tolerance=1e-8)
    found = axes.tested @ fits[:-1] + fits[-1]
    assert found == pytest.approx(np.stack([expected, expected], axis=1), rel=1e-4, abs=1e-4)


def test_left_out_prompts_have_weight_zero_and_the_strength_is_chosen_on_them() -> None:
    states, labels = labelled(1, n=80, width=200, shift=2.0, scales=1000.0)
    fold = fold_of_each(labels, None, seed=0)
    expected = np.empty(160)
    for number in range(5):
        trained = fold != number
        scaled = StandardScaler().fit(states[trained])  # the scaler sees what the search sees, and no labels
        search = GridSearchCV(
            LogisticRegression(max_iter=10_000, tol=1e-8),
            {"C": STRENGTHS},
            cv=PredefinedSplit(fold[trained]),
            scoring="neg_log_loss",
        ).fit(scaled.transform(states[trained]), labels[trained])
        expected[~trained] = search.decision_function(scaled.transform(states[~trained]))
    assert held_out_log_odds(states, labels, fold) == pytest.approx(expected, rel=1e-2, abs=2e-3)


def test_a_direction_of_small_variance_is_found_where_principal_axes_miss_it() -> None:
    # The classes differ along four features whose variance is a millionth of the largest.
    states, labels = labelled(2, n=100, width=200, shift=5.0, scales=1000.0)
    found = separation(states[~labels], states[labels], draws=100, null_draws=0).probe_auc
    assert found.low > 0.9


def test_constant_features_and_copies_of_features_change_nothing() -> None:
    states, labels = labelled(3, n=50, width=10, shift=2.0)
    fold = fold_of_each(labels, None, seed=0)
    once = held_out_log_odds(states, labels, fold)
    more = held_out_log_odds(np.hstack([states, np.full((100, 3), 7.0)]), labels, fold)
    assert more == pytest.approx(once, abs=1e-6)
    assert roc_auc_score(labels, once) > 0.75


def test_the_interval_covers_the_expectation_of_the_probe_fits_included() -> None:
    # Redrawing the scored prompts alone covers .75 to .9 here.
    for n, width, shift in ((25, 16, 0.0), (50, 32, 1.0)):
        values, intervals = [], []
        for seed in range(40):
            states, labels = labelled(seed, n=n, width=width, shift=shift)
            held = hold_out(clouds(states[~labels], states[labels], at_least=10), seed=seed)
            weights = bootstrap_weights(labels, None, draws=200, generator=np.random.default_rng(seed))
            values.append(held.probe_auc(np.ones((2 * n, 1)))[0])
            intervals.append(np.quantile(held.probe_auc(weights), [0.025, 0.975]))
        covered = np.mean([low <= np.mean(values) <= high for low, high in intervals])
        assert covered >= 0.93 - 1.65 * np.sqrt(0.95 * 0.05 / 40)
        if not shift:
            assert np.mean([low <= 0.5 <= high for low, high in intervals]) >= 0.85
