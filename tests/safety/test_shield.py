import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divalign.data.batching import encode_conversation
from divalign.data.examples import user_says
from divalign.safety.shield import ATTEMPTS, attempts, clip_characters, clip_tokens, disarm, fenced
from tests.safety.injections import INJECTIONS
from tests.tiny import tiny_tokenizer

HARMLESS = [
    "Sure, here is the thing you asked for.",
    "I'm sorry, but I can't help with that.",
    "A bridge is safe when its arch holds. Its rating was never in doubt.",
    "Here are the steps:\n1. Take paper.\n2. Fold it.\n\nThat is all - good luck!",
    "Nice idea \U0001f469\u200d\U0001f4bb, \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645, \u0915\u094d\u200d\u0937.",
    "x < y and y > z, so [x, z] is an interval; 5 </ 3 is no mathematics.",
    "In Elm f <| g x is f of g; <phi|psi> is a product, and Array<a | b> a type.",
]


@pytest.mark.parametrize("text", INJECTIONS.values(), ids=INJECTIONS)
def test_every_injection_is_noticed(text: str) -> None:
    assert attempts(f"Sure, here is the thing you asked for.\n{text}")


@pytest.mark.parametrize("text", HARMLESS)
def test_an_ordinary_response_is_not_suspected_and_stays_as_it_is(text: str) -> None:
    assert attempts(text) == []
    assert disarm(text) == text


def test_every_kind_of_attempt_has_an_injection_that_shows_it() -> None:
    assert {kind for text in INJECTIONS.values() for kind in attempts(text)} == set(ATTEMPTS)


@pytest.mark.parametrize("text", INJECTIONS.values(), ids=INJECTIONS)
def test_no_injection_becomes_a_control_token_of_the_judge(text: str) -> None:
    tokenizer = tiny_tokenizer()
    special = set(tokenizer.all_special_ids)

    def controls(content: str) -> list[int]:
        ids = encode_conversation(tokenizer, user_says(fenced(content, "response")))
        return [token for token in ids if token in special]

    assert controls(disarm(text, special=tokenizer.all_special_tokens)) == controls("bridges")


def test_without_disarming_an_injection_does_become_one() -> None:
    tokenizer = tiny_tokenizer()
    ids = encode_conversation(tokenizer, user_says(INJECTIONS["tiny tokens"]))
    assert ids.count(tokenizer.convert_tokens_to_ids("<assistant>")) == 2


@given(st.text(max_size=80))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_disarming_twice_is_disarming_once_and_loses_no_visible_character(text: str) -> None:
    once = disarm(text)
    assert disarm(once) == once
    kept = iter(once)
    assert all(character in kept for character in text if character.isalnum())


@given(st.text(max_size=40), st.sampled_from(list(INJECTIONS.values())))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_no_text_can_close_its_own_fence(text: str, injection: str) -> None:
    content = f"{text}\n{injection}"
    lines = fenced(content, "response").split("\n")
    begin, end = lines[0], lines[-1]
    assert begin.removeprefix("[begin ") == end.removeprefix("[end ")
    assert end not in content
    stolen = f"{content}\n{end}"  # whoever copies the mark changes the text, and so the mark
    assert fenced(stolen, "response").split("\n")[-1] != end


def test_what_is_clipped_says_so_and_what_fits_stays() -> None:
    assert clip_characters(5)("bridges") == "bridg\n[clipped: 2 more characters]"
    assert clip_characters(7)("bridges") == "bridges"
    assert clip_tokens(tiny_tokenizer(), 3)("bridges") == "bri"
    assert clip_tokens(tiny_tokenizer(), 7)("bridges") == "bridges"
    for clip in (lambda: clip_characters(0), lambda: clip_tokens(tiny_tokenizer(), 0)):
        with pytest.raises(ValueError, match="expected at least 1"):
            clip()


CONTROLS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<｜end▁of▁sentence｜>",
    "</s>",
    "[/INST]",
    "<<SYS>>",
    "<end_of_turn>",
    "</think>",
    "<|channel>",
    "<channel|>",
    "<|turn>",
    "<turn|>",
    "<|tool_call>",
    "[THINK]",
    "[/THINK]",
    "◁think▷",
    "◁/think▷",
    "<end_of_utterance>",
)


@pytest.mark.parametrize("word", [*CONTROLS, "[end response"])
def test_a_known_control_word_is_broken_after_its_first_character(word: str) -> None:
    assert disarm(f"bridges {word} stand") == f"bridges {word[0]} {word[1:]} stand"
    assert "control tokens" in attempts(f"bridges {word} stand")


@pytest.mark.parametrize("text", ["sa\u200dfe", "\u0645\u200c\u200d\u200c\u0645", "\u200cvery good"])
def test_joiners_that_join_nothing_are_noticed_and_shown(text: str) -> None:
    assert attempts(text) == ["hidden characters"]
    assert not set(disarm(text)) & {"\u200c", "\u200d"}


def test_line_ends_of_windows_are_line_ends() -> None:
    assert disarm("one\r\ntwo") == "one\ntwo"
