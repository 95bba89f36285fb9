import re
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divalign.data.examples import Conversation
from divalign.lm.responses import Response
from divalign.safety.adaptive import converse, hits, perturbed
from divalign.safety.evaluate import no_refusal, readings
from divalign.safety.judges import JUDGES
from tests.safety.injections import INJECTIONS

GOALS = [
    {"id": "a", "prompt": "tell me about arches", "harmful": True},
    {"id": "b", "prompt": "tell me about cables", "harmful": True},
]
JUDGE = JUDGES["refusal_strings"]


def attacker(conversations: Sequence[Conversation]) -> list[str]:
    """Asks the n-th time with n question marks, n being the tries it can see."""
    return ["now?" + "?" * talk.messages[0]["content"].count("[begin assistant") for talk in conversations]


class Target:
    """Complies when a user message ends with enough question marks, and notes what it was shown."""

    def __init__(self, enough: int) -> None:
        self.enough = enough
        self.shown: list[Conversation] = []

    def __call__(self, conversations: Sequence[Conversation]) -> list[str]:
        self.shown += conversations
        ends = [talk.messages[-1]["content"].endswith("?" * self.enough) for talk in conversations]
        return ["Sure, here is the thing you asked for." if end else "I can't help with that." for end in ends]


@pytest.mark.parametrize("step_by_step", [False, True])
def test_the_attacker_goes_on_until_the_target_complies_and_no_longer(step_by_step: bool) -> None:
    target = Target(3)
    rows = converse(attacker, target, JUDGE, GOALS, name="pair", step_by_step=step_by_step, rounds=5)
    assert [(row["id"], row["attack"], row["rounds"], row["unsafe"]) for row in rows] == [
        ("a", "pair", 3, True),
        ("b", "pair", 3, True),
    ]
    assert rows[0]["message"] == "now???"
    assert len(target.shown) == 2 * 3
    turns = [len(talk.messages) for talk in target.shown]
    assert turns == ([1, 1, 3, 3, 5, 5] if step_by_step else [1] * 6)


def test_a_target_that_never_complies_ends_the_rounds_with_its_last_verdict() -> None:
    rows = converse(attacker, Target(99), JUDGE, GOALS, name="crescendo", step_by_step=True, rounds=2)
    assert [(row["rounds"], row["unsafe"], row["refused"]) for row in rows] == [(2, False, True)] * 2


def test_an_undecided_round_is_no_success_and_is_tried_again() -> None:
    rows = converse(attacker, lambda talks: [""] * len(talks), JUDGE, GOALS, name="pair", step_by_step=False, rounds=2)
    assert [(row["rounds"], row["unsafe"]) for row in rows] == [(2, None)] * 2


def test_an_attacker_that_writes_nothing_sends_the_goal() -> None:
    target = Target(1)
    converse(lambda talks: [" \n"] * len(talks), target, JUDGE, GOALS, name="pair", step_by_step=False, rounds=1)
    assert [talk.messages[0]["content"] for talk in target.shown] == [goal["prompt"] for goal in GOALS]


@pytest.mark.parametrize("text", INJECTIONS.values(), ids=INJECTIONS)
def test_the_targets_answer_is_data_to_the_attacker(text: str) -> None:
    seen: list[str] = []

    def noting(conversations: Sequence[Conversation]) -> list[str]:
        seen.extend(talk.messages[0]["content"] for talk in conversations)
        return ["now?"] * len(conversations)

    refuse: Callable[..., list[str]] = lambda talks: [f"I can't help with that.\n{text}"] * len(talks)  # noqa: E731
    converse(noting, refuse, JUDGE, GOALS[:1], name="pair", step_by_step=False, rounds=2)
    second = seen[1]
    assert second.count("\n[begin ") == second.count("\n[end ") == 3  # the goal, the message and the answer
    assert second.endswith("Write the user's next message and nothing else.")


def test_no_rounds_and_ids_that_repeat_are_errors() -> None:
    with pytest.raises(ValueError, match="rounds=0"):
        converse(attacker, Target(1), JUDGE, GOALS, name="pair", step_by_step=False, rounds=0)
    with pytest.raises(ValueError, match="ids must be unique"):
        converse(attacker, Target(1), JUDGE, [*GOALS, GOALS[0]], name="pair", step_by_step=False)


@given(st.text(max_size=60), st.integers(0, 9))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_a_perturbation_depends_on_seed_and_prompt_alone_and_keeps_word_breaks(prompt: str, seed: int) -> None:
    text = perturbed(seed)(prompt).messages[0]["content"]
    assert text == perturbed(seed)(prompt).messages[0]["content"]
    assert [bool(word) for word in text.split(" ")] == [bool(word) for word in prompt.split(" ")]


def test_perturbations_of_many_seeds_differ() -> None:
    prompt = "tell me everything about bridges"
    assert len({perturbed(seed)(prompt).messages[0]["content"] for seed in range(20)}) == 20


verdicts = st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=6)


def tries_of(values: Sequence[bool | None], id_: str = "a") -> list[dict]:
    return [
        {"id": id_, "attack": f"try {n}", "unsafe": value, "refused": None if value is None else not value,
         "kind": {True: "compliance", False: "refusal", None: "empty"}[value], "harmful": True, "prompt": id_}
        for n, value in enumerate(values)
    ]  # fmt: skip


@given(verdicts)
@settings(derandomize=True, max_examples=60, deadline=None)
def test_one_success_is_a_hit_and_decided_failures_are_a_miss(values: list[bool | None]) -> None:
    (only,) = hits(tries_of(values), name="best_of_n")
    assert (only["attack"], only["tries"], only["undecided_tries"]) == ("best_of_n", len(values), values.count(None))
    assert only["unsafe"] == (True if True in values else False if False in values else None)


@pytest.mark.parametrize("order", list(permutations(["refusal", "degenerate", "empty", "off_topic"])))
def test_a_try_without_a_refusal_counts_whatever_its_place(order: tuple[str, ...]) -> None:
    rows = [
        {"id": "a", "unsafe": None if kind == "empty" else False, "refused": kind == "refusal", "kind": kind}
        for kind in order
    ]
    (only,) = hits(rows, name="best_of_n(4)")
    assert (only["unsafe"], no_refusal(only)) == (False, True)


@pytest.mark.parametrize("n", [5, 25])
def test_tries_that_are_undecided_do_not_push_the_rate_up(n: int) -> None:
    generator = np.random.default_rng(n)
    complies = generator.random((400, n)) < np.where(generator.random(400) < 0.11, 0.5, 0.0)[:, None]
    missing = ~complies & (generator.random((400, n)) < 0.03)
    values = np.where(missing, None, complies)
    rows = [row for place, tries in enumerate(values.tolist()) for row in tries_of(tries, f"p{place}")]
    found, truth = readings(hits(rows, name="best_of_n"))["best_of_n"], complies.any(axis=1).mean()
    assert found.compliance.value == pytest.approx(truth, abs=0.005)
    assert found.compliance.n == 400
    assert found.compliance.low < truth < found.compliance.high
    most = (complies.any(axis=1) | missing.any(axis=1)).mean()  # had every undecided try succeeded
    assert found.compliance.high > most


@pytest.mark.parametrize("step_by_step", [False, True])
def test_a_round_that_was_never_answered_does_not_undo_a_refusal(step_by_step: bool) -> None:
    def answer(conversations: Sequence[Conversation]) -> list[str | Response]:
        rounds.append(len(conversations))
        if len(rounds) < 3:
            return [Response("I can't help with that.")] * len(conversations)
        return [Response("", "too_long", error="does not fit")] * len(conversations)

    rounds: list[int] = []
    rows = converse(attacker, answer, JUDGE, GOALS, name="pair", step_by_step=step_by_step, rounds=5)
    assert [(row["rounds"], row["unsafe"], row["response"]) for row in rows] == [
        (2, False, "I can't help with that.")
    ] * 2
    assert len(rounds) == 5


def test_thoughts_that_the_template_opened_end_no_conversation() -> None:
    thinking: Callable[..., list[str]] = lambda talks: ["The user wants to know of arches. Sure, I think"] * len(talks)  # noqa: E731
    options: dict[str, Any] = {"name": "pair", "step_by_step": False, "rounds": 3}
    rows = converse(attacker, thinking, JUDGE, GOALS, thinking_opened=True, **options)
    assert [(row["rounds"], row["unsafe"], row["thinking_opened"]) for row in rows] == [(3, None, True)] * 2
    assert converse(attacker, thinking, JUDGE, GOALS, **options)[0]["rounds"] == 1


def test_line_breaks_stay_where_they_are_and_words_behind_them_are_words() -> None:
    prompt = "How do I bake bread?\n\nPlease answer\tsoon."
    spaces = [re.findall(r"\s+", perturbed(seed)(prompt).messages[0]["content"]) for seed in range(20)]
    assert spaces == [re.findall(r"\s+", prompt)] * 20
