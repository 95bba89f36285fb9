"""`divalign data build`: sets from files, from the embedded world, and through a server that fails half-way."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from divalign.cli import main
from divalign.data.examples import Conversation, Request
from divalign.data.files import read_file
from divalign.data.rating import by_judge, by_reward
from divalign.data.sources import Source
from divalign.lm.responses import Response
from divalign.lm.server import Server
from divalign.stages.build_set import SetPlan, build_set
from divalign.stages.models import OpenModel, served_by
from divalign.store import read_json, read_rows
from tests.lm.test_reward import saved
from tests.lm.test_server import Fake, answer, drop, fake, raw, status

__all__ = ["fake"]


def prompts(path: Path, n: int = 12) -> Path:
    rows = [
        {"prompt": f"question {i}", "harmful": i % 2 == 0, "compliance": "Sure, here is it" if i % 2 == 0 else ""}
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def served(url: str, **options: object) -> OpenModel:
    server = Server(url, "m", api_key="secret-key-1", first_pause=0.01, timeout=1.0, **options)  # type: ignore[arg-type]

    return OpenModel("m", url, served_by(server), None)


def test_a_set_of_the_embedded_world_has_every_row_and_a_card(tmp_path: Path) -> None:
    card = build_set(SetPlan("toy", "cr", n=64, seed=3), tmp_path / "set.jsonl")
    rows = read_rows(tmp_path / "set.jsonl")
    assert len(rows) == card["rows"] == 64
    assert sum(row["harmful"] for row in rows) == 32
    assert card == read_json(tmp_path / "set.jsonl.card.json")
    assert card["sources"]["toy"]["licence"] == "Apache-2.0"
    again = build_set(SetPlan("toy", "cr", n=64, seed=3), tmp_path / "again.jsonl")
    assert again["sha256"] == card["sha256"]


def test_a_set_is_a_file_of_the_kind_that_its_name_says(tmp_path: Path) -> None:
    what = SetPlan("toy", "cr_plus(0.5)", n=64, seed=3)
    build_set(what, tmp_path / "set.jsonl")
    build_set(what, tmp_path / "set.parquet")
    rows = [{k: v for k, v in row.items() if v is not None} for row in read_file(tmp_path / "set.parquet").rows]
    assert rows == read_rows(tmp_path / "set.jsonl")
    with pytest.raises(ValueError, match=r"ends in \.xlsx; expected one of \.jsonl"):
        build_set(what, tmp_path / "set.xlsx")


def test_a_source_of_ones_own_states_its_licence_on_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("my_lab")
    requests = [Request(f"p {n}", n % 2 == 0, "c", "", "", "") for n in range(8)]
    module.made = Source(lambda: requests, (), (), "CC0", "our lab")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_lab", module)
    card = build_set(SetPlan("my_lab:made", "cr"), tmp_path / "set.jsonl")
    assert card["licence"] == "CC0"
    assert card["sources"]["my_lab:made"] == {"licence": "CC0", "published": "our lab"}


@pytest.mark.parametrize("n", [0, 1, -2])
def test_fewer_rows_than_one_of_each_class_are_refused(tmp_path: Path, n: int) -> None:
    with pytest.raises(ValueError, match=f"n is {n}, expected at least 2"):
        build_set(SetPlan("toy", "cr", n=n), tmp_path / "set.jsonl")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif("DIVALIGN_DATA" not in os.environ, reason="DIVALIGN_DATA names no folder of public prompt sets")
@pytest.mark.parametrize("recipe", ["cr", "pref", "ranked", "cr_plus"])
def test_advbench_and_alpaca_make_a_set(tmp_path: Path, recipe: str) -> None:
    folder = Path(os.environ["DIVALIGN_DATA"])
    card = build_set(SetPlan("advbench+alpaca", recipe), tmp_path / "set.jsonl", folder=folder)
    assert (card["rows"], card["left_out"]) == (1040, {})
    assert card["sources"]["alpaca"]["licence"] == "CC BY-NC 4.0"


def test_a_server_that_drops_limits_and_truncates_fills_the_answers(tmp_path: Path, fake: Fake) -> None:
    fake.script = {
        "question 1": [drop, answer()],
        "question 3": [status(429, Retry_After="0"), answer()],
        "question 5": [raw(b"<html>busy</html>"), answer()],
        "question 7": [raw(b'{"choices": [{"mess'), answer()],
    }
    source = prompts(tmp_path / "prompts.jsonl")
    card = build_set(SetPlan(f"file:{source}", "cr"), tmp_path / "set.jsonl", writer=served(fake.url))
    assert (card["rows"], card["left_out"]) == (12, {})
    benign = [row for row in read_rows(tmp_path / "set.jsonl") if not row["harmful"]]
    assert {row["chosen"][0]["content"] for row in benign} == {f"answer to question {i}" for i in range(1, 12, 2)}
    assert all("secret-key-1" not in path.read_text() for path in tmp_path.iterdir())


def test_a_server_that_stops_half_way_loses_nothing_and_the_build_goes_on(tmp_path: Path, fake: Fake) -> None:
    source, out = prompts(tmp_path / "prompts.jsonl"), tmp_path / "set.jsonl"
    fake.script = {f"question {i}": [status(503)] * 2 for i in (9, 11)}
    with pytest.raises(ConnectionError, match="Responses that came are kept"):
        build_set(SetPlan(f"file:{source}", "cr"), out, writer=served(fake.url, attempts=2, concurrency=1))
    assert not out.exists()
    came = len(read_rows(tmp_path / "set.journal"))
    before, fake.script = len(fake.asked), {}
    assert build_set(SetPlan(f"file:{source}", "cr"), out, writer=served(fake.url))["rows"] == 12
    assert came >= 4
    assert len(fake.asked) - before == 6 - came


SCRIPT = {
    "question 1": Response("<think>Hm. Rye.</think>\n\nTake rye flour. Then add", "length"),
    "question 3": Response("<think>\nThe user asks. Which flour should I", "length"),
    "question 5": Response("flour, water, salt and", "length"),
    "question 7": Response("bread " * 20),
    "question 9": Response("  "),
    "question 11": Response("* flour\n* water"),
}


def scripted(script: dict[str, Response]) -> OpenModel:
    def generate(conversations: Sequence[Conversation], *, on_response: Any, **_: Any) -> list[Response]:
        for place, one in enumerate(conversations):
            on_response(place, script[one.messages[-1]["content"]])
        return []

    return OpenModel("scripted", "key of scripted", generate, None)


def test_thoughts_cut_answers_and_loops_of_the_writer_make_no_rows_and_are_counted(tmp_path: Path) -> None:
    source = prompts(tmp_path / "prompts.jsonl")
    card = build_set(SetPlan(f"file:{source}", "cr"), tmp_path / "set.jsonl", writer=scripted(SCRIPT))
    reasons = {"an incomplete answer": 2, "a degenerate answer": 1, "an empty answer": 1}
    assert (card["rows"], card["left_out"]) == (8, reasons)
    benign = [row for row in read_rows(tmp_path / "set.jsonl") if not row["harmful"]]
    assert [row["chosen"][0]["content"] for row in benign] == ["Take rye flour.", "* flour\n* water"]


def test_a_writer_whose_every_answer_is_cut_builds_no_set_of_harmful_prompts_alone(tmp_path: Path) -> None:
    source = prompts(tmp_path / "prompts.jsonl")
    writer = scripted({f"question {i}": Response("<think>Hm", "length") for i in range(1, 12, 2)})
    with pytest.raises(ValueError, match=r"none of the 6 benign prompts has .*: 6 with an incomplete answer; raise"):
        build_set(SetPlan(f"file:{source}", "cr"), tmp_path / "set.jsonl", writer=writer)
    assert not (tmp_path / "set.jsonl").exists()


def test_a_writer_that_thinks_before_its_letter_ranks(tmp_path: Path) -> None:
    source = tmp_path / "ranked.jsonl"
    source.write_text(json.dumps({"prompt": "q", "harmful": False, "compliance": "a b", "worse": "c"}) + "\n")

    def generate(conversations: Sequence[Conversation], *, on_response: Any, **_: Any) -> list[Response]:
        for place, one in enumerate(conversations):
            question = one.messages[-1]["content"]
            letter = "A" if question.index("\na b\n") < question.index("\nc\n") else "B"
            on_response(place, Response(f"<think>Hm.</think>\n{letter}"))
        return []

    writer = OpenModel("scripted", "key of scripted", generate, None)
    card = build_set(SetPlan(f"file:{source}", "ranked"), tmp_path / "set.jsonl", writer=writer, rater=_judge)
    assert card["rows"] == 1


def test_a_judge_ranks_through_the_same_memory(tmp_path: Path, fake: Fake) -> None:
    source = tmp_path / "ranked.jsonl"
    rows = [{"prompt": f"q{i}", "harmful": False, "compliance": "a", "worse": "b", "refusal": "r"} for i in range(3)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fake.script = {"all": [answer(content="A") for _ in range(6)]}
    with pytest.raises(ValueError, match="no worse response to rank"):  # a judge that always says A decides nothing
        build_set(SetPlan(f"file:{source}", "ranked"), tmp_path / "set.jsonl", writer=served(fake.url), rater=_judge)
    assert len(fake.asked) == 6
    card = build_set(
        SetPlan(f"file:{source}", "ranked"), tmp_path / "set.jsonl",
        rater=lambda write: by_reward(lambda pairs: [float(answer == "b") for _, answer in pairs]),
    )  # fmt: skip
    assert card["rows"] == 3
    assert {row["chosen"][0]["content"] for row in read_rows(tmp_path / "set.jsonl")} == {"b"}


def _judge(write):
    assert write is not None
    return by_judge(write)


def test_the_command_builds_and_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def divalign(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["divalign", "data", *words])
        try:
            main()
        except SystemExit as done:
            return int(done.code or 0)
        return 0

    out = tmp_path / "set.jsonl"
    assert divalign("build", "toy", "--recipe", "cr_plus(0.5)", "--n", "64", "--out", str(out)) == 0
    assert len(read_rows(out)) == 64
    assert divalign("audit", str(out)) == 0
    assert "licence" in capsys.readouterr().out
    for words, sentence in (
        (("build", "tpy", "--out", str(out)), "no source is named 'tpy'"),
        (("build", "toy", "--recipe", "crr", "--out", str(out)), "no recipe is named 'crr'"),
        (("build", "toy", "--rater", "judge", "--out", str(out)), "--rater judge needs --writer"),
    ):
        assert divalign(*words) == 2
        assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_local_model_answers_and_a_reward_model_ranks_by_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, reward = prompts(tmp_path / "prompts.jsonl", n=4), saved(tmp_path / "reward", 1)
    words = [
        "build",
        f"file:{source}",
        "--writer",
        "toy",
        "--max-new-tokens",
        "8",
        "--out",
        str(tmp_path / "set.jsonl"),
    ]
    monkeypatch.setattr(sys, "argv", ["divalign", "data", *words])
    main()
    rows = read_rows(tmp_path / "set.jsonl")
    assert len(rows) == 4
    assert all(row["chosen"][0]["content"].strip() for row in rows)
    assert read_json(tmp_path / "set.jsonl.card.json")["written_by"] == "toy"
    words = [
        "build",
        "toy",
        "--n",
        "8",
        "--recipe",
        "pref",
        "--rater",
        f"reward:{reward}",
        "--out",
        str(tmp_path / "r.jsonl"),
    ]
    monkeypatch.setattr(sys, "argv", ["divalign", "data", *words])
    main()
    assert len(read_rows(tmp_path / "r.jsonl")) == 8
