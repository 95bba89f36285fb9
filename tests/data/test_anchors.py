import os
from pathlib import Path

import pytest

from divalign.data.anchors import anchors_in_training, normalised, read_anchors
from divalign.data.examples import Request
from divalign.data.fetch import File
from divalign.data.sources import SOURCES, Source
from divalign.store import write_rows

DATA = os.environ.get("DIVALIGN_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="DIVALIGN_DATA names no folder of public prompt sets")


@needs_data
def test_jailbreakbench_comes_in_pairs() -> None:
    rows = read_anchors(f"jailbreakbench:{DATA}/jailbreakbench")
    assert len(rows) == 200
    assert [row["cluster"] for row in rows[:100]] == [row["cluster"] for row in rows[100:]]
    assert [row["harmful"] for row in rows] == [False] * 100 + [True] * 100


@needs_data
def test_xstest_has_its_two_sides() -> None:
    rows = read_anchors(f"xstest:{DATA}/xstest")
    assert [sum(row["harmful"] is side for row in rows) for side in (False, True)] == [250, 200]
    assert len({row["cluster"] for row in rows}) < 300


def test_a_file_of_ones_own_is_read_from_csv_and_json_lines(tmp_path: Path) -> None:
    rows = [{"prompt": "a, b", "harmful": True, "cluster": "x"}, {"prompt": "c", "harmful": False, "cluster": "c"}]
    write_rows(tmp_path / "a.jsonl", [rows[0], {"prompt": "c", "harmful": False}])
    (tmp_path / "a.csv").write_text('prompt,harmful,cluster\n"a, b",true,x\nc,0,\n')
    assert read_anchors(str(tmp_path / "a.jsonl")) == read_anchors(str(tmp_path / "a.csv")) == rows


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_of_ones_own_is_read_in_any_encoding_kind_and_wording(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.tsv").write_bytes("goal\tharmful\tresponse\nBrûle\tunsafe\tNo.\nc\tBENIGN\t\n".encode(encoding))
    found = read_anchors(f"file:{tmp_path / 'a.tsv'}")
    assert found == [
        {"prompt": "Brûle", "harmful": True, "cluster": "Brûle", "response": "No."},
        {"prompt": "c", "harmful": False, "cluster": "c"},
    ]


def test_a_table_says_which_anchors_are_held_out(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("prompt,harmful,held_out\na,true,True\nb,false,False\nc,false,\n")
    assert [row.get("held_out", False) for row in read_anchors(str(path))] == [True, False, False]
    path.write_text("prompt,harmful,held_out\na,true,maybe\nb,false,no\n")
    with pytest.raises(ValueError, match=r"row 1: the column 'held_out' holds 'maybe', expected true or false"):
        read_anchors(str(path))


def test_any_source_with_both_classes_serves_for_anchors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = lambda rows: [Request(row["q"], row["bad"], "", "", "", "") for row in rows]  # noqa: E731
    monkeypatch.setitem(SOURCES, "made", Source(load, (File("made/it.jsonl"),), (("q", "bad"),), "CC0", "here"))
    write_rows(tmp_path / "it.jsonl", [{"q": "h", "bad": True}, {"q": "b", "bad": False}])
    assert read_anchors(f"made:{tmp_path}") == [
        {"prompt": "b", "harmful": False, "cluster": "made 1"},
        {"prompt": "h", "harmful": True, "cluster": "made 0"},
    ]
    both = [Request("h", True, "", "", "", ""), Request("b", False, "", "", "", "")]
    monkeypatch.setitem(SOURCES, "shipped", Source(lambda: both, (), (), "CC0", "here"))
    assert [row["prompt"] for row in read_anchors("shipped")] == ["b", "h"]
    write_rows(tmp_path / "it.jsonl", [{"q": "h", "bad": True}])
    with pytest.raises(ValueError, match="holds no safe prompt among 1; separation needs both classes"):
        read_anchors(f"made:{tmp_path}")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("prompt,label\na,1\n", "lacks the column 'harmful'; it has prompt, label"),
        ("prompt,harmful\na,maybe\n", "row 1: harmful is 'maybe'; expected true or false"),
        ("prompt,harmful\na,1\nb,1\n", "holds no safe prompt among 2"),
        ("prompt,harmful\na,1\na,0\n", "a prompt stands twice: 'a'"),
    ],
)
def test_a_file_that_cannot_serve_is_refused(content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=sentence):
        read_anchors(str(tmp_path / "a.csv"))


def test_an_unknown_set_and_a_missing_folder_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'xstest'"):
        read_anchors("xtest:folder")
    with pytest.raises(ValueError, match="write xstest:FOLDER"):
        read_anchors("xstest")
    with pytest.raises(ValueError, match=r"no file /nowhere/xstest_prompts\.csv"):
        read_anchors("xstest:/nowhere")


def test_a_training_prompt_is_known_again_in_other_dress() -> None:
    anchors = [{"prompt": "Fold a paper  crane!"}, {"prompt": "Fly a kite."}]
    rows = [{"prompt": [{"role": "user", "content": "fold a paper crane"}]}, {"prompt": "swim"}]
    assert anchors_in_training(anchors, rows) == (1, "Fold a paper  crane!")
    assert anchors_in_training(anchors, rows[1:]) is None
    assert normalised("?!") != normalised("...")
    dialogue = {"chosen": "Human: fly a kite\n\nAssistant: a", "rejected": "Human: fly a kite\n\nAssistant: b"}
    alpaca = {"instruction": "Fly a kite", "chosen": "a", "rejected": "b"}
    parts = {"prompt": [{"role": "user", "content": [{"type": "text", "text": "fly a kite"}]}]}
    assert anchors_in_training(anchors, [alpaca]) == anchors_in_training(anchors, [parts]) == (1, "Fly a kite.")
    assert anchors_in_training(anchors, [dialogue]) is None  # its prompt is all of the dialogue
    with pytest.raises(ValueError, match="training row 0 has the columns text; expected prompt"):
        anchors_in_training(anchors, [{"text": "x"}])
