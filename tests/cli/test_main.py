"""What ends the command line early is said in a sentence, with the code that the help promises."""

import sys

import pytest

from divalign.cli import main
from divalign.lab import claims


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["divalign", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


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


@pytest.mark.parametrize("arguments", [(), ("data",)])
def test_no_verb_at_all_shows_the_help_and_nothing_worse(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert call(monkeypatch, *arguments) == 2
    said = capsys.readouterr()
    assert "Usage" in said.out
    assert "error" not in said.err


def test_a_stopped_verb_says_that_the_same_command_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(claims, "run", stopped)
    assert call(monkeypatch, "lab", "--out", "nowhere") == 130
    assert "the same command goes on from here" in capsys.readouterr().err
