import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divalign.draw.axis import categories, linear, logarithmic, shares
from divalign.draw.numbers import percent

NUMBERS = st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-6)
POSITIVE = st.floats(1e-6, 1e9)


@settings(derandomize=True, max_examples=150)
@given(st.lists(NUMBERS, min_size=1, max_size=8))
def test_a_linear_axis_holds_its_numbers_between_round_ticks(values: list[float]) -> None:
    axis = linear(values)
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low - slack <= min(values)
    assert max(values) <= axis.high + slack
    ticks = [tick.value for tick in axis.ticks]
    assert (ticks[0], ticks[-1]) == (axis.low, axis.high)
    assert 2 <= len(ticks) <= 7
    steps = {f"{later - earlier:.6e}" for earlier, later in pairwise(ticks)}
    assert {step[0] for step in steps} <= set("125")


@settings(derandomize=True, max_examples=150)
@given(st.lists(POSITIVE, min_size=1, max_size=8))
def test_a_logarithmic_axis_runs_between_powers_of_ten_around_its_numbers(values: list[float]) -> None:
    axis = logarithmic(values)
    assert axis.low <= min(values) * (1 + 1e-6)
    assert max(values) <= axis.high * (1 + 1e-6)
    assert math.log10(axis.low) == pytest.approx(round(math.log10(axis.low)), abs=1e-9)
    assert len(axis.ticks) <= 7


@settings(derandomize=True, max_examples=100)
@given(st.lists(POSITIVE, min_size=2, max_size=8, unique=True), st.booleans())
def test_larger_numbers_lie_further_along_and_none_outside(values: list[float], log: bool) -> None:
    axis = logarithmic(values) if log else linear(values)
    places = [axis.at(value, 10.0, 110.0) for value in sorted(values)]
    assert places == sorted(places)
    assert 10.0 <= places[0] <= places[-1] <= 110.0


def test_equal_ratios_are_equal_lengths_on_a_logarithmic_axis() -> None:
    axis = logarithmic([0.1, 100.0])
    places = [axis.at(value, 0.0, 3.0) for value in (0.1, 1.0, 10.0, 100.0)]
    assert places == pytest.approx([0.0, 1.0, 2.0, 3.0], abs=1e-12)


def test_zero_stands_at_the_low_end_of_a_logarithmic_axis() -> None:
    assert logarithmic([0.0, 5.0]).at(0.0, 40.0, 80.0) == 40.0


@pytest.mark.parametrize("values", [[], [3.0], [0.0], [-2.0, -2.0]])
def test_an_axis_has_length_even_where_the_numbers_have_none(values: list[float]) -> None:
    assert linear(values).low < linear(values).high
    assert logarithmic(values).low < logarithmic(values).high


def test_rates_share_one_axis_whatever_the_data() -> None:
    axis = shares(percent)
    assert [tick.label for tick in axis.ticks] == [percent(share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]


def test_names_lie_one_apart_in_their_order_and_inside_the_axis() -> None:
    axis = categories(["kldo", "bco", "kto"])
    assert [tick.label for tick in axis.ticks] == ["kldo", "bco", "kto"]
    assert [axis.at(tick.value, 0.0, 3.0) for tick in axis.ticks] == pytest.approx([0.5, 1.5, 2.5])


def test_ticks_of_very_small_and_large_numbers_stay_short() -> None:
    assert [tick.label for tick in linear([0.0, 6e-4]).ticks] == ["0", "2e−4", "4e−4", "6e−4"]
    assert [tick.label for tick in linear([0.0, 4e6]).ticks][-1] == "4e6"
    assert [tick.label for tick in linear([0.0, 4.0]).ticks] == ["0", "1", "2", "3", "4"]
