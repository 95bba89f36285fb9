"""Sources read files of each set's schema; what is wrong with a file is said."""

import csv
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from divalign.data.examples import Request
from divalign.data.fetch import File, fetched
from divalign.data.sources import SOURCES, Source, find_source, gather_requests, read_source, read_sources
from tests.messages import said

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


GAPS = {
    "paper_cr": [
        {"safety": 1, "prompt": "b", "acc_responses": [], "rej_responses": ["no"]},
        {"safety": 0, "prompt": "none", "acc_responses": [], "rej_responses": []},
        {"safety": None, "prompt": "none", "acc_responses": ["yes"], "rej_responses": ["no"]},
        {"safety": "False", "prompt": "h", "acc_responses": "yes", "rej_responses": []},
    ],
    "ultrafeedback": [
        {"prompt": "none", "chosen": [], "rejected": []},
        {"prompt": "p", "chosen": said("good"), "rejected": said("bad")},
    ],
    "pku_saferlhf": [
        {"prompt": prompt, "response_0": "a", "response_1": "b", "is_response_0_safe": first,
         "is_response_1_safe": second, "better_response_id": better}
        for prompt, first, second, better in
        [("p", "False", "True", None), ("none", None, True, 0), ("none", True, True, None), ("q", "true", 1, "1")]
    ],
    "beavertails": [
        {"prompt": "p", "response": "bad", "is_safe": "False"},
        {"prompt": "p", "response": "good", "is_safe": "True"},
        {"prompt": "none", "response": "unknown", "is_safe": None},
        {"prompt": "none", "response": "good", "is_safe": True},
    ],
}  # fmt: skip
WITHOUT_GAPS = {
    "paper_cr": [("b", False, "", "no", ""), ("h", True, "yes", "", "")],
    "ultrafeedback": [("p", False, "good", "", "bad")],
    "pku_saferlhf": [("p", True, "a", "b", ""), ("q", False, "b", "", "a")],
    "beavertails": [("p", True, "bad", "good", "")],
}


@pytest.mark.parametrize("name", GAPS)
def test_a_row_of_a_set_that_says_too_little_is_left_out(name: str) -> None:
    assert [request[:5] for request in SOURCES[name].load(GAPS[name])] == WITHOUT_GAPS[name]


def test_a_response_that_is_neither_safe_nor_unsafe_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"the prompt 'How do ships float' .*'is_safe' holds 'maybe', expected true or"
    ):
        SOURCES["beavertails"].load([{"prompt": "How do ships float", "response": "a", "is_safe": "maybe"}])


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"prompt": None}, r"own\.jsonl, line 4: it has prompt=None, expected a text"),
        ({"prompt": 5}, r"own\.jsonl, line 4: it has prompt=5, expected a text"),
        ({"prompt": [{"role": "user", "content": "p"}]}, r"own\.jsonl, line 4: it has prompt=.*expected a text"),
        ({"prompt": "p", "compliance": ["x", "y"]}, r"own\.jsonl, line 4: it has compliance=.*expected a text"),
        ({"prompt": "p", "refusal": 3}, r"own\.jsonl, line 4: it has refusal=3, expected a text"),
        ({"prompt": "p", "cluster": ["x"]}, r"own\.jsonl, line 4: it has cluster=.*expected a text"),
        (
            {"prompt": "p", "harmful": "perhaps"},
            r"own\.jsonl, line 4: the column 'harmful' holds 'perhaps', expected true or false",
        ),
    ],
)
def test_a_row_of_ones_own_that_is_no_text_is_named(tmp_path: Path, row: dict, sentence: str) -> None:
    rows = [{"prompt": "first", "harmful": True}, {"harmful": True, **row}]
    path = tmp_path / "own.jsonl"
    path.write_text("\ntorn\n\n".join(json.dumps(row) for row in rows) + "\n\n")
    with pytest.raises(ValueError, match=sentence):
        read_source(f"file:{path}", None)


def test_gaps_and_numbered_clusters_of_ones_own_rows_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    for number in ("3", "3.0"):  # a table with gaps types whole numbers as floats
        row = f'{{"prompt": "p", "harmful": true, "compliance": null, "worse": "w", "cluster": {number}}}'
        path.write_text(f"{row}\n")
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


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Serve a folder with one file on a port of this machine; yield its address."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "it.txt").write_text("hello\n")
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(tmp_path / "www")))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_download_lands_in_the_folder_and_is_checked(tmp_path: Path, served: str) -> None:
    file = File("set/it.txt", f"{served}/it.txt")
    before = os.umask(0o027)
    try:
        place = fetched(file, tmp_path / "new", download=True)
    finally:
        os.umask(before)
    assert place == tmp_path / "new" / "set" / "it.txt"
    assert place.read_text() == "hello\n"
    assert place.stat().st_mode & 0o777 == 0o640
    assert fetched(file, tmp_path / "new" / "set") == place
    with pytest.raises(ValueError, match="allow the download"):
        fetched(file, tmp_path / "other")
    with pytest.raises(ValueError, match="is not the version"):
        fetched(File("set/it.txt", file.url, sha256="0" * 64), tmp_path / "third", download=True)
    assert list((tmp_path / "third" / "set").iterdir()) == []
    with pytest.raises(ValueError, match=r"cannot be fetched .*404.*; fetch it by hand to"):
        fetched(File("x.txt", f"{served}/nothing"), tmp_path, download=True)


def test_a_file_of_another_version_is_kept_though_it_could_be_fetched(tmp_path: Path, served: str) -> None:
    (tmp_path / "it.txt").write_text("mine\n")
    right = hashlib.sha256(b"hello\n").hexdigest()
    with pytest.raises(ValueError, match="is not the version this source was written for"):
        fetched(File("set/it.txt", f"{served}/it.txt", sha256=right), tmp_path, download=True)
    assert (tmp_path / "it.txt").read_text() == "mine\n"


def test_a_gated_set_without_a_token_says_how_to_log_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="hf auth login"):
        fetched(File("x.jsonl", hub="someone/gated", gated=True), tmp_path, download=True)


def test_what_is_left_out_of_sources_is_counted(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n // 2}", "harmful": n > 6} for n in range(10)]  # 4 stands twice, 3 in both classes
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "alpaca_sample.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS["alpaca"]))
    found = gather_requests(f"file:{tmp_path / 'own.jsonl'}+alpaca", tmp_path)
    assert found.left_out == {
        "a prompt that occurs twice": 4,
        "a prompt that an earlier request puts into the other class": 1,
        "no use for this in a row of alpaca": 1,
        "a class that has more prompts than the other": 4,
    }
    assert len(found.requests) == 2


def test_prompts_that_differ_in_case_share_a_cluster_across_sources(tmp_path: Path) -> None:
    for name, text in (("one", "Describe the sea at night."), ("two", "describe THE sea at night")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"prompt": text, "harmful": True, "cluster": name}) + "\n")
    found = read_sources(f"file:{tmp_path / 'one.jsonl'}+file:{tmp_path / 'two.jsonl'}", None)
    assert [request.cluster for request in found] == ["one", "one"]


def test_a_text_file_of_another_encoding_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Source(lambda rows: [Request(row["text"], True, "", "", "", "") for row in rows],
                   (File("set/it.txt"),), (("text",),), "CC0", "here")  # fmt: skip
    monkeypatch.setitem(SOURCES, "made", lines)
    (tmp_path / "it.txt").write_bytes("Où est la mer ?\nAnd the sky?\n".encode("utf-16"))
    assert [request.prompt for request in read_source("made", tmp_path)] == ["Où est la mer ?", "And the sky?"]


def own_sources(folder: Path, *tables: list[dict]) -> str:
    """Write tables of one's own and return their name as sources."""
    for number, rows in enumerate(tables):
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "+".join(f"file:{folder}/{number}.jsonl" for number in range(len(tables)))


RISES = {"prompt": "Tell me how bread rises", "harmful": False}
TURN = {"prompt": "Name the parts of a windmill", "harmful": True}


def test_of_equal_prompts_the_request_with_an_answer_stays(tmp_path: Path) -> None:
    answered = {**RISES, "compliance": "Yeast makes gas."}
    for rows in ([RISES, answered], [answered, RISES], [answered, {**answered, "compliance": "It is warm."}]):
        gathered = gather_requests(own_sources(tmp_path, [*rows, TURN]), None)
        assert [request.compliance for request in gathered.requests] == ["", "Yeast makes gas."]
        assert gathered.left_out == {"a prompt that occurs twice": 1}


def test_equal_prompts_of_two_classes_are_counted_apart(tmp_path: Path) -> None:
    other = {**RISES, "harmful": True, "compliance": "Yeast makes gas."}
    gathered = gather_requests(own_sources(tmp_path, [RISES, TURN], [other]), None)
    assert [request.harmful for request in gathered.requests] == [True, False]
    assert gathered.left_out == {"a prompt that an earlier request puts into the other class": 1}
