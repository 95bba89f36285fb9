"""Fitted critics see what they should, are not too sure of it, and find nothing where nothing is."""

import numpy as np

from divalign.core.critics import Products, fit_critic
from divalign.core.measure import MeasurementPlan, measure_features

FAST = MeasurementPlan(draws=200, permutations=20)


def crossed(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prompts of two classes; the aligned response is +1 after one and -1 after the other, as in refusal data."""
    random = np.random.default_rng(seed)
    prompt = random.choice([-1.0, 1.0], size=(n, 1))
    noise = random.normal(size=(3, n, 4))
    return prompt + 0.5 * noise[0], prompt + noise[1], -prompt + noise[2]


def test_a_critic_of_responses_alone_is_blind_to_compliance_refusal_data_and_a_bilinear_one_is_not() -> None:
    prompts, aligned, unaligned = crossed(0)
    ids = np.arange(len(prompts))
    blind = measure_features(aligned, unaligned, "js", (ids, ids), FAST)
    seeing = measure_features(aligned, unaligned, "js", (ids, ids), FAST, contexts=(prompts, prompts))
    assert blind.held_out.estimate.low == 0.0
    assert blind.p_value > 0.05
    assert seeing.held_out.lower is not None
    assert seeing.held_out.lower > 0.5
    assert seeing.p_value < 0.05


def test_log_odds_of_unit_gaussians_are_found_with_their_scale() -> None:
    random = np.random.default_rng(1)
    features = np.concatenate([random.normal(+0.5, size=(4000, 1)), random.normal(-0.5, size=(4000, 1))])
    critic = fit_critic(features, np.arange(8000) < 4000, np.tile(np.arange(4000), 2))
    grid = np.linspace(-2, 2, 9)[:, None]
    np.testing.assert_allclose(critic(grid), grid[:, 0], atol=0.15)  # log dP/dQ of N(1/2, 1) and N(-1/2, 1) is x


def test_a_critic_that_memorises_is_brought_down_to_what_it_knows() -> None:
    random = np.random.default_rng(2)
    features = random.normal(size=(120, 100))  # more numbers than rows can decide, and no difference between classes
    critic = fit_critic(features, np.arange(120) < 60, np.tile(np.arange(60), 2))
    assert np.abs(critic(random.normal(size=(500, 100)))).mean() < 0.5


def test_products_keep_few_axes_and_all_their_pairs() -> None:
    rows = np.random.default_rng(3).normal(size=(50, 7))
    assert Products(4, axes=3).fit(rows).transform(rows).shape == (50, 3 + 9)
