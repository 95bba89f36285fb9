import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import dblquad
from scipy.spatial.distance import cdist
from scipy.stats import energy_distance, multivariate_normal
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score, roc_curve, silhouette_score

from divalign.core.bhattacharyya import Gaussian, bhattacharyya, fit, gains, many_bhattacharyya
from divalign.core.bootstrap import bootstrap_weights, share_with_interval, with_interval
from divalign.core.clouds import project
from divalign.core.clusters import fold_of_each, shuffled_labels
from divalign.core.directions import cosine, margins, project_out, refusal_direction
from divalign.core.energy import energy, silhouette
from divalign.core.ranking import auc, tpr_at_fpr

few = settings(max_examples=25, derandomize=True, deadline=None)
seeds = st.integers(0, 10**6)


def gaussian(generator: np.random.Generator, dimension: int) -> Gaussian:
    root = generator.normal(size=(dimension, dimension + 2))
    return Gaussian(generator.normal(size=dimension), root @ root.T / dimension)


def labelled(seed: int, n: int = 40) -> tuple[np.random.Generator, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator, generator.permutation(np.arange(n) < n // 3)


def once(labels: np.ndarray) -> np.ndarray:
    return np.ones((len(labels), 1))


def test_the_distance_is_minus_log_of_the_overlap() -> None:
    one, two = (gaussian(np.random.default_rng(seed), 2) for seed in (0, 1))
    first, second = multivariate_normal(*one), multivariate_normal(*two)
    overlap = dblquad(lambda y, x: np.sqrt(first.pdf([x, y]) * second.pdf([x, y])), -15, 15, -15, 15, epsabs=1e-7)[0]
    assert bhattacharyya(one, two) == pytest.approx(-np.log(overlap), abs=1e-5)


@given(seeds, st.integers(1, 6))
@few
def test_the_distance_is_a_mean_gain_in_likelihood(seed: int, dimension: int) -> None:
    # Averaged over points with exactly the Gaussians' own moments, the gains give the distance itself.
    generator = np.random.default_rng(seed)
    one, two = gaussian(generator, dimension), gaussian(generator, dimension)
    means = []
    for own, other in ((one, two), (two, one)):
        root = np.linalg.cholesky(own.covariance) * np.sqrt(dimension)
        points = own.mean + np.concatenate([root.T, -root.T])
        for corrected in (True, False):
            means.append(gains(own, other, points, corrected=corrected).mean())
    assert means[0] == pytest.approx(means[1], abs=1e-8)
    assert (means[0] + means[2]) / 2 == pytest.approx(bhattacharyya(one, two), abs=1e-8)


@given(seeds)
@few
def test_the_distance_is_symmetric_zero_at_equality_and_blind_to_linear_maps(seed: int) -> None:
    generator = np.random.default_rng(seed)
    one, two, mixing = gaussian(generator, 4), gaussian(generator, 4), generator.normal(size=(4, 4))
    moved = [Gaussian(mixing @ side.mean, mixing @ side.covariance @ mixing.T) for side in (one, two)]
    assert bhattacharyya(one, one) == pytest.approx(0, abs=1e-12)
    assert bhattacharyya(one, two) == pytest.approx(bhattacharyya(two, one))
    assert bhattacharyya(one, two) == pytest.approx(bhattacharyya(*moved), rel=1e-5)


@given(seeds, st.integers(1, 12), st.integers(3, 30))
@few
def test_the_fit_is_sklearns_ledoit_wolf(seed: int, dimension: int, n: int) -> None:
    points = np.random.default_rng(seed).normal(size=(n, dimension)) * np.linspace(1, 3, dimension)
    assert fit(points).covariance == pytest.approx(ledoit_wolf(points)[0])


def test_log_determinants_survive_where_determinants_underflow() -> None:
    tiny = Gaussian(np.zeros(300), 1e-4 * np.eye(300))
    assert np.linalg.det(tiny.covariance) == 0
    assert bhattacharyya(tiny, tiny._replace(mean=np.full(300, 1e-2))) == pytest.approx(300 / 8)


def test_the_correction_restores_the_spread_of_the_estimate() -> None:
    # Fit on half, score the other half, 200 times: the standard error of the gains must be that of the estimates.
    generator, estimates, errors, bare = np.random.default_rng(0), [], [], []
    for _ in range(200):
        safe, harmful = generator.normal(size=(2, 400, 3))
        harmful[:, 0] += 6
        one, two = fit(safe[:200]), fit(harmful[:200])
        sides = [gains(one, two, safe[200:]), gains(two, one, harmful[200:])]
        plain = [gains(one, two, safe[200:], corrected=False), gains(two, one, harmful[200:], corrected=False)]
        estimates.append(np.mean(sides))
        errors.append(np.sqrt(sum(side.var() / 200 for side in sides)) / 2)
        bare.append(np.sqrt(sum(side.var() / 200 for side in plain)) / 2)
    assert np.mean(estimates) == pytest.approx(36 / 8, abs=0.1)
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.15)
    assert np.mean(bare) < 0.6 * np.std(estimates)


@given(seeds)
@few
def test_weighted_statistics_are_those_of_repeated_points(seed: int) -> None:
    generator, labels = labelled(seed)
    points, scores = generator.normal(size=(40, 2)), generator.integers(0, 9, size=40).astype(float)
    weights = bootstrap_weights(labels, None, draws=3, generator=generator)
    for draw in range(3):
        again = np.repeat(np.arange(40), weights[:, draw].astype(int))
        copies, truth = points[again], labels[again]
        sides = [Gaussian(side.mean(0), np.cov(side.T)) for side in (copies[~truth], copies[truth])]
        assert many_bhattacharyya(points, labels, weights)[draw] == pytest.approx(bhattacharyya(*sides))
        assert auc(scores, labels, weights)[draw] == pytest.approx(roc_auc_score(truth, scores[again]))


@given(seeds)
@few
def test_ranking_measures_are_sklearns(seed: int) -> None:
    generator, labels = labelled(seed, 200)
    scores = generator.normal(size=200).round(1)  # ties included
    false_alarms, found, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert auc(scores, labels, once(labels))[0] == pytest.approx(roc_auc_score(labels, scores))
    for fpr in (0.0, 0.01, 0.2):
        expected = found[false_alarms <= fpr + 1e-12].max()
        assert tpr_at_fpr(scores, labels, once(labels), fpr=fpr)[0] == pytest.approx(expected)


@given(seeds)
@few
def test_silhouette_is_sklearns(seed: int) -> None:
    generator, labels = labelled(seed)
    points = generator.normal(size=(40, 3)) + labels[:, None]
    distances = cdist(points, points)
    assert silhouette(distances, labels, once(labels))[0] == pytest.approx(silhouette_score(points, labels))


def test_a_class_of_one_point_has_silhouette_zero_as_sklearns() -> None:
    points, labels = np.array([[0.0, 0], [1, 0], [0, 1], [3, 3]]), np.arange(4) == 3
    distances = cdist(points, points)
    expected = silhouette_score(points, labels)
    assert silhouette(distances, labels, once(labels))[0] == pytest.approx(expected)
    # A sample that draws one prompt five times holds no other point of that class either.
    again = np.where(labels, 5.0, 1.0)[:, None]
    assert silhouette(distances, labels, again)[0] == pytest.approx(4 * expected / 8)


def test_energy_is_scipys_distance_without_its_bias() -> None:
    generator, labels = labelled(0)
    values = generator.normal(size=40) + labels
    distances = np.abs(values[:, None] - values)
    found = energy(distances, (~labels * 1.0)[:, None], (labels * 1.0)[:, None])[0]
    n, m = (~labels).sum(), labels.sum()
    between = distances[np.ix_(labels, ~labels)].mean()
    biased = energy_distance(values[~labels], values[labels]) ** 2  # pairs of a point with itself included
    own = [distances[np.ix_(side, side)].sum() for side in (~labels, labels)]
    unbiased = biased + own[0] * (1 / n**2 - 1 / (n * (n - 1))) + own[1] * (1 / m**2 - 1 / (m * (m - 1)))
    assert found == pytest.approx(unbiased / (2 * between))


def test_energy_of_equal_laws_is_zero_on_average_also_when_redrawn() -> None:
    generator = np.random.default_rng(1)
    labels, values, redrawn = np.arange(60) < 30, [], []
    for _ in range(200):
        points = generator.normal(size=(60, 2))
        distances = cdist(points, points)
        weights = bootstrap_weights(labels, None, draws=20, generator=generator)
        values.append(energy(distances, ~labels[:, None] * 1.0, labels[:, None] * 1.0)[0])
        redrawn.append(energy(distances, weights * ~labels[:, None], weights * labels[:, None]).mean())
    assert np.mean(values) == pytest.approx(0, abs=3 * np.std(values) / np.sqrt(200))
    assert np.mean(redrawn) == pytest.approx(np.mean(values), abs=0.005)


@given(seeds, st.integers(1, 8))
@few
def test_projection_equals_sklearns_pca_of_the_fitted(seed: int, dimensions: int) -> None:
    generator, fitted = labelled(seed)
    points = generator.normal(size=(40, 60)) * np.linspace(1, 3, 60) + 5
    expected = PCA(dimensions, svd_solver="full").fit(points[fitted]).transform(points)
    assert np.abs(project(points @ points.T, fitted, dimensions)) == pytest.approx(np.abs(expected), abs=1e-7)


def test_few_points_span_few_axes() -> None:
    points = np.random.default_rng(0).normal(size=(30, 3))
    assert project(points @ points.T, np.ones(30, dtype=bool), 8).shape == (30, 3)


@given(seeds)
@few
def test_groups_stay_in_one_fold_and_in_every_draw_together(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels, groups = np.arange(80) % 2 == 0, generator.integers(0, 30, size=80)
    fold = fold_of_each(labels, groups, seed=seed)
    weights = bootstrap_weights(labels, groups, draws=4, generator=generator)
    for group in range(30):
        assert len(set(fold[groups == group].tolist())) <= 1
        assert (weights[groups == group] == weights[groups == group][:1]).all()
    assert (weights[labels].sum(axis=0) > 0).all()
    assert (weights[~labels].sum(axis=0) > 0).all()


def test_shuffled_pairs_swap_and_shuffled_groups_move_as_wholes() -> None:
    generator = np.random.default_rng(0)
    labels, pairs = np.arange(40) >= 20, np.arange(40) % 20
    swapped = shuffled_labels(labels, pairs, generator)
    assert all(swapped[pair] != swapped[pair + 20] for pair in range(20))
    blocks = np.arange(40) // 5
    moved = shuffled_labels(labels, blocks, generator)
    assert all(len(set(moved[blocks == block])) == 1 for block in range(8))
    assert moved.sum() == shuffled_labels(labels, None, generator).sum() == 20


def test_a_draw_without_a_number_leaves_no_interval() -> None:
    assert with_interval(1.0, np.array([1.0, np.nan]), 5)[1:3] == (None, None)
    points = np.random.default_rng(0).normal(size=(8, 2))
    weights = np.ones((8, 2))
    weights[1:4, 0] = 0
    found = many_bhattacharyya(points, np.arange(8) >= 4, weights)
    assert np.isnan(found).tolist() == [True, False]


def test_a_share_away_from_the_ends_keeps_its_bootstrap() -> None:
    draws = np.linspace(0.4, 0.6, 101)
    perfect = share_with_interval(1.0, np.ones(50), 200, rests_on=100)
    nearly = share_with_interval(0.999, np.linspace(0.998, 1, 50), 200, rests_on=100)
    assert nearly.low == perfect.low == pytest.approx(0.963, abs=5e-4)  # a first error does not narrow it
    assert share_with_interval(0.5, draws, 30, rests_on=10) == with_interval(0.5, draws, 30)


@given(seeds)
@few
def test_projecting_out_leaves_nothing_and_twice_is_once(seed: int) -> None:
    generator = np.random.default_rng(seed)
    states, direction = generator.normal(size=(5, 7)), generator.normal(size=7)
    rest = project_out(states, direction)
    assert rest @ direction == pytest.approx(np.zeros(5), abs=1e-12)
    assert project_out(rest, direction) == pytest.approx(rest)
    weight = torch.tensor(states.T, dtype=torch.bfloat16)
    written = project_out(weight, torch.tensor(direction), axis=0)
    assert written.dtype == torch.bfloat16
    exact = project_out(weight.double().numpy().T, direction)
    assert pytest.approx(exact, abs=0.03) == written.double().numpy().T  # bf16 keeps 8 bits


def test_the_refusal_direction_is_found_and_read() -> None:
    generator = np.random.default_rng(0)
    safe, harmful = generator.normal(size=(2, 300, 30))
    harmful[:, 3] += 4
    direction = refusal_direction(safe, torch.tensor(harmful))
    assert cosine(direction, torch.eye(30)[3]) > 0.95
    assert cosine(direction, -direction) == pytest.approx(-1)
    low, high = margins(safe, harmful)
    # Half of a shift of 4 spreads, a little less for the noise in the direction.
    assert (low.mean(), high.mean()) == pytest.approx((-2, 2), abs=0.2)
    assert np.mean(margins(*(project_out(side, direction) for side in (safe, harmful)))[1]) < 0.2
