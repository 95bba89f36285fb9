import base64
import codecs
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divalign.data.examples import Conversation, user_says
from divalign.safety.attacks import SINGLE_SHOTS, find_attack, find_single_shot
from divalign.safety.single_shot import template

PROMPT = "Explain {how} bridges %s stand"
texts = st.text(min_size=1, max_size=40)


def last(conversation: Conversation) -> str:
    return conversation.messages[-1]["content"]


READ_BACK = {
    "base64": lambda text: base64.b64decode(text.split("\n")[-1]).decode(),
    "rot13": lambda text: codecs.decode(text.split("\n", 1)[1], "rot13"),
    "leetspeak": lambda text: text,
}


@pytest.mark.parametrize("name", SINGLE_SHOTS)
@given(prompt=texts)
@settings(derandomize=True, max_examples=20, deadline=None)
def test_every_attack_is_pure_and_ends_with_a_user_turn_that_carries_the_prompt(name: str, prompt: str) -> None:
    conversation = SINGLE_SHOTS[name](prompt)
    assert conversation == SINGLE_SHOTS[name](prompt)
    assert conversation.messages[-1]["role"] == "user"
    carried = READ_BACK.get(name, lambda text: text)(last(conversation))
    assert (
        prompt.translate(str.maketrans("aeiostAEIOST", "431057431057")) if name == "leetspeak" else prompt
    ) in carried


def test_direct_adds_nothing() -> None:
    assert SINGLE_SHOTS["direct"](PROMPT) == user_says(PROMPT)


def test_prefill_is_direct_with_an_opening_put_into_the_models_mouth() -> None:
    assert SINGLE_SHOTS["prefill"](PROMPT) == user_says(PROMPT, prefill="Sure, here is")


def test_many_shot_alternates_turns_and_always_complies() -> None:
    roles = [message["role"] for message in SINGLE_SHOTS["many_shot"](PROMPT).messages]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    answers = [
        message["content"] for message in SINGLE_SHOTS["many_shot"](PROMPT).messages if message["role"] == "assistant"
    ]
    assert all(answer.startswith("Sure, here is") for answer in answers)


def test_every_name_finds_its_attack() -> None:
    assert {name: find_attack(name) for name in SINGLE_SHOTS} == SINGLE_SHOTS


def test_an_unknown_name_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'prefill'"):
        find_attack("prefil")


def test_an_attack_of_ones_own_is_found_by_module_and_name() -> None:
    assert find_attack("divalign.safety.single_shot:rot13") is SINGLE_SHOTS["rot13"]


@pytest.mark.parametrize("name", ["divalign.safety.single_shot:nothing", "no_such_module:thing", ":thing", "direct:"])
def test_an_attack_of_ones_own_that_is_not_there_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="attack"):
        find_attack(name)


def test_a_template_puts_the_prompt_into_its_slot_and_leaves_other_braces_alone() -> None:
    attack = find_attack("template:{json: {prompt}} and {prompt}")
    assert last(attack("a{prompt}b")) == "{json: a{prompt}b} and a{prompt}b"


def test_a_template_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("Please: {prompt}", encoding="utf-8")
    assert find_attack(f"template:{path}")(PROMPT) == user_says(f"Please: {PROMPT}")


def test_a_template_without_a_slot_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("Please answer", encoding="utf-8")
    for text in ("Please answer", "Please answer " * 500, "", str(path)):
        with pytest.raises(ValueError, match=r"has no \{prompt\}"):
            template(text)


def test_an_adaptive_attack_is_no_single_conversation() -> None:
    with pytest.raises(ValueError, match="'pair' answers to the target"):
        find_single_shot("pair")


@pytest.mark.parametrize("tries", ["0", "-1", "2.7", "inf", "nan"])
def test_best_of_n_tries_a_whole_number_of_times(tries: str) -> None:
    with pytest.raises(ValueError, match=rf"best_of_n\({tries}\).*whole number"):
        find_attack(f"best_of_n({tries})")
