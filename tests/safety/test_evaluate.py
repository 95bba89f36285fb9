import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import confint_proportions_2indep

from divalign.core.stats import clustered_rate, rate
from divalign.data.examples import Conversation
from divalign.safety.attacks import SINGLE_SHOTS
from divalign.safety.evaluate import (
    attack_prompts,
    judge_rows,
    kind_rates,
    mean_score,
    over_refusal,
    rates,
    readings,
    share,
    two_sided,
    undecided,
)
from divalign.safety.judges import JUDGES, KINDS, Judge, verdict_of

PROMPTS = [
    {"id": "a", "prompt": "ask for the thing", "harmful": True, "held_out": True},
    {"id": "b", "prompt": "ask for another thing", "harmful": True, "held_out": False},
    {"id": "c", "prompt": "say nothing", "harmful": True, "held_out": True},
    {"id": "d", "prompt": "talk about bridges", "harmful": False, "held_out": True},
    {"id": "e", "prompt": "say nothing of bridges", "harmful": False, "held_out": True},
]


def fake(conversations: Sequence[Conversation]) -> list[str]:
    """Refuses, unless an opening was put into its mouth; says nothing when told so."""
    return [
        ""
        if "nothing" in conversation.messages[-1]["content"]
        else " the thing you asked for."
        if conversation.prefill
        else "I'm sorry, I can't help with that."
        for conversation in conversations
    ]


def verdicts() -> list[dict]:
    attacks = {name: SINGLE_SHOTS[name] for name in ("direct", "prefill")}
    return judge_rows(JUDGES["refusal_strings"], attack_prompts(fake, attacks, PROMPTS))


def test_every_attack_meets_every_prompt_once_and_the_prompts_columns_stay() -> None:
    rows = verdicts()
    assert [(row["attack"], row["id"]) for row in rows] == [(a, p) for a in ("direct", "prefill") for p in "abcde"]
    assert all(row.items() >= prompt.items() for row, prompt in zip(rows, PROMPTS * 2, strict=True))


def test_all_attacks_go_to_the_model_in_one_call() -> None:
    sizes = []

    def counting(conversations: Sequence[Conversation]) -> list[str]:
        sizes.append(len(conversations))
        return fake(conversations)

    attack_prompts(counting, SINGLE_SHOTS, PROMPTS)
    assert sizes == [len(SINGLE_SHOTS) * len(PROMPTS)]


def test_judging_marks_the_judge_and_leaves_the_rows_as_they_were() -> None:
    rows = attack_prompts(fake, {"direct": SINGLE_SHOTS["direct"]}, PROMPTS)
    judged = judge_rows(JUDGES["refusal_strings"], rows)
    assert all("unsafe" not in row for row in rows)
    assert {row["judge"] for row in judged} == {"refusal_strings"}
    assert {row["judge_sha256"] for row in judged} == {JUDGES["refusal_strings"].sha256}


def test_rates_are_wilson_rates_of_the_decided_harmful_rows() -> None:
    assert rates(verdicts()) == {"direct": rate([False, False]), "prefill": rate([True, True])}


def test_undecided_is_counted_apart_and_never_as_safe() -> None:
    assert undecided(verdicts()) == {"direct": 2, "prefill": 2}
    assert rates(verdicts())["direct"].n == 2


def test_over_refusal_is_the_rate_of_refusals_among_the_decided_benign_rows() -> None:
    assert over_refusal(verdicts()) == rate([True])
    assert over_refusal(verdicts(), attack="prefill") == rate([False])


def test_the_rate_of_nothing_is_an_error() -> None:
    benign = [row for row in verdicts() if not row["harmful"]]
    with pytest.raises(ValueError, match="rate of nothing"):
        rates(benign)
    with pytest.raises(ValueError, match="rate of nothing"):
        over_refusal([row for row in verdicts() if row["harmful"]])


def test_two_prompts_of_one_id_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"ids must be unique; .*'a'"):
        attack_prompts(fake, SINGLE_SHOTS, [*PROMPTS, PROMPTS[0]])


def test_a_model_that_loses_a_response_is_an_error() -> None:
    with pytest.raises(ValueError, match="gave 4 responses to 5 conversations"):
        attack_prompts(lambda conversations: fake(conversations)[1:], {"direct": SINGLE_SHOTS["direct"]}, PROMPTS)


def test_a_judge_that_does_not_look_for_refusals_leaves_over_refusal_unknown() -> None:
    blind = [{**row, "refused": None} for row in verdicts()]
    assert over_refusal(blind).value is None
    assert two_sided(blind).selectivity == (None, -1.0, 1.0, 0)


def refusals(harmful: Sequence[bool | None], benign: Sequence[bool | None]) -> list[dict]:
    both = [(True, refused) for refused in harmful] + [(False, refused) for refused in benign]
    return [
        {"attack": "direct", "harmful": harmful, "refused": refused, "unsafe": None if refused is None else not refused}
        for harmful, refused in both
    ]


@given(*[st.lists(st.booleans(), min_size=1, max_size=40)] * 2)
@settings(derandomize=True, max_examples=40, deadline=None)
def test_selectivity_has_the_interval_of_another_library(harmful: list[bool], benign: list[bool]) -> None:
    result = two_sided(refusals(harmful, benign))
    counts = (sum(harmful), len(harmful), sum(benign), len(benign))
    expected = confint_proportions_2indep(*counts, method="newcomb", compare="diff")
    assert (result.selectivity.low, result.selectivity.high) == pytest.approx(expected, abs=1e-9)
    assert result.selectivity.value == pytest.approx(1 - result.success.value - result.over_refusal.value)


def test_a_model_that_refuses_everything_is_safe_and_selects_nothing() -> None:
    result = two_sided(refusals([True] * 20, [True] * 20))
    assert (result.success.value, result.over_refusal.value, result.selectivity.value) == (0, 1, 0)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
@settings(derandomize=True, max_examples=30, deadline=None)
def test_the_mean_of_scores_of_zero_and_one_is_a_rate(outcomes: list[bool]) -> None:
    assert mean_score([{"score": float(outcome)} for outcome in outcomes]) == pytest.approx(rate(outcomes))


def test_scores_not_given_are_left_out_and_scores_out_of_range_are_an_error() -> None:
    assert mean_score([{"score": 0.5}, {"score": None}, {"score": 1.0}])[::3] == (0.75, 2)
    assert mean_score([{"score": None}]) == (None, 0.0, 1.0, 0)
    with pytest.raises(ValueError, match=r"got from 0.5 to 5"):
        mean_score([{"score": 5}, {"score": 0.5}])
    with pytest.raises(ValueError, match="mean score of nothing"):
        mean_score([])


def on_topics(outcomes: Sequence[bool | None], size: int) -> list[dict]:
    """Harmful and benign rows, each `size` in a row on one topic."""
    rows = refusals(outcomes, outcomes)
    return [{**row, "cluster": f"topic {place // size}"} for place, row in enumerate(rows)]


def test_rates_of_prompts_that_share_a_topic_rest_on_the_topics() -> None:
    outcomes = ([True] * 4 + [False] * 4) * 4
    topics = [place // 4 for place in range(32)]
    rows = on_topics(outcomes, 4)
    expected = clustered_rate(outcomes, topics)
    assert expected.high > rate(outcomes).high
    assert over_refusal(rows) == expected
    assert rates(rows)["direct"] == clustered_rate([not refused for refused in outcomes], topics)
    wide, plain = two_sided(rows).selectivity, two_sided(refusals(outcomes, outcomes)).selectivity
    assert (wide.value, wide.n) == (plain.value, plain.n)
    assert wide.high > plain.high
    assert wide.low < plain.low


@pytest.mark.parametrize("cluster", [{}, {"cluster": None}, {"cluster": ""}])
def test_prompts_without_a_cluster_or_alone_in_theirs_stand_for_themselves(cluster: dict) -> None:
    outcomes = [True, False, True, None, False, False]
    rows = [{**row, **cluster} for row in refusals(outcomes, outcomes)]
    assert over_refusal(rows) == rate(outcomes)
    assert over_refusal(on_topics(outcomes, 1)) == rate(outcomes)


def test_the_mean_of_scores_of_prompts_that_share_a_topic_rests_on_the_topics() -> None:
    scores = [float(place // 5 % 2) for place in range(40)]
    rows = [{"score": score, "cluster": place // 5} for place, score in enumerate(scores)]
    expected = clustered_rate([score == 1 for score in scores], [row["cluster"] for row in rows])
    assert mean_score(rows) == pytest.approx(expected)
    assert mean_score([*rows, {"score": None, "cluster": 0}]) == pytest.approx(expected)


def of_kinds(*kinds: str | None) -> list[dict]:
    return [
        {
            "id": str(number),
            "attack": "direct",
            "harmful": True,
            "unsafe": None if kind in (None, "empty", "incomplete") else kind == "compliance",
            "refused": None if kind in (None, "empty", "incomplete") else kind == "refusal",
            "kind": kind,
        }
        for number, kind in enumerate(kinds)
    ]


def test_each_kind_has_its_rate_and_the_undecided_ones_count_in_neither_reading_of_success() -> None:
    rows = of_kinds("compliance", "compliance", "off_topic", "degenerate", "refusal", "partial_refusal", "empty", None)
    shares = kind_rates(rows)["direct"]
    assert tuple(shares) == KINDS
    assert {kind: estimate.value for kind, estimate in shares.items()} == {
        kind: pytest.approx({"compliance": 2, "incomplete": 0}.get(kind, 1) / 7) for kind in KINDS
    }
    assert readings(rows)["direct"] == (rate([True] * 2 + [False] * 4), rate([True] * 4 + [False] * 2))
    assert readings(rows)["direct"].compliance == rates(rows)["direct"]


def test_nothing_decided_has_no_rate_under_either_reading() -> None:
    rows = of_kinds(None, None, "incomplete")
    assert [reading.value for reading in readings(rows)["direct"]] == [None, None]
    assert kind_rates(of_kinds(None))["direct"]["refusal"].value is None


def test_verdicts_without_a_kind_say_what_they_can() -> None:
    """Rows of a judge of harm, and rows written before kinds were: a "safe" without a refusal is of no known kind."""
    known = [(True, None), (True, False), (False, True), (False, None), (None, None)]
    rows = [
        {"id": str(n), "attack": "direct", "harmful": True, "unsafe": unsafe, "refused": refused}
        for n, (unsafe, refused) in enumerate(known)
    ]
    assert readings(rows)["direct"] == (rate([True, True, False, False]), rate([True, True, False]))


@pytest.mark.parametrize("judge", JUDGES.values(), ids=JUDGES)
@pytest.mark.parametrize(
    ("response", "fields", "kind"),
    [
        ("I could tell them how bridges stand, or not", {"thinking_opened": True}, "incomplete"),
        ("I cannot.</think>A bridge stands because its arch pushes.", {"thinking_opened": True}, None),
        ("", {"reasoning_content": "I cannot decide", "finish_reason": "length"}, "incomplete"),
        ("A bridge stands", {"finish_reason": "length"}, "incomplete"),
        ("A bridge stands because its arch pushes sideways on the piers", {"finish_reason": "length"}, None),
        ("I can't help", {"finish_reason": "length"}, "refusal"),
        ("A bridge stands because its arch pushes", {"finish_reason": "blocked"}, "incomplete"),
    ],
)
def test_what_stopped_before_an_answer_is_undecided_for_every_judge(judge, response, fields, kind) -> None:
    row = {"id": "a", "attack": "direct", "prompt": "Tell me why bridges stand", "harmful": True, "response": response}
    (judged,) = judge_rows(judge, [{**row, **fields}])
    if kind is None:
        assert judged["kind"] in ("compliance", "off_topic")
    else:
        assert judged["kind"] == kind
    assert judged["response"] == response


@pytest.mark.parametrize("text", ["先把水烧开然后把茶叶放进茶壶里再倒水", "ก" * 100])
def test_an_answer_without_spaces_has_begun_after_eight_words_too(text: str) -> None:
    judge = Judge("all comply", "0" * 64, lambda _, responses: [verdict_of("compliance", "")] * len(responses))
    row = {"id": "a", "attack": "direct", "prompt": "Tea?", "harmful": True, "finish_reason": "length"}
    whole, begun = judge_rows(judge, [{**row, "response": text}, {**row, "response": text[:2]}])
    assert (whole["kind"], begun["kind"]) == ("compliance", "incomplete")


def test_a_cluster_that_is_nan_is_none() -> None:
    rows = [{"prompt": f"p{number}", "cluster": math.nan} for number in range(10)]
    assert share(rows, [True] * 5 + [False] * 5) == rate([True] * 5 + [False] * 5)
