"""One reader for training rows, prompts and labelled responses: a file, a line, a fault and a remedy."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from divalign.data.columns import turns_of
from divalign.data.files import load_rows, read_file
from divalign.data.loading import load_labelled, load_training_rows
from divalign.data.notes import aside_of
from divalign.data.prompts import load_prompts
from divalign.data.writing import write_file

GOOD = {"prompt": "q", "chosen": "a", "rejected": "u"}
TURNS = {
    "prompt": [{"role": "user", "content": "q"}],
    "chosen": [{"role": "assistant", "content": "a"}],
    "rejected": [{"role": "assistant", "content": "u"}],
}


TURN = {"from": "gpt", "value": "a"}
SYSTEM = [{"role": "system", "content": "s"}]
ASKED, ANSWERED, OTHER = TURNS["prompt"], TURNS["chosen"], TURNS["rejected"][0]


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({**GOOD, "chosen": None}, "chosen is null in the columns prompt, chosen, rejected; fill it in or leave"),
        ({**GOOD, "chosen": 3}, "the column 'chosen' holds int, expected text or a list of messages"),
        ({"prompt": "q", "chosen": "a"}, "no known format has the columns prompt, chosen;"),
        ({"prompt": "q", "chosen": "a", "rejcted": "u"}, "is 'rejcted' meant to be 'rejected'"),
        ({**TURNS, "chosen": [{"role": "assistant", "content": None}]}, "a turn of assistant whose content is null"),
        ({**TURNS, "tools": "{"}, "its tools is no JSON"),
        ({**GOOD, "label": False}, "label=False says that the response is unaligned"),
        ({"prompt": "q", "completion": "a", "label": "x"}, "'label' holds 'x', expected true or false"),
        ({"messages": [{"role": "user", "content": "q"}]}, "the messages hold no prompt or do not end with"),
        ('{"prompt": "q", "chosen": "a', r"not JSON \(Unterminated string starting at character 27\); mend"),
        ('{"prompt": "q", "prompt": "p", "chosen": "a", "rejected": "u"}', "the column 'prompt' stands twice"),
        ("[1]", "expected an object with columns, got list"),
    ],
)
def test_a_bad_training_row_is_a_sentence_with_file_line_and_remedy(tmp_path: Path, bad: Any, sentence: str) -> None:
    path = lines(tmp_path / "rows.jsonl", GOOD, "", bad)
    with pytest.raises(ValueError, match=rf"rows\.jsonl, line 3: .*{sentence}"):
        load_training_rows(path)
    assert not aside_of(path).exists()
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1: "):
        load_training_rows(lines(path, bad, GOOD))


def test_all_rows_that_cannot_be_trained_on_are_counted(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", GOOD, {**GOOD, "chosen": None}, {**GOOD, "rejected": None})
    with pytest.raises(ValueError, match=r"line 2: .*\(2 rows of 3 cannot be trained on\)"):
        load_training_rows(path)


def test_rows_of_trl_stay_as_they_are_and_others_become_conversations(tmp_path: Path) -> None:
    dialogue = {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: u"}
    assert load_training_rows(lines(tmp_path / "a.jsonl", GOOD, TURNS, dialogue)) == [GOOD, TURNS, dialogue]
    alpaca = {"instruction": "q", "chosen": "a", "rejected": "u"}
    assert load_training_rows(lines(tmp_path / "b.jsonl", alpaca)) == [TURNS]
    paper = {"id": 1, "safety": 0, "prompt": "q", "acc_responses": ["u"], "rej_responses": ["a"]}
    assert load_training_rows(lines(tmp_path / "c.jsonl", paper)) == [{**TURNS, "id": 1, "harmful": True}]


def test_a_labelled_response_says_in_any_way_of_a_table_whether_it_refused(tmp_path: Path) -> None:
    values = [True, "true", "True", 1, "1", "yes", False, "FALSE", 0, "no"]
    rows = [{"prompt": "p", "response": "r", "refused": value} for value in values]
    assert [row["refused"] for row in load_labelled(lines(tmp_path / "l.jsonl", *rows))] == [True] * 6 + [False] * 4
    for row in ({"refused": "partly"}, {"refused": None}):
        with pytest.raises(
            ValueError, match=r"l\.jsonl, line 2: the column 'refused' holds .*, expected true or false"
        ):
            load_labelled(lines(tmp_path / "l.jsonl", rows[0], {**rows[0], **row}))
    with pytest.raises(ValueError, match=r"l\.jsonl, line 1: it lacks the column 'refused'"):
        load_labelled(lines(tmp_path / "l.jsonl", {"prompt": "p", "response": "r"}))
    for row, fault in (
        ({"prompt": "p", "refused": True}, "'response' is missing"),
        ({"prompt": "p", "response": None, "refused": True}, "'response' holds None"),
        ({"prompt": ["p"], "response": "r", "refused": True}, r"'prompt' holds \['p'\]"),
    ):
        with pytest.raises(ValueError, match=rf"l\.jsonl, line 1: the column {fault}, expected text"):
            load_labelled(lines(tmp_path / "l.jsonl", row))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"])
@pytest.mark.parametrize("load", [load_training_rows, load_prompts, load_rows])
def test_every_reader_knows_the_encodings(tmp_path: Path, encoding: str, load: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(f"{json.dumps({**GOOD, 'prompt': 'café'}, ensure_ascii=False)}\n".encode(encoding))
    assert load(path) == [{**GOOD, "prompt": "café"}]


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "parquet", "jsonl.gz"])
def test_every_kind_of_file_can_be_trained_on(tmp_path: Path, kind: str) -> None:
    rows = [{"prompt": TURNS["prompt"], "completion": TURNS["chosen"], "label": flag} for flag in (True, False)]
    write_file(tmp_path / f"rows.{kind}", rows)
    assert load_training_rows(tmp_path / f"rows.{kind}") == rows


def test_missing_numbers_of_a_data_frame_are_null_and_counted(tmp_path: Path) -> None:
    columns = {"prompt": ["q", "p"], "chosen": ["a", None], "rejected": ["u", "u"], "score": [math.nan, 1.0]}
    parquet.write_table(pa.table(columns), tmp_path / "rows.parquet")
    reading = read_file(tmp_path / "rows.parquet")
    assert [row["score"] for row in reading.rows] == [None, 1.0]
    assert reading.notes.sentences(tmp_path / "rows.parquet")[0].endswith(
        "1 value of the column 'score' not a number (NaN), read as null"
    )
    write_file(tmp_path / "out.jsonl", reading.rows)
    with pytest.raises(ValueError, match=r"rows\.parquet, line 2: chosen is null"):
        load_training_rows(tmp_path / "rows.parquet")
    nested = pa.table({"a": [[1.0, math.nan]], "b": [{"c": math.nan, "d": 1}]})
    parquet.write_table(nested, tmp_path / "nested.parquet")
    assert read_file(tmp_path / "nested.parquet").rows == [{"a": [1.0, None], "b": {"c": None, "d": 1}}]


def test_a_json_file_of_one_row_of_several_sets_and_a_torn_array(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(TURNS, indent=1))
    assert load_training_rows(path) == [TURNS]
    path.write_text(json.dumps({"train": [GOOD], "test": [GOOD]}))
    with pytest.raises(ValueError, match=r"holds the lists train, test; expected one"):
        load_rows(path)
    path.write_text(f"[{json.dumps(GOOD)},\n{{")
    with pytest.raises(ValueError, match=r"is a JSON array that cannot be read: .* line 2 column 2"):
        load_rows(path)


def test_a_list_of_rejected_lines_is_removed_in_words_and_another_file_is_left(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", GOOD, "{")
    read_file(path)
    lines(path, GOOD)
    assert "rows.jsonl.rejected.jsonl of an earlier reading was removed" in read_file(path).notes.sentences(path)[0]
    aside_of(path).write_text('{"my": "own"}\n')
    assert read_file(path).notes.sentences(path) == []
    assert aside_of(path).exists()
    lines(path, GOOD, "{")
    with pytest.raises(ValueError, match="holds something else, and rejected lines would replace it"):
        read_file(path)
    assert aside_of(path).read_text() == '{"my": "own"}\n'


def test_bytes_that_are_no_character_are_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": "\x81"}\n')
    assert read_file(path).notes.sentences(path) == [
        f"{path} is not all UTF-8: 1 line in windows-1252 with bytes that are no character"
    ]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"goal": "g", "target": "Sure"}, {"prompt": "g", "target": "Sure"}),
        ({"": "0", "Goal": "g", "Target": "Sure", "Behavior": "b"}, {"prompt": "g", "target": "Sure"}),
        ({"Behavior": "b", "ContextString": "c", "BehaviorID": "i"}, {"prompt": "c\n\nb"}),
        ({"Behavior": "b", "ContextString": None}, {"prompt": "b"}),
        ({"prompt": "p", "label": "safe"}, {"prompt": "p", "harmful": False}),
        ({"prompt": "p", "label": "unsafe"}, {"prompt": "p", "harmful": True}),
        ({"prompt": [{"role": "user", "content": "p"}], "harmful": "FALSE"}, {"prompt": "p", "harmful": False}),
        ({"forbidden_prompt": "p", "harmful": "1"}, {"prompt": "p", "harmful": True}),
    ],
)
def test_prompts_are_read_from_the_columns_of_the_public_sets(tmp_path: Path, row: dict, expected: dict) -> None:
    (found,) = load_prompts(lines(tmp_path / "p.jsonl", row))
    assert {name: found[name] for name in expected} == expected
    assert ("harmful" in found) == ("harmful" in expected)


def test_empty_columns_of_a_prompt_say_nothing_and_a_text_file_is_a_prompt_a_line(tmp_path: Path) -> None:
    row = {"prompt": "p", "id": None, "target": "", "harmful": None, "cluster": "c"}
    assert load_prompts(lines(tmp_path / "p.jsonl", row)) == [{"prompt": "p", "cluster": "c"}]
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    assert [row["prompt"] for row in load_prompts(tmp_path / "p.txt")] == ["one", "two"]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"goal": ""}, "line 2: its prompt is empty"),
        ({"query": "q"}, "line 2: a row has the columns query; expected one of prompt, goal"),
        ({"prompt": "p", "harmful": "maybe"}, "line 2: harmful is 'maybe'; expected true or false"),
        ({"prompt": [{"role": "user", "content": "p"}] * 2}, r"line 2: its prompt is a conversation \(user, user\)"),
        ("{", r"line 2: not JSON .*; mend the line"),
    ],
)
def test_a_prompt_that_cannot_be_asked_is_named(tmp_path: Path, row: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=rf"p\.jsonl, {sentence}"):
        load_prompts(lines(tmp_path / "p.jsonl", {"prompt": "first"}, row))


@pytest.mark.parametrize(
    ("columns", "harmful"),
    [
        ({"is_harmful": True}, True),
        ({"prompt_harmful": "no"}, False),
        ({"safe": True}, False),
        ({"is_safe": "unsafe"}, True),
        ({"benign": 0}, True),
        ({"type": "harmful"}, True),
        ({"prompt_harm_label": "unharmful"}, False),
        ({"harmful": "benign", "label": "safe"}, False),
        ({"type": "homonyms", "category": "Fraud", "toxicity": None, "harm_category": 3, "tag": "harmful"}, None),
        ({"harmful": True, "label": 0}, True),
        ({"safe": False, "response": "r"}, None),
        ({"benign": True, "response": None}, False),
        ({"is_safe": True, "completion": " "}, False),
        ({"unsafe": 1, "output": ""}, True),
        ({"chosen": "a", "rejected": "b", "chosen_safe": True, "rejected_safe": False}, None),
        ({"response": "r", "toxic_output": 0}, None),
        ({"label": 0, "completion": "c"}, None),
        ({"safety": 0, "acc_responses": ["c"], "rej_responses": ["r"]}, True),
        ({"safety": "1", "acc_responses": ["c"], "rej_responses": ["r"]}, False),
    ],
)
def test_whether_a_prompt_is_harmful_is_read_under_each_of_its_names(
    tmp_path: Path, columns: dict, harmful: bool | None
) -> None:
    (row,) = load_prompts(lines(tmp_path / "p.jsonl", {"prompt": "p", **columns}))
    assert row.get("harmful") is harmful


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({"label": 0}, "label=0"),
        ({"Label": "1"}, "label='1'"),
        ({"label": "jailbreak"}, "label='jailbreak'"),
        ({"class": 3}, "class=3"),
        ({"prompt_harm_label": "maybe", "response": "r"}, "prompt_harm_label='maybe'"),
        ({"toxicity": 0}, "toxicity=0"),
        ({"is_malicious": "no"}, "is_malicious='no'"),
        ({"safety": 1}, "safety=1"),
        ({"category": "benign"}, "category='benign'"),
        ({"data_type": "adversarial_benign"}, "data_type='adversarial_benign'"),
        ({"type": "contrast_homonyms"}, "type='contrast_homonyms'"),
        ({"type": "contrast_homonyms", "response": "r"}, "type='contrast_homonyms'"),
        ({"benign": True, "completion": "c"}, "benign=True"),
        ({"toxicity": 0, "chosen": "a", "rejected": "b"}, "toxicity=0"),
        ({"label": 0, "completion": ""}, "label=0"),
    ],
)
def test_a_column_that_may_say_the_class_of_a_prompt_in_an_unknown_way_is_refused(
    tmp_path: Path, columns: dict, name: str
) -> None:
    with pytest.raises(ValueError, match=f"line 1: {name} may say whether the prompt is harmful.*'harmful'"):
        load_prompts(lines(tmp_path / "p.jsonl", {"prompt": "p", **columns}))


@pytest.mark.parametrize(
    ("row", "roles"),
    [
        ({"messages": [*SYSTEM, *ASKED, *ANSWERED, *ASKED]}, "system, user, assistant, user"),
        ({"messages": [*ASKED, *ANSWERED, *ASKED, *ANSWERED]}, "user, assistant, user"),
        ({"messages": [*SYSTEM, *ASKED]}, "system, user"),
        ({"goal": [*ASKED, *ANSWERED]}, "user, assistant"),
        ({"Behavior": "b", "ContextString": [*ASKED, *ANSWERED]}, "user, assistant"),
        ({"chosen": [*ASKED, *ANSWERED, *ASKED, *ANSWERED], "rejected": [*ASKED, *ANSWERED, *ASKED, OTHER]}, ""),
        ({"instruction": "q", "history": [["a", "b"]], "chosen": "c", "rejected": "d"}, ""),
    ],
)
def test_a_conversation_is_no_prompt_whichever_column_holds_it(tmp_path: Path, row: dict, roles: str) -> None:
    with pytest.raises(ValueError, match=rf"its prompt is a conversation \({roles}|column 'history'"):
        load_prompts(lines(tmp_path / "p.jsonl", row))


def test_a_prompt_is_one_turn_of_the_user_before_a_response(tmp_path: Path) -> None:
    rows = [{"messages": ASKED}, {"messages": [*ASKED, *ANSWERED]}, {"goal": ASKED}]
    assert [row["prompt"] for row in load_prompts(lines(tmp_path / "p.jsonl", *rows))] == ["q"] * 3


@pytest.mark.parametrize(
    "columns", [{"system": "Never bake."}, {"System_Prompt": "s"}, {"history": [["a", "b"]]}, {"system_message": "s"}]
)
def test_a_system_text_or_earlier_turns_beside_a_prompt_are_refused_and_not_dropped(
    tmp_path: Path, columns: dict
) -> None:
    name = next(iter(columns)).lower()
    for prompt in ({"prompt": "p"}, {"goal": "p"}, {"messages": ASKED}):
        with pytest.raises(ValueError, match=f"line 1: its column '{name}' .* would not be sent"):
            load_prompts(lines(tmp_path / "p.jsonl", {**prompt, **columns}))
        empty = {**prompt, **dict.fromkeys(columns, "")}
        assert load_prompts(lines(tmp_path / "p.jsonl", empty))[0]["prompt"] in ("p", "q")


def test_columns_that_disagree_on_the_class_of_a_prompt_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 1: harmful and label disagree on whether the prompt is harmful"):
        load_prompts(lines(tmp_path / "p.jsonl", {"prompt": "p", "harmful": False, "label": "unsafe"}))


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"conversations": "x", "chosen": TURN, "rejected": TURN}, "its conversation is 'x', expected a list of turns"),
        ({"instruction": 5, "chosen": "a", "rejected": "b"}, "its instruction and input are int, expected text"),
        ({"instruction": "q", "history": [["a"]], "chosen": "a", "rejected": "b"}, "expected a list of pairs"),
        ({"instruction": "q", "history": "x", "chosen": "a", "rejected": "b"}, "its history is 'x'"),
        ({"prompt": "q", "chosen": 5, "rejected": 6}, "its chosen and rejected are int and int; expected text"),
        ({"messages": None}, "messages is null in the columns messages"),
        ({"prompt": "q", "output_A": None, "output_B": "b", "label": 1}, "output_A is null in the columns"),
    ],
)
def test_a_row_of_another_trainer_that_is_malformed_is_no_riddle(tmp_path: Path, row: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match="line 1") as error:
        load_training_rows(lines(tmp_path / "r.jsonl", row))
    assert sentence in str(error.value)


def test_a_table_with_other_marks_between_its_cells_and_a_folder_are_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("prompt;chosen;rejected\nq;a;b\n")
    with pytest.raises(ValueError, match="its cells seem to be separated by ';', expected ','"):
        load_rows(tmp_path / "t.csv")
    with pytest.raises(ValueError, match="is a folder, expected a file of rows"):
        load_rows(tmp_path)


def test_messages_of_a_data_frame_are_messages() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert turns_of(np.array(turns, dtype=object), "user", "prompt") == turns_of(turns, "user", "prompt")
