"""The terminal says where to start, ends every help with examples that work, and every failure with one sentence."""

import errno
import io
import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from rich.console import Console

from divalign.cli import doctor, main, show
from divalign.cli.errors import ending
from divalign.core.stats import Estimate
from divalign.lab import claims
from tests.cli.test_main import call, verbs
from tests.test_docs import arguments, key_exists, verb_of

ROOT = Path(__file__).parents[2]
EXAMPLE = re.compile(r"Example: (divalign .+)")
# Examples that need no run before them and no minutes; each is done in an empty folder with ROWS.jsonl and PROMPTS.csv.
QUICK = ("divalign init", "divalign doctor", "divalign data", "divalign report --paper", "divalign judge --help")


def examples() -> list[tuple[str, str]]:
    """Return every verb's name with each of its examples, as its help ends with them."""
    return [(name, text) for name, verb in verbs().items() for text in EXAMPLE.findall(verb.epilog or "")]


def test_without_a_word_it_says_where_to_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch) == 0
    text = capsys.readouterr().out
    commands = re.findall(r"^  (divalign .+?)(?:  |$)", text, flags=re.M)
    assert len(commands) >= 4
    for command in commands[:-1]:
        verb_of(arguments(command))
    assert commands[-1] == "divalign --help"


def test_every_verb_ends_its_help_with_an_example() -> None:
    named = {name for name, _ in examples()}
    assert set(verbs()) - named == {"data"}  # a group, whose verbs have theirs


@pytest.mark.parametrize(("name", "text"), examples(), ids=[text for _, text in examples()])
def test_an_example_parses_and_names_what_exists(name: str, text: str) -> None:
    assert text.startswith(f"divalign {name}")
    verb, words = verb_of(arguments(text.partition(" > ")[0]))
    with verb.make_context("divalign", list(words)):
        pass
    assert [word for word in words if word.startswith("configs/") and not (ROOT / word).is_file()] == []
    assert all(key_exists(word.partition("=")[0]) for flag, word in pairwise(words) if flag == "--set")


@pytest.mark.parametrize("text", [text for _, text in examples() if text.startswith(QUICK) and "--trainer" not in text])
def test_an_example_runs(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [{"prompt": f"Where is bridge {n}?", "chosen": f"At mile {n}.", "rejected": "No."} for n in range(40)]
    (tmp_path / "ROWS.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    (tmp_path / "PROMPTS.csv").write_text("prompt\nHow tall is a tower?\n")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(text.partition(" > ")[0])[1:]
    code = call(monkeypatch, *words)
    assert code == 0 or (code == 1 and "audit" in words), capsys.readouterr().err  # 40 rows are too few to train on


def failing_with(monkeypatch: pytest.MonkeyPatch, error: Exception, *words: str) -> int:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(claims, "run", fail)
    return call(monkeypatch, *words, "lab", "--out", "nowhere")


ERRORS = {
    "a fault of ours": (KeyError("rows"), "KeyError: 'rows'; this is a fault of divalign: run it again with --debug"),
    "a full disk": (
        OSError(errno.ENOSPC, "No space left on device"),
        "the disk is full ([Errno 28] No space left on device); make room",
    ),
    "a long name": (OSError(errno.ENAMETOOLONG, "File name too long", "/a"), "choose a shorter --out"),
    "no access": (PermissionError(errno.EACCES, "Permission denied", "/a"), "choose a place that you may read"),
    "no memory": (MemoryError(), "MemoryError; lower --batch-size"),
    "no GPU memory": (torch.OutOfMemoryError("CUDA out of memory.\nLong."), "CUDA out of memory.; lower --batch-size"),
    "no package": (ImportError("no module named x"), "no module named x; install what is missing"),
    "no server": (ConnectionError("http://a failed 6 times"), "http://a failed 6 times"),
}


@pytest.mark.parametrize(("error", "sentence"), ERRORS.values(), ids=ERRORS)
def test_a_failure_is_one_sentence_with_a_hint_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, sentence: str
) -> None:
    assert failing_with(monkeypatch, error) == 1
    text = capsys.readouterr().err
    assert text.startswith("failed: ")
    assert sentence in text
    assert "Traceback" not in text
    assert text.count("\n") == 1


def test_debug_alone_says_where_to_start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "--debug") == 0
    assert "Where to start" in capsys.readouterr().out


@pytest.mark.parametrize("error", [KeyError("rows"), ValueError("a bad value")])
def test_debug_shows_the_traceback_before_a_verb_and_behind_it(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with pytest.raises(type(error)):
        failing_with(monkeypatch, error, "--debug")
    monkeypatch.setattr(sys, "argv", ["divalign", "lab", "--out", "nowhere", "--debug"])
    with pytest.raises(type(error)):
        main()


def test_a_bad_value_is_an_error_of_input() -> None:
    assert ending(ValueError("got 1, expected 2")) == (2, "got 1, expected 2")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let SIGINT interrupt: a shell's background process, which these tests may run in, ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_in_the_midst_of_the_work_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    monkeypatch.setattr(claims, "run", interrupted)
    assert call(monkeypatch, "lab", "--worlds", "3", "--out", "no where") == 130
    text = capsys.readouterr().err
    assert "the same command goes on from here: divalign lab --worlds 3 --out 'no where'" in text
    assert "Traceback" not in text


def test_the_shell_completes_verbs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"_DIVALIGN_COMPLETE": "complete_bash", "COMP_WORDS": "divalign sep", "COMP_CWORD": "1"}.items():
        monkeypatch.setenv(name, value)
    call(monkeypatch, "x")
    assert capsys.readouterr().out.split() == ["separate"]


def report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = call(monkeypatch, "doctor")
    return code, " ".join(capsys.readouterr().out.split())


def test_the_doctor_finds_a_healthy_machine_and_hides_the_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIVALIGN_API_KEY", "a-secret")
    code, text = report(monkeypatch, capsys)
    assert code == 0
    assert all(name in text for name in ("Python", "torch", "device", "memory", "disk", "cache", "write access"))
    assert "DIVALIGN_API_KEY is set" in text
    assert "a-secret" not in text


ILLS: dict[str, tuple[Any, str, Any, str]] = {
    "little disk": (shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0), "make room"),
    "little memory": (psutil, "virtual_memory", lambda: type("M", (), {"available": 1e6}), "close other programs"),
    "an old package": (
        doctor,
        "_version",
        lambda name: "0.1" if name == "torch" else "99",
        "pip install --upgrade 'torch",
    ),
    "no place": (doctor, "can_write", lambda _: False, "set DIVALIGN_CACHE to a folder"),
}


@pytest.mark.parametrize("ill", ILLS)
def test_the_doctor_names_what_is_missing_with_a_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ill: str
) -> None:
    module, name, value, fix = ILLS[ill]
    monkeypatch.setattr(module, name, value)
    code, text = report(monkeypatch, capsys)
    assert code == 1
    assert fix in text
    assert "mend first:" in text


def test_a_driver_without_its_torch_is_a_hint_and_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    code, text = report(monkeypatch, capsys)
    assert code == 0
    assert "install a CUDA build" in text


def test_a_folder_that_is_not_there_is_written_into_its_parent(tmp_path: Path) -> None:
    assert doctor.can_write(tmp_path / "a" / "b")
    if os.geteuid():  # root may write anywhere
        tmp_path.chmod(0o500)
        assert not doctor.can_write(tmp_path / "a")


def test_a_table_that_is_too_wide_becomes_paragraphs_that_hold_all_of_it() -> None:
    content = show.table("Rates in %", ["model"], ["direct", "prefill", "over-refusal"])
    for name in ("base", "a model with a long name"):
        content.add_row(name, *(show.percent(Estimate(0.87, 0.79, 0.93, 96)) for _ in range(3)))
    wide, narrow = (Console(width=width, record=True, file=io.StringIO()) for width in (160, 60))
    for console in (wide, narrow):
        console.print(show.fitted(content, console))
    assert "┃ model" in wide.export_text()
    text = narrow.export_text()
    assert "…" not in text
    assert "┃" not in text
    assert text.startswith("Rates in %")
    for head in ("direct", "prefill", "over-refusal"):
        assert " ".join(text.split()).count(f"{head} 87.0 [79.0, 93.0] of 96") == 2
