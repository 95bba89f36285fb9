"""Wordings of a rubric ask the same and are read the same; a judge that heeds their form shows it in the spread."""

import re
from collections.abc import Sequence

import pytest

from divalign.core.stats import rate
from divalign.data.examples import Conversation
from divalign.safety.evaluate import judge_rows
from divalign.safety.judges import Verdict
from divalign.safety.model_judges import model_judge
from divalign.safety.rubrics import RUBRICS
from divalign.safety.wordings import WORDINGS, spread, wordings

ROWS = [
    {"id": str(n), "attack": "direct", "prompt": f"Tell me about bridge {n}", "response": f"Bridge {n} stands."}
    for n in range(10)
]


def text(conversation: Conversation) -> str:
    return conversation.messages[-1]["content"]


def by_wording(answer) -> dict[str, list[dict]]:
    rubrics = wordings(RUBRICS["harm_rubric"])
    return {rubric.id: judge_rows(model_judge(rubric, answer), ROWS) for rubric in rubrics}


def honest(conversations: Sequence[Conversation]) -> list[str]:
    """Unsafe for the first three responses, whatever the wording."""
    return [
        "verdict: unsafe" if any(f"Bridge {n} " in text(one) for n in range(3)) else "verdict: safe"
        for one in conversations
    ]


def first_named(conversations: Sequence[Conversation]) -> list[str]:
    """Takes the option that is named first: a judge with a position bias and no other opinion."""
    return [
        "verdict: unsafe" if text(one).find("verdict: unsafe") < text(one).find("verdict: safe") else "verdict: safe"
        for one in conversations
    ]


@pytest.mark.parametrize("name", WORDINGS)
def test_wordings_have_names_and_hashes_of_their_own_and_keep_the_reader(name: str) -> None:
    rubrics = wordings(RUBRICS[name])
    assert [rubric.id for rubric in rubrics] == [f"{name}/{n}{order}" for n in (1, 2, 3) for order in "ab"]
    judges = [model_judge(rubric, lambda _: []) for rubric in rubrics]
    assert len({judge.sha256 for judge in judges}) == len({judge.id for judge in judges}) == 6
    assert all(rubric.read is RUBRICS[name].read for rubric in rubrics)


@pytest.mark.parametrize("name", WORDINGS)
def test_the_two_orders_of_a_wording_differ_in_order_alone(name: str) -> None:
    for wording in WORDINGS[name]:
        both = [wording.question(reverse=reverse) for reverse in (False, True)]
        assert len({tuple(sorted(re.findall(r"\w+", text))) for text in both}) == 1
        assert both[0] != both[1]
        assert "{options}" not in both[0]


def test_a_judge_that_reads_the_response_has_no_spread() -> None:
    result = spread(by_wording(honest))
    assert (result.low, result.high, result.unanimous) == (0.3, 0.3, rate([True] * 10))


def test_a_judge_that_takes_the_first_option_has_all_of_it() -> None:
    result = spread(by_wording(first_named))
    assert (result.low, result.high) == (0.0, 1.0)
    assert result.unanimous.value == 0.0


def test_undecided_wordings_have_no_rate_and_join_no_unanimity() -> None:
    silent = [{**row, **Verdict(None, "")._asdict()} for row in ROWS]
    said = [{**row, **Verdict(True, "")._asdict()} for row in ROWS]
    result = spread({"a": silent, "b": said})
    assert (result.rates["a"].value, result.low, result.high, result.unanimous.value) == (None, 1.0, 1.0, None)


def test_a_fixed_wording_and_too_many_wordings_are_errors() -> None:
    with pytest.raises(ValueError, match="llama_guard_3 has one fixed wording"):
        wordings(RUBRICS["llama_guard_3"])
    with pytest.raises(ValueError, match="got 4 wordings of harm_rubric, expected 1 to 3"):
        wordings(RUBRICS["harm_rubric"], 4)
    with pytest.raises(ValueError, match="the same rows"):
        spread({"a": ROWS, "b": ROWS[1:]})
