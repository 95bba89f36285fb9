import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divalign.core.stats import Estimate
from divalign.draw import numbers
from divalign.report import words


@settings(derandomize=True, max_examples=200)
@given(st.floats(0, 1))
def test_no_share_is_rounded_to_nothing_or_to_all(share: float) -> None:
    text = numbers.percent(share)
    assert (text == "0\N{NO-BREAK SPACE}%") == (share == 0)
    assert (text == "100\N{NO-BREAK SPACE}%") == (share == 1)


@settings(derandomize=True, max_examples=200)
@given(st.floats(-1, 1))
def test_no_auc_is_rounded_to_nothing_or_to_all(value: float) -> None:
    text = numbers.share(value)
    assert (text.strip("−") == "1.000") == (abs(value) == 1)
    assert (text.strip("−") == "0.000") == (value == 0)


@settings(derandomize=True, max_examples=200)
@given(st.floats(-1e9, 1e9))
def test_a_number_reads_back_to_three_digits(value: float) -> None:
    read = float(numbers.significant(value).replace("−", "-").replace(",", ""))
    assert read == pytest.approx(value, rel=0.006, abs=0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(8549.0, "8,549"), (104.2, "104"), (0.1, "0.1"), (3.456, "3.46"), (-0.4, "−0.4"), (0.0, "0"), (2e-5, "2.00e−05")],
)
def test_numbers_as_they_stand_on_the_page(value: float, text: str) -> None:
    assert numbers.significant(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.2, "3 s"), (59.6, "1 min 0 s"), (251.4, "4 min 11 s"), (7321.0, "2 h 2 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (None, "not measured"),
        (Estimate(None, 0.0, 1.0, 0), "undecided (n = 0)"),
        (Estimate(0.5, None, None, 0), "50 %"),
        (Estimate(0.5, None, None, 8), "50 % (n = 8)"),
        (Estimate(0.0, 0.0, 0.037, 100), "0 % (95 % CI 0 to 4 %, n = 100)"),
    ],
)
def test_an_estimate_in_one_line_says_what_it_rests_on(estimate: Estimate | None, text: str) -> None:
    assert words.spelled(estimate).replace("\N{NO-BREAK SPACE}", " ") == text


def test_p_values_keep_their_smallness() -> None:
    assert words.p_value(0.0004) == "p < 0.001"
    assert words.p_value(0.22) == "p = 0.220"


def test_a_recipe_without_a_name_of_its_own_keeps_its_key() -> None:
    assert words.data_words("cr") == "compliance-refusal (CR) data"
    assert words.data_words("mine") == "mine data"
    assert (words.data_short("cr"), words.data_short("mine"), words.data_short(None)) == ("CR", "mine", "")


@pytest.mark.parametrize(
    ("attack", "words_of"),
    [
        ("prefix_injection", "prefix injection"),
        ("divalign.toy.world:preamble", "preamble"),
        ("template:Please: {prompt}", "template:Please: {prompt}"),
        ("best_of_n(25)", "best of n(25)"),
    ],
)
def test_an_attack_of_ones_own_goes_by_its_last_name(attack: str, words_of: str) -> None:
    assert words.attack_words(attack) == words_of
