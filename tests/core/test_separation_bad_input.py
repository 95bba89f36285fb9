import numpy as np
import pytest

from divalign.core.directions import margins, project_out, refusal_direction
from divalign.core.layers import separation_at_best_layer
from divalign.core.separation import plane, separation, separation_change

GOOD = np.random.default_rng(0).normal(size=(40, 6))
OTHER = np.random.default_rng(1).normal(size=(40, 6))


def spoiled(value: float) -> np.ndarray:
    states = OTHER.copy()
    states[7, 2] = value
    return states


LINE = np.arange(40)[:, None] * np.ones(6)
BAD = {
    "nan": (GOOD, spoiled(np.nan), r"harmful\[7\]: the state is not finite"),
    "infinity": (spoiled(np.inf), GOOD, r"safe\[7\]: the state is not finite"),
    "empty": (GOOD, OTHER[:0], "harmful: got 0 prompts, expected at least"),
    "tiny": (GOOD[:3], OTHER, "safe: got 3 prompts, expected at least"),
    "width": (GOOD, OTHER[:, :5], "safe has width 6 and harmful 5"),
    "flat": (GOOD[0], OTHER, r"safe: got an array of shape \(6,\), expected \[prompts, width\]"),
}


@pytest.mark.parametrize("mode", ["paper", "heldout"])
@pytest.mark.parametrize("name", BAD)
def test_bad_states_are_named(name: str, mode) -> None:
    safe, harmful, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        separation(safe, harmful, mode)


@pytest.mark.parametrize("mode", ["paper", "heldout"])
def test_one_and_the_same_point_is_no_cloud(mode) -> None:
    with pytest.raises(ValueError, match=r"one and the same point|identical states"):
        separation(np.ones((20, 6)), np.ones((20, 6)), mode)


def test_a_singular_covariance_gives_no_number() -> None:
    with pytest.raises(ValueError, match="one line"):
        plane(LINE, LINE + 0.5)
    collapsed = np.repeat(GOOD[:1], 20, axis=0)
    with pytest.raises(ValueError, match="covariance is singular"):
        separation(collapsed, OTHER, "paper")
    points = np.array([0.0, 1.0])[:, None, None] + 1e-9 * GOOD.reshape(2, 120, 1)
    with pytest.raises(ValueError, match="single points along an axis"):
        separation(*points)


def test_a_nearly_singular_covariance_is_flagged() -> None:
    safe, harmful = np.c_[GOOD, np.zeros(40)], np.c_[OTHER, np.full(40, 50.0)]
    assert "extrapolated" in separation(safe, harmful, draws=5, null_draws=0).flags


def test_copies_are_refused_unless_they_share_a_group() -> None:
    copied = OTHER.copy()
    copied[3] = GOOD[1]
    with pytest.raises(ValueError, match=r"safe\[1\] and harmful\[3\] have identical states"):
        separation(GOOD, copied)
    names = list(range(40)), [*range(40, 43), 1, *range(44, 80)]
    assert separation(GOOD, copied, groups=names, draws=5, null_draws=0).bhattacharyya.value is not None
    assert separation(GOOD, copied, "paper", draws=5).bhattacharyya.value is not None


def test_groups_must_fit_and_must_split() -> None:
    with pytest.raises(ValueError, match=r"groups name 2 \+ 40 prompts, expected 40 \+ 40"):
        separation(GOOD, OTHER, groups=([1, 2], list(range(40))))
    with pytest.raises(ValueError, match="got 1 groups, expected at least 5"):
        separation(GOOD, OTHER, groups=([1] * 40, [1] * 40))
    with pytest.raises(ValueError, match="give more or smaller groups"):
        separation(GOOD, OTHER, groups=([1] * 40, [2, 3, 4, 5] * 10))


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match='got \'best\', expected "paper" or "heldout"'):
        separation(GOOD, OTHER, "best")


def test_before_and_after_must_be_the_same_prompts() -> None:
    with pytest.raises(ValueError, match="expected the same ones"):
        separation_change((GOOD, OTHER), (GOOD[:39], OTHER))


def test_layers_must_be_stacked_alike() -> None:
    stack = np.random.default_rng(2).normal(size=(3, 40, 6))
    with pytest.raises(ValueError, match="of as many layers each"):
        separation_at_best_layer(stack, stack[:2] + 1)
    with pytest.raises(ValueError, match="got 20 safe and 40 harmful prompts, expected 30 each"):
        separation_at_best_layer(stack[:, :20], stack + 1)


def test_no_direction_leads_from_a_point_to_itself() -> None:
    with pytest.raises(ValueError, match="length 0"):
        refusal_direction(GOOD, GOOD)
    with pytest.raises(ValueError, match="has length 6, the direction 5"):
        project_out(GOOD, np.ones(5))
    with pytest.raises(ValueError, match="no class varies"):
        margins(np.zeros((10, 2)), np.ones((10, 2)))
