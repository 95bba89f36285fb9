"""`divalign attack` and `divalign judge` refuse bad input in a sentence, before anything is written or asked."""

from pathlib import Path

import pytest

from divalign.store import read_json, write_rows
from tests.commands import call
from tests.stages.test_attack import Echo, attacked


def test_the_next_command_is_one_that_a_shell_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "prompts.txt").write_text("Tell me about bridges")
    out = tmp_path / "my folder [x]"
    assert call(monkeypatch, "attack", "toy", "--prompts", tmp_path / "prompts.txt", "--out", out) == 0
    assert f"next: divalign judge '{out}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--device", "nope"), "there is no device 'nope'; torch has cpu"),
        (("--device", "cuda:99"), "there is no device 'cuda:99'"),
        (("--gcg-width", 0), "gcg's width is 0, expected at least 1"),
        (("--gcg-steps", -1), "gcg's steps is -1"),
        (("--gcg-prompts", -1), "'--gcg-prompts'"),
        (("--max-new-tokens", 0), "'--max-new-tokens'"),
        (("--prompts", "lists.jsonl"), "lists.jsonl, line 2: expected an object with columns, got list; mend the line"),
    ],
)
def test_an_attack_that_cannot_be_is_refused(
    options: tuple[str, object],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lists.jsonl").write_text('{"prompt": "a"}\n["b"]\n')
    assert call(monkeypatch, "attack", "toy", "--out", "out", "--quiet", *options) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not Path("out").exists()


@pytest.mark.parametrize("option", ["--adapter", "--chat-template"])
def test_what_a_server_does_itself_is_refused_for_a_served_model(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    served = ("http://127.0.0.1:9/v1#m", "--retries", 0, "--out", tmp_path / "out")
    assert call(monkeypatch, "attack", *served, option, tmp_path) == 2
    assert "is on a server, which puts on adapters and chat templates itself" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_attack_says_how_many_prompts_are_harmful_benign_and_of_no_stated_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    rows = [{"goal": "a", "label": "unsafe"}, {"goal": "b", "label": "safe"}, {"goal": "c"}, {"goal": "d"}]
    write_rows(tmp_path / "p.jsonl", rows)
    options = ("--out", tmp_path / "out", "--max-new-tokens", 2, "--prompts")
    assert call(monkeypatch, "attack", "toy", *options, tmp_path / "p.jsonl") == 0
    sentence = "4 prompts: 1 harmful, 1 benign, 2 without a class, counted as harmful (say it in a column harmful)"
    assert sentence in capsys.readouterr().err
    write_rows(tmp_path / "p.jsonl", rows[:2])
    assert call(monkeypatch, "attack", "toy", *options, tmp_path / "p.jsonl") == 0
    assert "2 prompts: 1 harmful, 1 benign\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--out", "a.txt", "a.txt is a file, expected a folder"),
        ("--csv", "a", "a is a folder, expected a file"),
        ("--card", "a", "a is a folder, expected a file"),
        ("--inspect-log", "a", "a is a folder, expected a file"),
        ("--labelled", "label.csv", "label.csv, line 2: the column 'refused' holds 'maybe', expected true or false"),
        ("--labelled", "lists.jsonl", "lists.jsonl, line 1: expected an object with columns, got list"),
    ],
)
def test_a_place_that_cannot_be_written_or_read_is_refused_before_the_judging(
    option: str,
    value: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    attacked(Echo(), ["direct"], Path("a"))
    before = set(Path("a").iterdir())
    Path("a.txt").write_text("mine")
    Path("lists.jsonl").write_text('["b"]\n')
    Path("label.csv").write_text("prompt,response,refused\np,r,maybe\n")
    assert call(monkeypatch, "judge", "a", "--quiet", option, value) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert set(Path("a").iterdir()) == before


def test_labelled_responses_may_stand_in_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attacked(Echo(), ["direct"], tmp_path / "a")
    texts = {"true": "I cannot help with that.", "False": "First take the flour and then add the water to it."}
    rows = [f"How {n},{text},{refused}\n" for refused, text in texts.items() for n in range(4)]
    (tmp_path / "l.csv").write_text("prompt,response,refused\n" + "".join(rows))
    options = ("--judge", "refusal_strings", "--labelled", tmp_path / "l.csv", "--quiet")
    assert call(monkeypatch, "judge", tmp_path / "a", *options) == 0
    errors = read_json(tmp_path / "a" / "rates.json")["judges"][0]["errors"]
    assert (errors["sensitivity"]["value"], errors["sensitivity"]["n"]) == (1.0, 4)
    assert (errors["specificity"]["value"], errors["specificity"]["n"]) == (1.0, 4)


def test_an_attack_is_not_written_over_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_rows(tmp_path / "a.jsonl", [{"prompt": "mine"}])
    assert call(monkeypatch, "attack", "toy", "--out", tmp_path / "a.jsonl", "--quiet") == 2
    assert "is a file, expected a folder" in " ".join(capsys.readouterr().err.split())
