"""Sources read files of each set's schema; what is wrong with a file is said."""

import csv
import json
import os
import re
from pathlib import Path

import pytest

from divalign.data.examples import Request
from divalign.data.fetch import File, fetched
from divalign.data.sources import SOURCES, Source, find_source, read_source, read_sources

ROWS = {
    "safealigner": [{"prompt": "p", "harmful_response": "yes", "safe_response": "no"}],
    "alpaca": [
        {"instruction": "i", "input": "", "output": "o"},
        {"instruction": "with more", "input": "more", "output": "o"},
    ],
    "pku_saferlhf": [
        {"prompt": prompt, "response_0": "a", "response_1": "b", "is_response_0_safe": safe[0],
         "is_response_1_safe": safe[1], "better_response_id": 1}
        for prompt, safe in {"both": (True, True), "one": (False, True), "none": (False, False)}.items()
    ],
    "beavertails": [
        {"prompt": "p", "response": "bad", "is_safe": False},
        {"prompt": "p", "response": "good", "is_safe": True},
        {"prompt": "q", "response": "good", "is_safe": True},
    ],
    "hh_rlhf": [
        {"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: what"},
    ],
    "ultrafeedback": [
        {"prompt": "p", "chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "good"}],
         "rejected": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "bad"}]},
    ],
    "paper_cr": [
        {"id": 1, "safety": 0, "prompt": "h", "acc_responses": ["yes"], "rej_responses": ["no"]},
        {"id": 2, "safety": 1, "prompt": "b", "acc_responses": ["yes"], "rej_responses": ["no"]},
    ],
    "paper_pref": [
        {"id": 1, "safety": 0, "prompt": "h", "acc_responses": ["yes"], "rej_responses": ["no"]},
        {"id": 2, "safety": 1, "prompt": "b", "acc_responses": ["good"], "rej_responses": ["bad"]},
    ],
}  # fmt: skip
EXPECTED = {  # prompt, harmful, compliance, refusal, worse
    "safealigner": [("p", True, "yes", "no", "")],
    "alpaca": [("i", False, "o", "", "")],
    "pku_saferlhf": [("both", False, "b", "", "a"), ("one", True, "a", "b", "")],
    "beavertails": [("p", True, "bad", "good", "")],
    "hh_rlhf": [("hi", False, "hello", "", "what")],
    "ultrafeedback": [("p", False, "good", "", "bad")],
    "paper_cr": [("h", True, "yes", "no", ""), ("b", False, "yes", "no", "")],
    "paper_pref": [("h", True, "yes", "no", ""), ("b", False, "good", "", "bad")],
}


@pytest.mark.parametrize("name", ROWS)
def test_a_set_of_the_known_schema_becomes_requests(tmp_path: Path, name: str) -> None:
    path = tmp_path / SOURCES[name].files[0].path
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
    found = read_source(name, tmp_path)
    assert [request[:5] for request in found] == EXPECTED[name]
    assert all(request.cluster for request in found)


@pytest.mark.skipif("DIVALIGN_DATA" not in os.environ, reason="DIVALIGN_DATA names no folder of public prompt sets")
@pytest.mark.parametrize(
    ("name", "n", "harmful"),
    [
        ("advbench", 520, 520),
        ("harmbench", 300, 300),
        ("jailbreakbench", 200, 100),
        ("strongreject", 313, 313),
        ("xstest", 450, 200),
        ("malicious_instruct", 100, 100),
        ("alpaca", 2613, 0),
        ("alpaca_gpt4", 628, 0),
    ],
)
def test_the_public_files_have_their_published_sizes(name: str, n: int, harmful: int) -> None:
    found = read_source(name, Path(os.environ["DIVALIGN_DATA"]))
    assert (len(found), sum(request.harmful for request in found)) == (n, harmful)


def test_every_source_says_its_licence_and_where_it_is_published() -> None:
    for name, source in SOURCES.items():
        assert min(len(source.licence), len(source.source)) > 2, name
        assert len(source.files) == len(source.columns), name
        assert all(bool(file.url) != bool(file.hub) for file in source.files), name


def test_sources_are_joined_and_the_larger_class_cut(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}", "harmful": n % 3 == 0, "compliance": "c"} for n in range(30)]
    one, two = tmp_path / "one.jsonl", tmp_path / "two.csv"
    one.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with two.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows[:6])
    found = read_sources(f"file:{one}+file:{two}", None, seed=3)
    assert [request.harmful for request in found] == [True] * 10 + [False] * 10
    assert len({request.prompt for request in found}) == 20
    assert found == read_sources(f"file:{one}+file:{two}", None, seed=3)


def test_a_torn_line_is_set_aside_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "p", "harmful": true}\n{\n')
    assert len(read_source(f"file:{path}", None)) == 1
    assert "1 line of 2 set aside in own.jsonl.rejected.jsonl" in caplog.text
    path.write_text('{"promt": "p", "harmful": true}\n')
    with pytest.raises(ValueError, match="lacks the column 'prompt'; is it 'promt'"):
        read_source(f"file:{path}", None)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"prompt": None}, "row 2 has prompt=None, expected a text"),
        ({"prompt": 5}, "row 2 has prompt=5, expected a text"),
        ({"prompt": [{"role": "user", "content": "p"}]}, "row 2 has prompt=.*expected a text"),
        ({"prompt": "p", "compliance": ["x", "y"]}, "row 2 has compliance=.*expected a text"),
        ({"prompt": "p", "refusal": 3}, "row 2 has refusal=3, expected a text"),
        ({"prompt": "p", "cluster": ["x"]}, "row 2 has cluster=.*expected a text"),
        ({"prompt": "p", "harmful": "perhaps"}, "'perhaps', expected true or false"),
    ],
)
def test_a_row_of_ones_own_that_is_no_text_is_named(tmp_path: Path, row: dict, sentence: str) -> None:
    rows = [{"prompt": "first", "harmful": True}, {"harmful": True, **row}]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    with pytest.raises(ValueError, match=sentence):
        read_source(f"file:{path}", None)


def test_gaps_and_numbered_clusters_of_ones_own_rows_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "p", "harmful": true, "compliance": null, "worse": "w", "cluster": 3}\n')
    assert read_source(f"file:{path}", None) == [Request("p", True, "", "", "w", "3")]


def own_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the example of docs/extending.md on the path as `my_lab.sets`; return a folder with its file."""
    page = (Path(__file__).parents[2] / "docs/extending.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, flags=re.S) if "Source(" in block)
    (folder / "my_lab").mkdir()
    (folder / "my_lab" / "sets.py").write_text(code)
    (folder / "my_lab" / "tickets.csv").write_text("question,reply,bad\nfold a crane,gladly,no\nharm,sure,yes\n")
    monkeypatch.syspath_prepend(folder)
    return folder


def test_the_documented_source_of_ones_own_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = own_module(tmp_path, monkeypatch)
    found = read_source("my_lab.sets:tickets", folder)
    assert [(request.prompt, request.harmful) for request in found] == [("fold a crane", False), ("harm", True)]
    assert find_source("my_lab.sets:tickets").licence == "CC0"
    with pytest.raises(ValueError, match="is a function, expected a Source"):
        read_source("my_lab.sets:read", folder)


def test_a_source_that_needs_no_files_needs_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "made", Source(lambda: [Request("p", True, "", "", "", "")], (), (), "CC0", "here"))
    assert [request.cluster for request in read_source("made", None)] == ["made 0"]


def test_a_missing_file_an_unknown_source_and_another_version_are_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*harmful_behaviors\.csv"):
        read_source("advbench", tmp_path)
    with pytest.raises(ValueError, match="did you mean 'advbench'"):
        read_source("advbnch", tmp_path)
    with pytest.raises(ValueError, match="name the folder"):
        read_source("advbench", None)
    (tmp_path / "advbench").mkdir()
    (tmp_path / "advbench" / "harmful_behaviors.csv").write_text("goal,target\nother,version\n")
    with pytest.raises(ValueError, match="is not the version"):
        read_source("advbench", tmp_path)


def test_a_download_lands_in_the_folder_and_is_checked(tmp_path: Path) -> None:
    origin = tmp_path / "origin.txt"
    origin.write_text("hello\n")
    file = File("set/it.txt", origin.as_uri())
    assert fetched(file, tmp_path / "new", download=True).read_text() == "hello\n"
    with pytest.raises(ValueError, match="allow the download"):
        fetched(file, tmp_path / "other")
    with pytest.raises(ValueError, match="is not the version"):
        fetched(File("set/it.txt", origin.as_uri(), sha256="0" * 64), tmp_path / "third", download=True)
    with pytest.raises(ValueError, match="cannot be fetched"):
        fetched(File("x.txt", (tmp_path / "nothing").as_uri()), tmp_path, download=True)


def test_a_gated_set_without_a_token_says_how_to_log_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="hf auth login"):
        fetched(File("x.jsonl", hub="someone/gated", gated=True), tmp_path, download=True)
