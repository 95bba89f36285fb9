import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from divalign.core.separation import plane, separation


def two_clouds(seed: int, *, n: int = 60, width: int = 20, shift: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated Gaussian clouds whose means differ by `shift` spreads along a mixed direction."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(width, width)) / np.sqrt(width)
    safe, harmful = generator.normal(size=(2, n, width))
    harmful[:, 0] += shift
    return safe @ mixing, harmful @ mixing


def the_papers_numbers(safe: np.ndarray, harmful: np.ndarray) -> tuple[float, float]:
    """Bhattacharyya and silhouette in the pooled principal plane, by scikit-learn, inverses and determinants."""
    points = PCA(2, svd_solver="full").fit_transform(np.concatenate([safe, harmful]))
    one, two = points[: len(safe)], points[len(safe) :]
    first, second = np.cov(one.T), np.cov(two.T)
    average, gap = (first + second) / 2, one.mean(0) - two.mean(0)
    shape = np.linalg.det(average) / np.sqrt(np.linalg.det(first) * np.linalg.det(second))
    distance = gap @ np.linalg.inv(average) @ gap / 8 + np.log(shape) / 2
    return distance, silhouette_score(points, [0] * len(one) + [1] * len(two))


def test_paper_mode_equals_an_independent_implementation() -> None:
    for seed in range(100):
        safe, harmful = two_clouds(seed, n=20 + seed % 7, width=3 + seed % 40, shift=seed / 20)
        measured = separation(safe, harmful, mode="paper", draws=2)
        expected = the_papers_numbers(safe, harmful)
        assert (measured.bhattacharyya.value, measured.silhouette.value) == pytest.approx(expected, abs=1e-8)
        assert "in sample" in measured.flags


def test_the_plane_is_sklearns_up_to_a_fixed_sign() -> None:
    safe, harmful = two_clouds(0)
    points = np.concatenate(plane(safe, harmful))
    expected = PCA(2, svd_solver="full").fit_transform(np.concatenate([safe, harmful]))
    assert np.abs(points) == pytest.approx(np.abs(expected), abs=1e-9)
    assert (points[np.abs(points).argmax(0), [0, 1]] > 0).all()


def test_tensors_and_arrays_give_the_same_numbers() -> None:
    safe, harmful = two_clouds(1)
    assert separation(safe, harmful, draws=20, null_draws=5) == separation(
        torch.tensor(safe), torch.tensor(harmful), draws=20, null_draws=5
    )


def test_a_farther_cloud_is_farther_in_every_measure() -> None:
    near, far = (separation(*two_clouds(2, n=120, shift=shift), draws=50, null_draws=5) for shift in (0.5, 5.0))
    for name in ("bhattacharyya", "silhouette", "probe_auc", "tpr_at_1_fpr", "energy"):
        assert getattr(near, name).high < getattr(far, name).low
    assert far.energy_p_value == pytest.approx(1 / 51)
