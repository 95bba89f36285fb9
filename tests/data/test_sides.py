"""No column that says which side a response is on is overlooked."""

from typing import Any

import pytest

from divalign.data.convert import Conversion, convert, read_rows
from divalign.data.sides import ALIGNED, UNALIGNED

Q = [{"role": "user", "content": "q"}]
A = [{"role": "assistant", "content": "a"}]
SHAPES = {
    "messages": {"messages": [*Q, *A]},
    "completion": {"prompt": Q, "completion": A},
    "plain": {"prompt": "q", "completion": "a"},
    "response": {"prompt": "q", "response": "a"},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [*ALIGNED, *UNALIGNED, "Is_Safe"])
@pytest.mark.parametrize("value", [True, False, 0, "1", "False"])
def test_a_single_response_is_on_the_side_that_its_row_says(shape: str, name: str, value: Any) -> None:
    if name in ("chosen", "rejected") and isinstance(value, str):
        return  # a text under these names is a response
    row = {**SHAPES[shape], name: value}
    done = Conversion()
    found = list(convert([row], "trl_unpaired", done=done))
    expected = (str(value) in ("True", "1")) is (name.lower() in ALIGNED)
    if found:
        assert [(one["prompt"], one["completion"], one["label"]) for one in found] == [(Q, A, expected)]
    else:
        assert done.refused


@pytest.mark.parametrize("name", ["label", "kto_tag", "safe", "is_safe", "preferred", "unsafe"])
def test_an_unaligned_message_is_never_called_aligned(name: str) -> None:
    (found,) = convert([{"messages": [*Q, *A], name: name == "unsafe"}], "trl_unpaired")
    assert found["label"] is False
    done = Conversion()
    assert list(convert([{"messages": [*Q, *A], name: name == "unsafe"}], "openai_messages", done=done)) == []
    assert "an unaligned response" in done.refused[0].reason


@pytest.mark.parametrize("flags", [{"chosen": 1}, {"rejected": False}, {"chosen": True, "rejected": 0}])
def test_flags_of_a_single_response_make_no_pair_of_it(flags: dict) -> None:
    (found,) = convert([{"messages": [*Q, *A], **flags}], "openai_messages")
    assert found == {"messages": [*Q, *A]}
    assert list(read_rows([{"prompt": "q", "completion": "a", **flags}])) == [
        {"prompt": Q, "completion": A, "label": True}
    ]


def test_a_kto_tag_beside_the_columns_of_trl_makes_no_row_of_llama_factory() -> None:
    pair = {"prompt": "q", "chosen": "a", "rejected": "u", "kto_tag": True}
    assert list(read_rows([pair])) == [{**pair, "prompt": Q, "chosen": A, "rejected": [{**A[0], "content": "u"}]}]
    assert list(read_rows([{"prompt": "q", "completion": "a", "kto_tag": False}])) == [
        {"prompt": Q, "completion": A, "label": False}
    ]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"safe": None}, "safe is null; expected true or false, or no such column"),
        ({"label": "good enough"}, "'label' holds 'good enough', expected true or false"),
        ({"safe": 0.5}, "'safe' holds 0.5, expected true or false"),
        ({"label": True, "is_safe": False}, "label=True and is_safe=False disagree"),
        ({"label": True, "unsafe": True}, "label=True and unsafe=True disagree"),
    ],
)
@pytest.mark.parametrize("shape", ["messages", "completion"])
def test_a_row_that_does_not_say_its_side_is_refused(shape: str, more: dict, reason: str) -> None:
    done = Conversion()
    source = "openai_messages" if shape == "messages" else "trl_unpaired"
    assert list(read_rows([{**SHAPES[shape], **more}], source, done)) == []
    assert reason in done.refused[0].reason


def test_a_message_of_weight_0_is_not_learnt() -> None:
    done = Conversion()
    row = {"messages": [*Q, {**A[0], "weight": 0}]}
    assert list(read_rows([row], "openai_messages", done)) == []
    assert "the weight 0" in done.refused[0].reason


PAIRS = {
    "trl_plain": {"prompt": "q", "chosen": "a", "rejected": "u"},
    "llamafactory_alpaca": {"instruction": "q", "chosen": "a", "rejected": "u"},
    "openai_preference": {"input": Q, "preferred_output": A, "non_preferred_output": A},
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("column", "value"), [("label", 0), ("preferred", False), ("is_safe", "false"), ("bad", 1)])
def test_a_pair_whose_own_column_denies_it_is_refused(name: str, column: str, value: Any) -> None:
    done = Conversion()
    assert list(read_rows([{**PAIRS[name], column: value}], name, done)) == []
    assert f"{column}={value!r} says that the response is unaligned" in done.refused[0].reason
    agreed = {**PAIRS[name], column: {"bad": False}.get(column, True)}
    assert (
        len(list(read_rows([agreed], name))) == len(list(read_rows([{**PAIRS[name], "label": "a topic"}], name))) == 1
    )


def test_an_index_under_chosen_is_no_text() -> None:
    row = {"prompt": "q", "responses": ["a", "u"], "chosen": 1, "rejected": 0}
    with pytest.raises(
        ValueError, match="row 1: it has the columns prompt, responses, chosen, rejected; expected prompt"
    ):
        list(read_rows([row]))


def test_tags_of_conversations_agree_with_what_stands_beside_them() -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    (row,) = read_rows([{"conversations": turns, "kto_tag": False, "system": "s"}])
    assert row == {"prompt": [{"role": "system", "content": "s"}, *Q], "completion": A, "label": False}
    done = Conversion()
    assert list(read_rows([{"conversations": turns, "kto_tag": True, "label": False}], "llamafactory_kto", done)) == []
    assert list(read_rows([{"conversations": turns[:1], "kto_tag": True}], "llamafactory_kto", done)) == []
    assert "ends with a turn of user" in done.refused[1].reason


def test_what_openais_rows_hold_beside_the_pair_comes_through() -> None:
    row = {**PAIRS["openai_preference"], "harmful": True, "input": {"messages": Q, "tools": [1], "metadata": {"a": 1}}}
    (found,) = read_rows([row])
    assert (found["harmful"], found["tools"], found["metadata"]) == (True, [1], {"a": 1})


def test_a_first_row_that_is_null_is_that_rows_fault_alone() -> None:
    good = {"prompt": "q", "chosen": "a", "rejected": "u"}
    done = Conversion()
    assert len(list(read_rows([{**good, "chosen": None}, good], None, done))) == 1
    assert done.refused[0][:2] == (
        1,
        "chosen is null in the columns prompt, chosen, rejected; fill it in or leave the row out",
    )
    with pytest.raises(ValueError, match="row 1: chosen is null in the columns"):
        list(read_rows([{**good, "chosen": None}]))


@pytest.mark.parametrize("value", ["no", "No", "n", "0", 0.0])
@pytest.mark.parametrize("name", ["label", "safe", "chosen", "accepted"])
def test_a_no_is_read_however_it_is_written(name: str, value: Any) -> None:
    for shape in ("messages", "completion", "plain"):
        (found,) = convert([{**SHAPES[shape], name: value}], "trl_unpaired")
        assert found["label"] is False


@pytest.mark.parametrize(
    "column",
    [
        {"safety_label": "unsafe"},
        {"category": "unsafe"},
        {"response_label": "harmful"},
        {"score": 0.0},
        {"reward": -1},
        {"preference": "rejected"},
        {"is_toxic": True},
        {"correct": "false"},
        {"flagged": 1},
    ],
)
def test_messages_are_not_called_aligned_beside_a_column_that_may_deny_it(column: dict) -> None:
    done = Conversion()
    assert list(read_rows([{**SHAPES["messages"], **column}], None, done)) == []
    assert f"{next(iter(column))}=" in done.refused[0].reason
    assert "may say that the response is unaligned" in done.refused[0].reason


@pytest.mark.parametrize(
    "column", [{"harmful": True}, {"prompt_label": "unsafe"}, {"score": 0.93}, {"topic": "bad luck"}]
)
def test_columns_of_the_prompt_and_measures_say_nothing_of_the_side(column: dict) -> None:
    (row,) = read_rows([{**SHAPES["messages"], **column}])
    assert row["label"] is True


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [("score_chosen", "score_rejected"), ("chosen-rating", "rejected-rating"), ("chosen_quality",) * 2],
)
def test_a_pair_whose_rejected_response_is_rated_higher_is_refused(chosen: str, rejected: str) -> None:
    rejected = rejected.replace("chosen", "rejected")
    for better, worse in ((5, 1), (5.0, 1.0), ("5.0", "1.0"), (True, False)):
        done = Conversion()
        row = PAIRS["trl_plain"]
        assert (
            len(list(read_rows([{**row, chosen: better, rejected: worse}, {**row, chosen: better}], None, done))) == 2
        )
        assert list(read_rows([{**row, chosen: worse, rejected: better}], None, done)) == []
        assert "say that rejected is the better response" in done.refused[0].reason
    assert list(read_rows([{**row, "chosen_rank": 1, "rejected_rank": 2, "chosen_logps": -9, "rejected_logps": -3}]))


def test_a_pair_that_repeats_the_chosen_one_in_messages_is_a_pair() -> None:
    sides = {"chosen": [*Q, *A], "rejected": [*Q, {**A[0], "content": "u"}]}
    row = {"prompt": "q", **sides, "messages": [*Q, *A], "score_chosen": 8.0, "score_rejected": 3.0}
    (found,) = read_rows([row])
    assert (found["prompt"], found["chosen"], found["rejected"]) == (Q, A, sides["rejected"][1:])
    assert "label" not in found


@pytest.mark.parametrize("mark", [{"weight": 0.0}, {"train": False}, {"loss": 0}, {"label": False}])
def test_a_last_message_that_is_not_to_be_learnt_is_refused(mark: dict) -> None:
    done = Conversion()
    assert list(read_rows([{"messages": [*Q, {**A[0], **mark}]}], None, done)) == []
    assert done.refused
