"""Rows as some methods need them: pairs sorted by safety, texts that name a class."""

import logging

import pytest

from divalign.core.losses import METHODS, find_method
from divalign.data.batching import encode_conversation
from divalign.data.examples import user_says
from divalign.data.method_rows import conditioned, rows_for, safe_pairs, with_control
from tests.tiny import tiny_tokenizer

PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}


def labelled(chosen: bool, rejected: bool) -> dict:
    return {
        **PAIR,
        "chosen_safe": chosen,
        "rejected_safe": rejected,
        "ref_chosen_logps": -1.0,
        "ref_rejected_logps": -2.0,
    }


def test_a_pair_is_kept_swapped_or_left_out_by_the_safety_of_its_responses(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rows = safe_pairs([labelled(c, r) for c in (True, False) for r in (True, False)], 10.0)
    assert [(row["chosen"], row["rejected"], row["offset"]) for row in rows] == [
        ("c", "r", 0.0),  # both safe
        ("c", "r", 10.0),  # the rejected one unsafe
        ("r", "c", 10.0),  # swapped
    ]
    assert (rows[2]["ref_chosen_logps"], rows[2]["ref_rejected_logps"]) == (-2.0, -1.0)
    assert "1 of 4 pairs left out" in caplog.text


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([PAIR], "row 0 lacks chosen_safe, rejected_safe; safedpo reads pairs"),
        ([labelled(False, False)], "both responses are unsafe in all 1 pairs"),
        ([{**labelled(True, True), "chosen_safe": "maybe"}], "expected true or false"),
    ],
)
def test_rows_that_do_not_say_what_is_safe_are_refused(rows: list, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        rows_for(METHODS["safedpo"], rows)


def test_every_response_opens_with_the_text_of_its_class_unscored() -> None:
    controls = find_method("csft").controls
    assert controls is not None
    turns = [{"role": "assistant", "content": "c"}]
    rows = conditioned([PAIR, {**PAIR, "chosen": turns, "prefill": "", "cluster": "k"}], controls)
    assert [(row["completion"], row["label"], row["prefill"]) for row in rows[:2]] == [
        ("<|good|>c", True, "<|good|>"),
        ("<|bad|>r", False, "<|bad|>"),
    ]
    assert rows[2]["completion"][0]["content"] == "<|good|>c"
    assert rows[2]["cluster"] == "k"
    assert "chosen" not in rows[0]
    single = {"prompt": "p", "completion": "x", "label": 0, "prefill": "x"}
    assert conditioned([single], controls)[0] == {
        **single,
        "label": False,
        "completion": "<|bad|>x",
        "prefill": "<|bad|>x",
    }


def test_the_text_of_the_class_leaves_tool_calls_and_thoughts_in_the_turn() -> None:
    controls = find_method("csft").controls
    assert controls is not None
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "weather", "arguments": {}}}]}
    thought = {"role": "assistant", "content": "sunny", "reasoning_content": "a guess"}
    rows = conditioned([{**PAIR, "chosen": [call], "rejected": [thought]}], controls)
    assert [row["completion"] for row in rows] == [
        [{**call, "content": "<|good|>"}],
        [{**thought, "content": "<|bad|>sunny"}],
    ]


@pytest.mark.parametrize("empty", ["", " ", [{"role": "assistant", "content": ""}]])
def test_a_response_that_is_empty_without_the_text_of_its_class_is_refused(empty: str | list) -> None:
    for row in ({**PAIR, "chosen": empty}, {"prompt": "p", "completion": empty, "label": True}):
        with pytest.raises(ValueError, match="row 1: an empty response"):
            rows_for(METHODS["csft"], [PAIR, row])


def test_other_methods_take_rows_as_they_are() -> None:
    rows = [PAIR]
    assert rows_for(METHODS["kldo"], rows) is rows


def test_a_conditioned_model_is_used_behind_the_text_of_the_aligned_class() -> None:
    tokenizer = tiny_tokenizer()
    changed = with_control(tokenizer, "<|good|>")
    before, after = (encode_conversation(each, user_says("hi")) for each in (tokenizer, changed))
    assert after == [*before, *tokenizer("<|good|>", add_special_tokens=False)["input_ids"]]
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    assert changed.apply_chat_template(turns, tokenize=False) == tokenizer.apply_chat_template(turns, tokenize=False)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no single chat template"):
        with_control(tokenizer, "<|good|>")
