"""Every format against our rows: there and back, and what is lost on the way."""

import json
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from divalign.data.columns import SIDES
from divalign.data.convert import Conversion, convert, detect_format, read_rows
from divalign.data.files import read_file
from divalign.data.formats import FORMATS
from divalign.data.training_rows import SHORTEST_REPEATED, shared_text, training_row
from divalign.data.words import words_of
from divalign.data.writing import write_file
from tests.messages import said

TEXT = st.text(min_size=1, max_size=30)


@st.composite
def pairs(draw: st.DrawFn, *, turns: bool = True) -> dict:
    """Return a row of ours: perhaps a system turn, perhaps earlier turns, perhaps our own columns and others."""
    prompt = said(draw(TEXT.filter(str.strip)), "system") if turns and draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2)) if turns else 0):
        prompt += said(draw(TEXT), "user") + said(draw(TEXT))
    row = {"prompt": prompt + said(draw(TEXT), "user"), "chosen": said(draw(TEXT)), "rejected": said(draw(TEXT))}
    asked = row["prompt"][-1]["content"].strip()  # a response that repeats a prompt of some words is refused
    assume(len(words_of(asked)) < SHORTEST_REPEATED or all(asked not in row[side][0]["content"] for side in SIDES))
    extras = {"harmful": st.booleans(), "cluster": TEXT, "prefill": TEXT, "source": TEXT, "id": st.integers()}
    rewards = {"reward_chosen": draw(st.floats(2, 9)), "reward_rejected": draw(st.floats(-9, 2))}
    row |= rewards if draw(st.booleans()) else {}
    return row | {name: draw(values) for name, values in extras.items() if draw(st.booleans())}


def there_and_back(rows: list[dict], name: str) -> tuple[list[dict], Conversion]:
    done = Conversion()
    written = json.loads(json.dumps(list(convert(rows, name, source="trl", done=done))))
    assert all(detect_format(row) == name for row in written)
    return list(convert(written, "trl")), done


KEEPS_TURNS = ("trl", "halos_pairwise", "llamafactory_alpaca", "llamafactory_sharegpt")


@pytest.mark.parametrize("name", KEEPS_TURNS)
@given(row=pairs())
def test_a_format_of_pairs_with_turns_loses_nothing(name: str, row: dict) -> None:
    back, done = there_and_back([row], name)
    assert (back, done.lost, done.refused) == ([row], {}, [])


@pytest.mark.parametrize("name", ["trl_unpaired", "llamafactory_kto", "halos_binary"])
@given(rows=st.lists(pairs(), max_size=5))
def test_pairs_come_back_in_order_from_a_format_of_single_responses(name: str, rows: list[dict]) -> None:
    back, done = there_and_back(rows, name)
    assert (back, done.lost, done.refused) == (rows, {}, [])
    assert done.written == 2 * len(rows)


@pytest.mark.parametrize("name", ["trl_plain", "trl_unpaired_plain"])
@given(row=pairs(turns=False))
def test_plain_text_keeps_a_prompt_of_one_turn(name: str, row: dict) -> None:
    back, done = there_and_back([row], name)
    assert (back, done.lost) == ([row], {})


@given(row=pairs(turns=False), harmful=st.booleans())
def test_the_papers_format_adds_an_id_and_loses_nothing(row: dict, harmful: bool) -> None:
    row["harmful"] = harmful
    back, done = there_and_back([row], "paper")
    assert (back, done.lost) == ([{"id": 1, **row}], {})
    assert back[0].keys() - row.keys() <= {"id"}


@given(row=pairs())
def test_openais_pairs_lose_our_columns_and_say_so(row: dict) -> None:
    back, done = there_and_back([row], "openai_preference")
    assert back == [{name: row[name] for name in ("prompt", "chosen", "rejected")}]
    assert set(done.lost) == row.keys() - back[0].keys()


@given(row=pairs())
def test_what_is_lost_is_what_does_not_come_back(row: dict) -> None:
    for name in FORMATS:
        if FORMATS[name].kind == "paired":
            back, done = there_and_back([row], name)
            if back:
                assert set(done.lost) == {key for key, value in row.items() if back[0].get(key) != value}
            else:
                assert len(done.refused) == 1


def test_openais_messages_hold_the_aligned_response_alone() -> None:
    done = Conversion()
    row = {"prompt": said("q", "user"), "chosen": said("good"), "rejected": said("bad")}
    assert list(convert([row], "openai_messages", done=done)) == [{"messages": said("q", "user") + said("good")}]
    assert done.lost == {"rejected": 1}


Q = said("q", "user")
SAMPLES = {
    "openai_preference": {
        "input": {"messages": Q, "tools": []},
        "preferred_output": said("a"),
        "non_preferred_output": said("u"),
    },
    "halos_pairwise": {
        "type": "pairwise_feedback",
        "prompt_id": 7,
        "prompt": Q,
        "output_A": said("u"),
        "output_B": said("a"),
        "label": 0,
        "reward_A": 0.2,
        "reward_B": 0.9,
    },
    "paper": {"id": 3, "safety": 0, "prompt": "q", "acc_responses": ["u"], "rej_responses": ["a"]},
    "llamafactory_alpaca": {"instruction": "q", "input": "", "chosen": "a", "rejected": "u"},
    "llamafactory_sharegpt": {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "u"},
    },
    "trl": {"prompt": Q, "chosen": said("a"), "rejected": said("u")},
    "trl_plain": {"prompt": "q", "chosen": "a", "rejected": "u"},
}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_row_as_the_tools_write_it_is_known_and_read(name: str) -> None:
    assert detect_format(SAMPLES[name]) == name
    row = next(read_rows([SAMPLES[name]]))
    assert (row["prompt"], row["chosen"], row["rejected"]) == (Q, said("a"), said("u"))


@pytest.mark.parametrize("name", SAMPLES)
def test_a_table_holds_every_format(tmp_path: Path, name: str) -> None:
    sample = {**SAMPLES[name], "history": [["q0", "a0"]]} if name == "llamafactory_alpaca" else SAMPLES[name]
    write_file(tmp_path / "rows.csv", [sample])
    rows = read_file(tmp_path / "rows.csv").rows
    assert detect_format(rows[0]) == name
    ours, theirs = next(read_rows(rows)), next(read_rows([sample]))
    assert [ours[side] for side in ("prompt", "chosen", "rejected")] == [
        theirs[side] for side in ("prompt", "chosen", "rejected")
    ]


def test_rewards_and_ids_of_halos_go_with_their_response() -> None:
    row = next(read_rows([SAMPLES["halos_pairwise"]]))
    assert (row["reward_chosen"], row["reward_rejected"], row["prompt_id"]) == (0.9, 0.2, 7)


def test_harmful_prompts_of_the_paper_are_aligned_with_the_refusal() -> None:
    benign = {**SAMPLES["paper"], "safety": 1, "acc_responses": ["a"], "rej_responses": ["u"]}
    assert [row["harmful"] for row in read_rows([SAMPLES["paper"], benign])] == [True, False]
    assert [row["chosen"] for row in read_rows([SAMPLES["paper"], benign])] == [said("a"), said("a")]


def test_a_response_of_the_paper_that_is_no_list_is_one_response() -> None:
    row = {**SAMPLES["paper"], "acc_responses": "yes", "rej_responses": "no"}
    assert [(one["chosen"], one["rejected"]) for one in read_rows([row])] == [(said("no"), said("yes"))]
    done = Conversion()
    strange = [{**row, "acc_responses": value} for value in (3, {"a": 1}, [3], [None])]
    assert list(read_rows(strange, "paper", done)) == []
    assert "'acc_responses' holds int, expected a list of responses" in done.refused[0].reason
    assert list(read_rows([{**row, "acc_responses": [], "rej_responses": []}], "paper", done)) == []
    assert [one.line for one in done.refused] == [1, 2, 3, 4, 5]


def test_responses_without_a_partner_are_set_aside_in_pairs_and_kept_in_rows() -> None:
    row = {**SAMPLES["paper"], "acc_responses": ["u", "u2"]}
    done = Conversion()
    assert len(list(convert([row], "trl", done=done))) == 1
    assert done.refused[0].reason == "no response of the other label to the same prompt"
    assert [r["label"] for r in convert([row], "trl_unpaired")] == [True, False, False]


def test_instruction_and_input_are_joined_and_history_becomes_turns() -> None:
    sample = {**SAMPLES["llamafactory_alpaca"], "input": "here", "system": "s", "history": [["q0", "a0"]]}
    prompt = said("s", "system") + said("q0", "user") + said("a0") + said("q\nhere", "user")
    assert next(read_rows([sample]))["prompt"] == prompt


def test_a_tagged_conversation_is_read_as_a_labelled_response() -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    row = next(read_rows([{"conversations": turns, "kto_tag": "false"}]))
    assert row == {"prompt": Q, "completion": said("a"), "label": False}


def test_without_a_prompt_it_is_what_the_two_conversations_share() -> None:
    both = {"chosen": Q + said("a"), "rejected": Q + said("u")}
    assert next(read_rows([both])) == {"prompt": Q, "chosen": said("a"), "rejected": said("u")}
    same = {"chosen": Q + said("a"), "rejected": Q + said("a")}
    assert next(read_rows([same]))["prompt"] == Q
    text = next(read_rows([{"chosen": "Human: hi Bot: yes", "rejected": "Human: hi Bot: no"}]))
    assert (text["prompt"], text["chosen"]) == (said("Human: hi Bot:", "user"), said(" yes"))


@pytest.mark.parametrize(
    ("shared", "chosen", "rejected", "prompt"),
    [
        ("\n\nHuman: Name a fruit.\n\nAssistant: An ", "apple.", "axe.", "\n\nHuman: Name a fruit.\n\nAssistant: An"),
        ("Human: Name a fruit. Assistant: ", "Fig", "Figs", "Human: Name a fruit. Assistant:"),
        ("Human: Is it so? Assistant: ", "It's so.", "It'd be so.", "Human: Is it so? Assistant:"),
        ("[INST] Name a fruit. [/INST]", "Fig", "Fir", "[INST] Name a fruit. [/INST]"),
        ("<|user|>\nA fruit?\n<|assistant|>\n", "Fig", "Fir", "<|user|>\nA fruit?\n<|assistant|>\n"),
        ("问：海是什么？ 答：", "海是水", "海是沙", "问：海是什么？ 答："),
        ("When? At ", "10:30", "10:45", "When? At"),
        ("Human: Name a fruit. Assistant:", "Fig", "Lime", "Human: Name a fruit. Assistant:"),
    ],
)
def test_a_prompt_that_responses_share_ends_with_a_whole_word(
    shared: str, chosen: str, rejected: str, prompt: str
) -> None:
    row = {"chosen": shared + chosen, "rejected": shared + rejected}
    for name in ("trl", "trl_plain"):
        (back,) = read_rows(convert([row], name))
        texts = {side: back[side][0]["content"] for side in SIDES}
        assert back["prompt"] == said(prompt, "user")
        assert {side: prompt + text for side, text in texts.items()} == row
    assert training_row(row)["prompt"] == shared_text(*row.values())  # training keeps TRL's boundary


def test_texts_that_share_no_whole_word_are_refused_in_conversion() -> None:
    done = Conversion()
    assert list(convert([{"chosen": "Apples", "rejected": "Apricots"}], "trl", done=done)) == []
    assert "share no whole word; add the column 'prompt'" in done.refused[0].reason


@pytest.mark.parametrize(
    ("row", "name", "reason"),
    [
        ({"prompt": said("s", "system") + Q, "chosen": said("a"), "rejected": said("u")}, "trl_plain", "system, user"),
        ({"prompt": Q, "chosen": said("a"), "rejected": said("u")}, "paper", "add the column 'harmful'"),
        ({"prompt": Q + Q, "chosen": said("a"), "rejected": said("u")}, "llamafactory_alpaca", "user and assistant"),
        ({"prompt": Q, "completion": said("u"), "label": False}, "openai_messages", "aligned ones alone"),
        ({"prompt": Q, "completion": said("u"), "label": "perhaps"}, "trl", "'label' holds 'perhaps'"),
        ({"prompt": Q, "completion": 3, "label": True}, "trl_unpaired", "'completion' holds int"),
        ({"prompt": Q, "completion": said("u"), "label": True}, "trl", "no response of the other label"),
        (
            {"prompt": Q, "completion": [{"role": "assistant", "content": None}], "label": True},
            "trl_unpaired_plain",
            "a turn of assistant whose content is null",
        ),
        ({"prompt": ["q"], "completion": said("u"), "label": True}, "trl_unpaired", "without role and content"),
    ],
)
def test_a_row_that_cannot_be_held_is_set_aside_with_the_reason(row: dict, name: str, reason: str) -> None:
    source = "trl_unpaired" if "label" in row else "trl"
    done = Conversion()
    assert list(convert([row], name, source=source, done=done)) == []
    assert reason in done.refused[0].reason
    assert json.loads(done.refused[0].text) == row


SHAREGPT = SAMPLES["llamafactory_sharegpt"]
WITH_SYSTEM = {
    "sharegpt": {**SHAREGPT, "system": "s"},
    "sharegpt, twice": {
        **SHAREGPT,
        "conversations": [{"from": "system", "value": "s"}, *SHAREGPT["conversations"]],
        "system": "s",
    },
    "alpaca": {**SAMPLES["llamafactory_alpaca"], "system_prompt": "s"},
    "kto": {"instruction": "q", "input": "", "output": "a", "kto_tag": True, "System": "s"},
}


@pytest.mark.parametrize("shape", WITH_SYSTEM)
def test_a_system_column_of_llama_factory_is_one_system_turn(shape: str) -> None:
    row = next(read_rows([WITH_SYSTEM[shape]]))
    assert row["prompt"] == said("s", "system") + Q
    assert not any(name.lower().startswith("system") for name in row)


def test_a_blank_system_turn_is_refused_where_a_format_would_lose_it() -> None:
    done = Conversion()
    row = {"prompt": said(" ", "system") + Q, "chosen": said("a"), "rejected": said("u")}
    assert list(convert([row], "llamafactory_alpaca", done=done)) == []
    assert "its system turn is blank" in done.refused[0].reason


def test_a_system_column_that_denies_the_system_turn_is_refused() -> None:
    done = Conversion()
    assert list(convert([{**WITH_SYSTEM["sharegpt, twice"], "system": "t"}], "trl", done=done)) == []
    assert "'system' is not the prompt's system turn" in done.refused[0].reason
    assert next(read_rows([{**SHAREGPT, "system": None}]))["prompt"] == Q


@pytest.mark.parametrize("name", ["openai_messages", "openai_preference", "halos_pairwise"])
def test_a_system_column_beside_turns_becomes_one_and_nothing_is_lost(name: str) -> None:
    sample = {"messages": Q + said("a")} if name == "openai_messages" else SAMPLES[name]
    done = Conversion()
    rows = list(convert([{**sample, "system": "s"}], "trl_unpaired", done=done))
    assert all(row["prompt"] == said("s", "system") + Q for row in rows)
    assert (done.lost, done.refused) == ({}, [])


def test_keys_of_messages_that_are_null_are_not_lost() -> None:
    null = {"name": None, "tool_calls": None}
    row = {"prompt": [{**Q[0], **null}], "chosen": [{**said("a")[0], **null}], "rejected": said("u")}
    for name in ("trl_plain", "llamafactory_sharegpt", "trl_unpaired_plain"):
        done = Conversion()
        assert len(list(convert([row], name, done=done))) > 0
        assert done.lost == {}
    done = Conversion()
    list(convert([{**row, "prompt": [{**Q[0], "name": "Ann"}]}], "trl_plain", done=done))
    assert done.lost == {"prompt": 1}


@pytest.mark.parametrize("flag", [{"preferred": True}, {"label": 1}, {"is_rejected": "no"}, {"good": 1}])
def test_a_pair_that_says_its_side_too_becomes_two_responses(flag: dict) -> None:
    done = Conversion()
    rows = list(convert([{**SAMPLES["trl_plain"], **flag}], "trl_unpaired_plain", done=done))
    assert [(row["completion"], row["label"]) for row in rows] == [("a", True), ("u", False)]
    assert (done.lost, done.refused) == ({}, [])


def test_a_column_of_a_pair_that_is_no_flag_is_called_lost() -> None:
    done = Conversion()
    rows = list(convert([{**SAMPLES["trl_plain"], "label": "ships"}], "trl_unpaired_plain", done=done))
    assert [row["label"] for row in rows] == [True, False]
    assert done.lost == {"label": 1}


def test_an_unknown_format_names_the_nearest_and_unknown_columns_are_listed() -> None:
    with pytest.raises(ValueError, match="did you mean 'trl_plain'"):
        list(convert([], "trl_plane"))
    with pytest.raises(ValueError, match="no known format has the columns question, answer"):
        detect_format({"question": 1, "answer": 2})


def test_an_empty_column_of_ours_is_a_missing_one() -> None:
    pair = {"prompt": "q", "chosen": "a", "rejected": "u"}
    rows = [{**pair, "prefill": empty, "cluster": empty, "harmful": empty} for empty in (None, "")]
    assert list(convert(rows, "trl_plain")) == [pair, pair]


@pytest.mark.parametrize("conversations", ["text", ["text"], [3], {"from": "human"}, None])
def test_nonsense_in_a_column_is_the_rows_fault_alone(conversations: object) -> None:
    done = Conversion()
    row = {"conversations": conversations, "kto_tag": True}
    assert list(read_rows([row], "llamafactory_kto", done)) == []
    assert len(done.refused) == 1


def test_a_missing_column_further_down_is_the_rows_fault_alone() -> None:
    done = Conversion()
    good = {"prompt": "q", "chosen": "a", "rejected": "u"}
    assert len(list(convert([good, {"prompt": "q", "chosen": "a"}, good], "trl", done=done))) == 2
    assert done.refused[0][:2] == (2, "it lacks the column 'rejected'")
