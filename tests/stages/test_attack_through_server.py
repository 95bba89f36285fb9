"""`divalign attack` and `divalign judge` with target, attacker and judge on a real server on the loopback."""

import sys
from pathlib import Path
from typing import Any

import pytest

from divalign.cli import main
from divalign.store import read_json, read_rows, write_rows
from tests.lm.test_server import Fake, answer, fake, raw, status

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


def test_options_of_a_server_reach_target_attacker_and_judge(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "p.jsonl", [{"prompt": "about bridges"}])
    (tmp_path / "system.txt").write_text("Be brief.\n")
    out, prompts = tmp_path / "out", ["--prompts", str(tmp_path / "p.jsonl")]
    common = ["--attacks", "direct,pair", "--rounds", "1", "--attacker", f"{fake.url}#red", *prompts]
    options = ["--system-prompt", str(tmp_path / "system.txt"), "--temperature", "server", "--concurrency", "3"]
    run(monkeypatch, "attack", f"{fake.url}#lora-a", "--out", str(out), *common, *options)
    target = [body for body in fake.asked if body["model"] == "lora-a"]  # an adapter is a model's name
    assert all(body["messages"][0] == {"role": "system", "content": "Be brief."} for body in target)
    assert not any("temperature" in body for body in target)
    attacker = [body for body in fake.asked if body["model"] == "red"]
    assert attacker
    assert all(body["temperature"] == 0.0 and "Be brief" not in str(body) for body in attacker)

    asked = len(fake.asked)
    fake.script["all"] = [status(503), *[answer(content="verdict: unsafe")] * 9]
    judge = ["judge", str(out), "--judge", f"harm_rubric@{fake.url}#guard", "--temperature", "0.5"]
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *judge, "--retries", "0", "--concurrency", "1")
    assert ended.value.code == 1
    assert len(fake.asked) == asked + 1
    run(monkeypatch, *judge, "--timeout", "5")
    assert {body["temperature"] for body in fake.asked[asked:]} == {0.5}


def test_an_attack_on_several_servers_is_the_first_ones_and_resumes_with_it_alone(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Fake()
    write_rows(tmp_path / "p.jsonl", [{"prompt": f"about bridge {n}"} for n in range(9)])
    attack = ["attack", "--served-model", "m", "--prompts", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "out")]
    run(monkeypatch, *attack, "--server", f"{fake.url},{second.url}", "--concurrency", "1")
    second.close()
    assert {row["server"] for row in read_rows(tmp_path / "out" / "responses.jsonl")} == {fake.url, second.url}
    assert read_json(tmp_path / "out" / "attack.json")["target"] == f"{fake.url}#m"
    asked = len(fake.asked)
    run(monkeypatch, *attack, "--server", fake.url)
    assert len(fake.asked) == asked


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("attack", "toy", "--retries", "1"), "no model is on one"),
        (("attack", "toy", "--attacker", "http://h:1/v1#m", "--system-prompt", "x"), "toy is a local model"),
        (("attack", "http://h:1/v1#m", "--temperature", "hot"), "got the temperature 'hot'"),
        (("attack", "http://h:1/v1#m", "--timeout", "0"), "timeout=0.0"),
        (("attack", "http://h:1/v1,h:2/v1#m"), "the server's url is 'h:2/v1'"),
    ],
)
def test_options_without_effect_or_sense_are_refused(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *arguments, "--out", str(tmp_path / "out"))
    assert ended.value.code == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
