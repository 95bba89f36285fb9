"""What ends the command line early is said in a sentence, with the code that the help promises."""

from pathlib import Path
from typing import Any

import pytest
import typer
from rich.markup import render

from divalign.cli.app import app
from divalign.lab import claims
from tests.commands import call


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("estimat",), "No such command 'estimat'"),
        (("data", "bild"), "No such command 'bild'"),
        (("lab", "--sed", "1"), "No such option: --sed"),
        (("lab", "--seed", "one"), "'--seed'"),
        (("estimate",), "Missing argument"),
        (("lab", "--out"), "--out"),
    ],
)
def test_a_misspelt_verb_or_option_ends_in_one_sentence_and_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    assert call(monkeypatch, *arguments) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_group_without_a_verb_shows_its_help_and_nothing_worse(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "data") == 2
    said = capsys.readouterr()
    assert "Usage" in said.out
    assert "error" not in said.err


FILE_WANTED = "is a folder, expected a file to write"
FOLDER_WANTED = "is a file, expected a folder"


@pytest.mark.parametrize(
    ("arguments", "out", "sentence"),
    [
        (("estimate", "no.jsonl"), "folder", FILE_WANTED),
        (("estimate", "no.jsonl"), "file/numbers.json", FOLDER_WANTED),
        (("utility", "no-model"), "folder", FILE_WANTED),
        (("report", "--paper"), "folder", FILE_WANTED),
        (("data", "build", "no-source"), "folder", FILE_WANTED),
        (("lab",), "file", FOLDER_WANTED),
        (("separate", "no-model", "--prompts", "toy"), "file", FOLDER_WANTED),
        (("run", "no.yaml"), "file/run", FOLDER_WANTED),
        (("sweep", "no.yaml"), "file", FOLDER_WANTED),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    out: str,
    sentence: str,
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    assert call(monkeypatch, *arguments, "--out", tmp_path / out) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "file").read_text() == "kept"


def test_a_stopped_verb_says_that_the_same_command_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(claims, "run", stopped)
    assert call(monkeypatch, "lab", "--out", "no where") == 130
    assert "the same command goes on from here: divalign lab --out 'no where'" in capsys.readouterr().err


def verbs() -> dict[str, Any]:
    """Return every verb, and every verb of `data`."""
    root: Any = typer.main.get_command(app)
    return {**root.commands, **{f"data {name}": verb for name, verb in root.commands["data"].commands.items()}}


def test_no_word_of_the_help_is_taken_for_a_style() -> None:
    told = {option.help for verb in verbs().values() for option in verb.params if getattr(option, "help", None)}
    assert [text for text in told if render(text).plain != text] == []


def test_the_readme_names_every_verb() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert [name for name in verbs() if f"`divalign {name.split()[0]}" not in readme] == []
