"""What ends the command line early is said in a sentence, with the code that the help promises."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from rich.console import Console
from rich.markup import render

from divalign.cli.app import app
from divalign.cli.run import _partial_attacks, _table
from divalign.core.stats import Estimate
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


@pytest.mark.parametrize("verb", ["run", "sweep", "attack", "estimate"])
def test_a_verb_of_one_process_that_is_launched_as_several_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert call(monkeypatch, verb, "--out", tmp_path / "out") == 2
    sentence = " ".join(capsys.readouterr().err.split())
    assert f"launched as 2 processes, and `divalign {verb}` works in one" in sentence
    assert ("--on ray --workers 2" in sentence) == (verb == "run")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [("train", "no.yaml", "--out", "o"), ("run", "--help")])
def test_training_and_help_take_several_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    call(monkeypatch, *arguments)
    assert "works in one" not in " ".join(capsys.readouterr().err.split())


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


def test_a_limit_of_tasks_is_refused_without_tasks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "utility", "toy", "--limit", 3) == 2
    assert "--limit is for the tasks of lm-eval" in capsys.readouterr().err


OUTPUTS = ("out", "docs", "html", "json", "csv", "card", "inspect_log", "junit", "methods", "claims")


def test_every_place_that_is_written_is_checked_before_the_work() -> None:
    options = [(name, option) for name, verb in verbs().items() for option in verb.params if option.name in OUTPUTS]
    assert {option.name for _, option in options} == {*OUTPUTS}
    # `methods` of run is a list of names.
    unchecked = {f"{name} {option.name}" for name, option in options if option.callback is None}
    assert unchecked == {"run methods"}


def test_an_output_that_is_a_link_is_replaced_and_not_what_it_leads_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, link = tmp_path / "mine", tmp_path / "out.json"
    mine.write_text("keep")
    link.symlink_to(mine)
    assert call(monkeypatch, "report", "--paper", "--out", str(link)) == 0
    assert mine.read_text() == "keep"
    assert not link.is_symlink()


def test_no_word_of_the_help_is_taken_for_a_style() -> None:
    told = {option.help for verb in verbs().values() for option in verb.params if getattr(option, "help", None)}
    assert [text for text in told if render(text).plain != text] == []


def test_the_readme_names_every_verb() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert [name for name in verbs() if f"`divalign {name.split()[0]}" not in readme] == []


@pytest.mark.parametrize("name", ["[bold]", "[/b]", "a [1]", "\\[/b]"])
def test_brackets_of_a_users_text_are_printed_as_they_stand(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = Path(f"{name.replace('/', 'i')}.jsonl")
    rows.write_text('{"prompt": "Where is the bridge?", "chosen": "At mile 3.", "rejected": "No."}\n')
    assert call(monkeypatch, "data", "audit", rows, "--json", f"{rows}.json") in (0, 1)
    assert call(monkeypatch, "data", "overlap", rows, rows) == 1
    printed = capsys.readouterr()
    assert f"\n{rows}.json\n" in f"\n{printed.err}"
    assert printed.out.count(str(rows)) == 4  # two titles, a verdict, a row of a table
    assert call(monkeypatch, "run", f"{name}.yaml", "--dry-run") == 2
    assert f"no configuration at {name}.yaml" in capsys.readouterr().err


def test_attacks_and_models_with_brackets_stand_in_the_table_of_a_run() -> None:
    known = Estimate(0.5, 0.4, 0.6, 10)
    separation = SimpleNamespace(bhattacharyya_paper=known, probe_auc=known)
    fields = {"separation": separation, "over_refusal": known, "held_out": None, "method": "kldo"}
    attacks = {"template:Do [/b] {prompt}": known}
    models = [SimpleNamespace(name="a [1]", asr=attacks, **fields), SimpleNamespace(name="b", asr={}, **fields)]
    console = Console(file=io.StringIO(), width=200)
    for line in _partial_attacks(SimpleNamespace(models=models)):
        console.print(line)
    console.print(_table(SimpleNamespace(models=models[:1], overlap=None)))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.count("template:Do [/b] {prompt}") == printed.count("a [1]") == 2


def test_a_long_path_is_printed_on_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Where is it?", "chosen": "At mile 3.", "rejected": "No."}\n')
    out = tmp_path / "-".join(["long"] * 30) / "audit.json"
    call(monkeypatch, "data", "audit", tmp_path / "rows.jsonl", "--json", out)
    assert str(out) in capsys.readouterr().err.splitlines()
