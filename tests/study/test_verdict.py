import numpy as np
import pytest

from divalign.study.verdict import ModelPoint, verdict


def study(
    seed: int, *, families: int = 4, models: int = 6, effect: float = 0.0, family_effect: float = 0.0
) -> list[ModelPoint]:
    """Simulated models: logit of the success rate falls by `effect` per unit of separation within a family."""
    generator = np.random.default_rng(seed)
    points = []
    for family in range(families):
        base = generator.normal() * family_effect
        for model in range(models):
            own = generator.normal()
            logit = -0.5 - base - effect * own + 0.5 * generator.normal()
            wins = generator.binomial(100, 1 / (1 + np.exp(-logit)))
            points.append(ModelPoint(f"{family}.{model}", str(family), own + 2 * base, int(wins), 100))
    return points


def test_a_planted_effect_is_supported() -> None:
    assert verdict(study(0, effect=0.8)).conclusion == "supported"


def test_the_opposite_effect_is_not() -> None:
    found = verdict(study(0, effect=-0.8))
    assert found.p_value < 0.05
    assert found.conclusion == "not supported"


def test_two_models_are_underpowered() -> None:
    found = verdict(study(0, families=1, models=2))
    assert (found.conclusion, found.power) == ("underpowered", 0.0)


def test_models_without_a_measurement_count_for_nothing() -> None:
    bare = [ModelPoint("a", "f", None, 3, 10), ModelPoint("b", "f", 1.0, 0, 0)]
    found = verdict(bare)
    assert found[1:] == (None, None, 0.0, 0, "underpowered")


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="a: 11 successes of 10 trials"):
        verdict([ModelPoint("a", "f", 1.0, 11, 10)])
