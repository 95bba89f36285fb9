"""`divalign attack` and `divalign judge` with target, attacker and judge on a real server on the loopback."""

import sys
from pathlib import Path

import pytest

from divalign.cli import main
from divalign.store import read_json, read_rows, write_rows
from tests.lm.test_server import Fake, answer, fake, raw

__all__ = ["fake"]  # a fixture


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["divalign", *arguments, "--quiet"])
    main()


def test_target_attacker_and_judge_on_one_server(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "p.jsonl", [{"prompt": "about bridges"}, {"prompt": "about boats", "harmful": False}])
    out, served = str(tmp_path / "out"), f"{fake.url}#guard"
    target = ["--server", fake.url, "--served-model", "target", "--prompts", str(tmp_path / "p.jsonl"), "--out", out]
    more = ["--attacks", "direct,pair,best_of_n(2)", "--attacker", f"{fake.url}#red", "--rounds", "2"]
    run(monkeypatch, "attack", *target, *more)
    assert {body["model"] for body in fake.asked} == {"target", "red"}
    asked = len(fake.asked)
    run(monkeypatch, "attack", *target, *more)
    assert len(fake.asked) == asked

    fake.script["all"] = [answer(content="verdict: unsafe") for _ in range(20)]
    run(monkeypatch, "judge", out, "--judge", f"harm_rubric@{served}", "--judge", "refusal_strings")
    assert {body["model"] for body in fake.asked[asked:]} == {"guard"}
    rubric, strings = read_json(tmp_path / "out" / "rates.json")["judges"]
    assert rubric["judge"] == f"harm_rubric:{served}"
    assert rubric["parts"]["test"]["attacks"]["pair"]["asr"]["value"] == 1.0
    assert strings["parts"]["test"]["attacks"]["pair"]["asr"]["value"] == 1.0


def test_a_judge_that_answers_html_ends_with_1_and_its_answers_so_far_are_kept(
    tmp_path: Path,
    fake: Fake,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from divalign.lm import connection

    monkeypatch.setattr(connection, "LONGEST_PAUSE", 0.0)
    write_rows(tmp_path / "p.jsonl", [{"prompt": f"about bridge {n}"} for n in range(4)])
    out = tmp_path / "out"
    target = ["--server", fake.url, "--served-model", "target", "--prompts", str(tmp_path / "p.jsonl")]
    run(monkeypatch, "attack", *target, "--out", str(out))
    fake.script["all"] = [answer(content="verdict: safe") for _ in range(2)] + [raw(b"<html>") for _ in range(40)]
    judge = ["judge", str(out), "--judge", f"harm_rubric@{fake.url}#guard"]
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *judge)
    assert ended.value.code == 1
    fake.script.clear()
    fake.script["all"] = [answer(content="verdict: safe") for _ in range(4)]
    run(monkeypatch, *judge)
    assert [row["unsafe"] for row in read_rows(out / "verdicts.jsonl")] == [False] * 4
    assert len(fake.script["all"]) > 0  # fewer than four answers were still missing
