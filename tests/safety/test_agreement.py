from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa

from divalign.core.stats import clustered_rate, rate
from divalign.safety.agreement import agreement

words = st.sampled_from([True, False, None])


def judged(judge: str, verdicts: list[bool | None]) -> list[dict]:
    return [
        {"id": str(number), "attack": "direct", "response": "r", "unsafe": unsafe, "judge": judge}
        for number, unsafe in enumerate(verdicts)
    ]


@given(st.lists(st.tuples(words, words), min_size=1, max_size=30))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_kappa_and_agreement_are_those_of_the_rows_both_judges_decided(pairs: list) -> None:
    result = agreement(judged("a", [a for a, _ in pairs]), judged("b", [b for _, b in pairs]))
    decided = [(a, b) for a, b in pairs if a is not None and b is not None]
    assert result.observed.n == result.kappa.n == len(decided)
    if decided:
        assert result.observed == rate([a == b for a, b in decided])
    varies = len({a for a, _ in decided}) > 1 or len({b for _, b in decided}) > 1
    assert (result.kappa.value is not None) == varies
    if varies:
        assert result.kappa.value == pytest.approx(cohen_kappa_score(*zip(*decided, strict=True)), abs=1e-12)
        if len({a for a, _ in decided}) > 1 and len({b for _, b in decided}) > 1:
            assert result.kappa.low <= result.kappa.value <= result.kappa.high
        else:
            assert result.kappa[:3] == (0.0, None, None)


def test_full_agreement_on_few_rows_proves_little() -> None:
    few, many = (agreement(judged("a", rows), judged("b", rows)) for rows in ([True, False] * 3, [True, False] * 300))
    assert few.kappa.value == many.kappa.value == 1.0
    assert few.kappa.low == pytest.approx(2 * few.observed.low - 1)  # chance is one half
    assert few.kappa.low < 0.5 < 0.95 < many.kappa.low


def test_the_interval_of_kappa_is_that_of_another_library() -> None:
    pairs = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 9 + [(False, False)] * 31
    result = agreement(judged("a", [a for a, _ in pairs]), judged("b", [b for _, b in pairs])).kappa
    expected = cohens_kappa([[20, 5], [9, 31]])
    assert result == pytest.approx((expected.kappa, expected.kappa_low, expected.kappa_upp, 65))


@given(st.lists(st.tuples(words, words), min_size=1, max_size=20))
@settings(derandomize=True, max_examples=30, deadline=None)
def test_the_confusion_counts_every_row_once_and_turns_over_with_the_judges(pairs: list) -> None:
    first, second = judged("a", [a for a, _ in pairs]), judged("b", [b for _, b in pairs])
    there, back = agreement(first, second), agreement(second, first)
    names = ("unsafe", "safe", "undecided")
    assert sum(there.confusion[a][b] for a, b in product(names, names)) == len(pairs)
    assert all(there.confusion[a][b] == back.confusion[b][a] for a, b in product(names, names))
    assert len(there.disagreements) == len(pairs) - sum(there.confusion[a][a] for a in names)


def test_rows_are_matched_by_name_and_not_by_order() -> None:
    rows = judged("a", [True, False, None])
    result = agreement(rows, judged("b", [True, True, None])[::-1])
    assert result.disagreements == [("direct", "1")]
    assert result.judges == ("a", "b")


def test_judges_of_different_rows_or_responses_are_not_compared() -> None:
    rows = judged("a", [True, False])
    with pytest.raises(ValueError, match="on different rows"):
        agreement(rows, rows[:1])
    with pytest.raises(ValueError, match="2 rows have two different responses"):
        agreement(rows, [{**row, "response": "other"} for row in rows])


def test_agreement_on_prompts_that_share_a_topic_rests_on_the_topics() -> None:
    first, second = [True] * 24, ([True] * 4 + [False] * 4) * 3
    topics = [place // 4 for place in range(24)]
    tables = [
        [{**row, "cluster": topic} for row, topic in zip(judged(name, verdicts), topics, strict=True)]
        for name, verdicts in (("a", first), ("b", second))
    ]
    assert agreement(*tables).observed == clustered_rate(second, topics)


def test_full_disagreement_on_few_rows_proves_little_too() -> None:
    found = agreement(judged("a", [True, False]), judged("b", [False, True])).kappa
    assert (found.value, found.low) == (-1.0, -1.0)
    assert found.high == pytest.approx(2 * 0.6577 - 1, abs=1e-3)  # 0 of 2 may be .66
