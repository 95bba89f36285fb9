import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from divalign.core.bhattacharyya import Gaussian, bhattacharyya
from divalign.core.bootstrap import bootstrap_weights
from divalign.core.clouds import clouds
from divalign.core.heldout import hold_out
from divalign.core.layers import separation_at_best_layer
from divalign.core.separation import Separation, plane, separation, separation_change, separation_draws
from divalign.core.stats import Estimate

MEASURES = ("bhattacharyya", "silhouette", "probe_auc", "tpr_at_1_fpr", "energy")


def two_clouds(seed: int, *, n: int = 60, width: int = 20, shift: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian clouds, the variance of axis j falling as 1/j; means differ by `shift` spreads over four axes."""
    generator = np.random.default_rng(seed)
    spread = 1 / np.sqrt(1.0 + np.arange(width))
    safe, harmful = generator.normal(size=(2, n, width)) * spread
    harmful[:, :4] += shift / 2 * spread[:4]
    return safe, harmful


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
        safe, harmful = two_clouds(seed, n=20 + seed % 7, width=4 + seed % 40, shift=seed / 20)
        measured = separation(safe, harmful[5:], mode="paper", draws=2)
        expected = the_papers_numbers(safe, harmful[5:])
        assert (measured.bhattacharyya.value, measured.silhouette.value) == pytest.approx(expected, abs=1e-8)


def test_paper_mode_leaves_out_what_the_paper_does_not_measure() -> None:
    measured = separation(*two_clouds(0), mode="paper")
    nothing = Estimate(None, None, None, 120)
    assert measured[2:5] == (nothing, nothing, nothing)
    assert measured.bhattacharyya.low < measured.bhattacharyya.value < measured.bhattacharyya.high
    assert measured.flags == {"in sample"}


def test_four_prompts_a_class_have_a_value_and_no_interval_and_warn_of_nothing() -> None:
    with np.errstate(all="raise"):
        measured = separation(*two_clouds(0, n=4), mode="paper").bhattacharyya
    assert measured.value is not None
    assert (measured.low, measured.high) == (None, None)


def test_the_plane_is_sklearns_up_to_a_fixed_sign() -> None:
    for n in (60, 250):  # small clouds by a dense solver, large ones by Lanczos
        safe, harmful = two_clouds(0, n=n)
        points = np.concatenate(plane(safe, harmful))
        expected = PCA(2, svd_solver="full").fit_transform(np.concatenate([safe, harmful]))
        assert np.abs(points) == pytest.approx(np.abs(expected), abs=1e-9)
        assert (points[np.abs(points).argmax(0), [0, 1]] > 0).all()


def test_tensors_and_arrays_give_the_same_numbers() -> None:
    safe, harmful = two_clouds(1)
    tensors = torch.tensor(safe), torch.tensor(harmful, requires_grad=True)
    assert separation(safe, harmful, draws=20, null_draws=5) == separation(*tensors, draws=20, null_draws=5)


def test_low_precision_costs_little() -> None:
    safe, harmful = two_clouds(1)
    exact = separation(safe, harmful, draws=10, null_draws=0)
    rounded = separation(torch.tensor(safe).bfloat16(), torch.tensor(harmful).bfloat16(), draws=10, null_draws=0)
    assert rounded.bhattacharyya.value == pytest.approx(exact.bhattacharyya.value, rel=0.02)  # bf16 keeps 8 bits


def test_a_farther_cloud_is_farther_in_every_measure() -> None:
    near, far = (separation(*two_clouds(2, n=120, shift=shift), draws=50, null_draws=20) for shift in (0.5, 5.0))
    for name in MEASURES:
        assert getattr(near, name).high < getattr(far, name).low
    assert far.energy_p_value == pytest.approx(1 / 51)
    assert far.null.high < far.bhattacharyya.low
    assert near.flags == far.flags == set()


@pytest.mark.parametrize("hundred", range(5))
def test_the_heldout_interval_holds_a_distance_of_zero_in_500_draws(hundred: int) -> None:
    lows = []
    for seed in range(100 * hundred, 100 * (hundred + 1)):
        pair = np.random.default_rng(seed).normal(size=(2, 100, 90))
        held = hold_out(clouds(*pair, at_least=10), seed=seed)
        weights = bootstrap_weights(held.pooled.harmful, None, draws=200, generator=np.random.default_rng(seed))
        lows.append(np.quantile(held.bhattacharyya(weights), 0.025))
    assert np.mean(np.array(lows) <= 0) >= 0.93  # what lies below zero is taken back to it


def test_the_sample_covariance_finds_23_nats_where_there_are_none() -> None:
    found = []
    for seed in range(20):
        sides = np.random.default_rng(seed).normal(size=(2, 100, 90))
        found.append(bhattacharyya(*(Gaussian(side.mean(axis=0), np.cov(side.T)) for side in sides)))
    assert np.mean(found) == pytest.approx(23, abs=0.5)


def test_the_heldout_distance_is_the_gaussian_one() -> None:
    values = []
    for seed in range(10):
        held = hold_out(clouds(*two_clouds(seed, n=500, shift=4.0), at_least=10), seed=seed)
        values.append(held.bhattacharyya(np.ones((1000, 1)))[0])
    # True distance 4^2/8 = 2; one value has a standard error of 0.1, and the bias measured at this size is -0.05.
    assert np.mean(values) == pytest.approx(2, abs=0.15)


def test_one_stray_prompt_does_not_decide() -> None:
    # A harmful prompt that the model takes for a safe one. Uncut, the correction took this distance below 0.
    safe, harmful = two_clouds(0, n=120, shift=60.0)
    strayed = harmful.copy()
    strayed[0] = safe[0] + 1e-3
    clean, stray = (separation(safe, side, draws=50, null_draws=0).bhattacharyya.value for side in (harmful, strayed))
    assert clean > 300
    assert 0.15 * clean < stray < clean  # it widens the fits of the folds it is in, as it should


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others() -> None:
    safe, harmful = two_clouds(3)
    first, again, other = (separation(safe, harmful, seed=seed, draws=20, null_draws=5) for seed in (0, 0, 1))
    assert first == again
    assert first.bhattacharyya != other.bhattacharyya


def test_only_the_geometry_counts_save_that_the_probe_scales_features() -> None:
    safe, harmful = two_clouds(4)
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(20, 20)))[0]
    first = separation(safe, harmful, draws=20, null_draws=5)
    second = separation(7 * safe @ turned + 3, 7 * harmful @ turned + 3, draws=20, null_draws=5)
    for name in MEASURES:
        if name not in ("tpr_at_1_fpr", "probe_auc"):  # 60 prompts have none; the probe standardises features
            assert getattr(first, name).value == pytest.approx(getattr(second, name).value, rel=1e-6)
    scales = np.geomspace(1e-3, 1e3, 20)
    third = separation(scales * safe + 3, scales * harmful + 3, draws=20, null_draws=0)
    assert third.probe_auc == pytest.approx(first.probe_auc)


def test_perfect_separation_has_an_honest_interval() -> None:
    found = separation(*two_clouds(5, n=100, shift=40.0), draws=50, null_draws=0)
    assert found.probe_auc[:3] == pytest.approx((1.0, 0.963, 1.0), abs=5e-4)  # Wilson's 100 of 100
    assert "extrapolated" in found.flags


def test_perfect_separation_of_near_copies_rests_on_their_groups() -> None:
    groups = [np.arange(100) // 10, 10 + np.arange(100) // 10]
    for names in (groups, [side.tolist() for side in groups], [torch.from_numpy(side) for side in groups]):
        found = separation(*two_clouds(5, n=100, shift=40.0), groups=tuple(names), draws=50, null_draws=0)
        assert found.probe_auc[:3] == pytest.approx((1.0, 0.722, 1.0), abs=5e-4)  # Wilson's 10 of 10


def test_one_percent_of_fewer_than_a_hundred_prompts_is_no_number() -> None:
    assert separation(*two_clouds(6, n=99), draws=10, null_draws=0).tpr_at_1_fpr.value is None
    assert separation(*two_clouds(6, n=100), draws=10, null_draws=0).tpr_at_1_fpr.value is not None


def test_flags_say_what_to_doubt() -> None:
    pair = two_clouds(7)

    def flags(words: float | None) -> frozenset[str]:
        lexical = Estimate(words, None, None, 120)
        return separation(*pair, draws=50, null_draws=0, lexical=lexical).flags

    assert flags(0.999) == {"words alone do as well"}
    assert flags(0.6) == flags(None) == set()


def test_topic_pairs_are_not_counted_twice() -> None:
    # 40 topics, five near-copies of each prompt: the grouped interval knows that there are 40, not 200.
    generator = np.random.default_rng(8)
    safe, harmful = two_clouds(8, n=40, shift=2.0)
    copies = [np.repeat(side, 5, axis=0) + 1e-3 * generator.normal(size=(200, 20)) for side in (safe, harmful)]
    topics = np.repeat(np.arange(40), 5).tolist()
    alone = separation(*copies, draws=200, null_draws=0).bhattacharyya
    grouped = separation(*copies, draws=200, null_draws=20, groups=(topics, topics))
    assert grouped.bhattacharyya.high - grouped.bhattacharyya.low > 1.5 * (alone.high - alone.low)
    assert grouped.null.low < 0.05


def test_nothing_tested_was_seen_by_its_fit() -> None:
    # Moving one harmful prompt far away may change the fits of the other folds, never those that test it.
    safe, harmful = two_clouds(9)
    moved = harmful.copy()
    moved[0] += 1e-3
    first, second = (hold_out(clouds(safe, other, at_least=10), seed=0) for other in (harmful, moved))
    testing = next(index for index, axes in enumerate(first.folds) if axes.tested[60])
    unmoved = first.folds[testing].tested & (np.arange(120) != 60)
    assert first.gains[unmoved] == pytest.approx(second.gains[unmoved], abs=1e-9)
    assert first.log_odds[unmoved] == pytest.approx(second.log_odds[unmoved], abs=1e-6)
    assert first.gains[60] != pytest.approx(second.gains[60], abs=1e-6)


def test_a_change_is_the_difference_and_knows_it_more_exactly() -> None:
    before = two_clouds(10, n=150, shift=3.0)
    after = tuple(side + 0.02 * np.random.default_rng(1).normal(size=side.shape) for side in before)
    change = separation_change(before, after, draws=200)
    one, two = (separation(*pair, draws=200, null_draws=0) for pair in (before, after))
    for name in change._fields:
        first, second, difference = getattr(one, name), getattr(two, name), getattr(change, name)
        assert difference.value == pytest.approx(second.value - first.value)
        assert difference.high - difference.low < 0.5 * (first.high - first.low)


def test_two_perfect_probes_may_differ_by_as_much_as_their_prompts_can_hide() -> None:
    before = two_clouds(12, n=60, shift=60.0)
    after = tuple(side + 0.02 * np.random.default_rng(1).normal(size=side.shape) for side in before)
    change = separation_change(before, after, draws=50).probe_auc
    score = separation(*before, draws=50, null_draws=0).probe_auc
    assert (score.value, change.value) == (1.0, 0.0)
    assert (change.low, change.high) == pytest.approx((score.low - 1, 1 - score.low))


def test_draws_of_one_seed_are_the_intervals_own() -> None:
    pair = two_clouds(11)
    found = separation(*pair, draws=100, null_draws=0).bhattacharyya
    assert np.quantile(separation_draws(*pair, draws=100), [0.025, 0.975]) == pytest.approx(found[1:3])


def stack(layers: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    safe, harmful = zip(*layers, strict=True)
    return np.stack(safe), np.stack(harmful)


def test_the_layer_that_separates_is_chosen_on_other_prompts() -> None:
    safe, harmful = stack([two_clouds(seed, n=60, shift=shift) for seed, shift in ((0, 0.0), (1, 4.0), (2, 1.0))])
    found = separation_at_best_layer(torch.tensor(safe), torch.tensor(harmful))
    assert (found.layer, found.choices, found.stability) == (1, (1,) * 5, 1.0)
    assert isinstance(found.separation, Separation)
    assert found.separation == separation(safe[1], harmful[1])  # every fold chose it: nothing is lost
    assert [entry.n for entry in found.by_layer] == [120] * 3
    topics = (np.arange(60) // 2).tolist()
    assert separation_at_best_layer(safe, harmful, groups=(topics, topics)).layer == 1


def test_only_the_layers_asked_for_are_chosen_from() -> None:
    safe, harmful = stack([two_clouds(seed, n=40, shift=shift) for seed, shift in ((0, 0.0), (1, 6.0), (2, 2.0))])
    found = separation_at_best_layer(safe, harmful, layers=[-1, 0])
    assert (found.layer, found.layers, len(found.by_layer)) == (2, (0, 2), 2)
    assert set(found.choices) <= {0, 2}
    with pytest.raises(ValueError, match="layers: got \\[3\\], expected some of 0 to 2"):
        separation_at_best_layer(safe, harmful, layers=[3])


def test_one_better_layer_is_chosen_whatever_the_seed_and_alike_layers_are_called_unstable() -> None:
    better = stack([two_clouds(layer, n=60, shift=3.0 if layer == 2 else 1.0) for layer in range(4)])
    assert {separation_at_best_layer(*better, seed=seed).layer for seed in range(2)} == {2}
    alike = stack([two_clouds(layer, n=45, shift=0.5) for layer in range(4)])
    assert separation_at_best_layer(*alike).stability < 1


def test_choosing_among_layers_of_noise_finds_nothing() -> None:
    generator, found = np.random.default_rng(12), []
    for seed in range(3):
        safe, harmful = generator.normal(size=(2, 4, 45, 10))
        found.append(separation_at_best_layer(safe, harmful, seed=seed))
    assert max(one.separation.bhattacharyya.low for one in found) == 0


def test_the_heldout_silhouette_is_that_of_the_whole_states() -> None:
    safe, harmful = two_clouds(13)
    expected = silhouette_score(np.concatenate([safe, harmful]), np.arange(120) >= 60)
    assert separation(safe, harmful, draws=10, null_draws=0).silhouette.value == pytest.approx(expected)


def test_the_silhouette_is_one_number_whatever_axes_the_folds_choose() -> None:
    # On each fold's chosen axes, 2 to 16 of them, it moved by .06 with the seed of the folds alone.
    safe, harmful = np.random.default_rng(5).normal(size=(2, 100, 16))
    harmful[:, :4] += 2
    folds = [hold_out(clouds(safe, harmful, at_least=10), seed=seed) for seed in range(4)]
    assert len({held.dimensions for held in folds}) > 1
    assert np.ptp([held.silhouette(np.ones((200, 1)))[0] for held in folds]) < 1e-9


def test_the_interval_of_the_silhouette_covers_it_and_its_changes() -> None:
    values, intervals, changes, once = [], [], [], np.ones((100, 1))
    for seed in range(100):
        random = np.random.default_rng(seed)
        states = random.normal(size=(2, 2, 50, 16))  # model, class, prompts, width
        states[1] = (states[0] + np.sqrt(3) * states[1]) / 2  # another model on the same prompts, of one distribution
        states[:, 1, :, :4] += 2
        before, after = (hold_out(clouds(*pair, at_least=10), seed=seed) for pair in states)
        weights = bootstrap_weights(before.pooled.harmful, None, draws=300, generator=random)
        values.append(before.silhouette(once)[0])
        intervals.append(np.quantile(before.silhouette(weights), [0.025, 0.975]))
        changes.append(np.quantile(after.silhouette(weights) - before.silhouette(weights), [0.025, 0.975]))
    # .95 nominal; 100 draws have a standard error of 2 %. It covered .30 to .81, and .20 to .53 of changes were false.
    assert np.mean([low <= np.mean(values) <= high for low, high in intervals]) >= 0.9
    assert np.mean([low <= 0 <= high for low, high in changes]) >= 0.9


def test_the_interval_of_the_distance_covers_its_own_expectation() -> None:
    # Means 2 spreads apart (D = .5) in 64 alike axes: redrawing gains alone covers .83.
    values, intervals, once = [], [], np.ones((200, 1))
    for seed in range(60):
        safe, harmful = np.random.default_rng(seed).normal(size=(2, 100, 64))
        harmful[:, :4] += 1
        held = hold_out(clouds(safe, harmful, at_least=10), seed=seed)
        weights = bootstrap_weights(held.pooled.harmful, None, draws=200, generator=np.random.default_rng(seed))
        values.append(held.bhattacharyya(once)[0])
        intervals.append(np.quantile(held.bhattacharyya(weights), [0.025, 0.975]))
    assert np.mean([low <= np.mean(values) <= high for low, high in intervals]) >= 0.9
    assert np.mean(values) < 0.5  # an expectation below the distance of the populations: few prompts, 64 axes
