"""The verbs on a finished run: report, check and card, with the exit codes that scripts rely on."""

from pathlib import Path
from xml.etree.ElementTree import parse

import pytest

from divalign.store import read_json
from tests.cli.test_main import call
from tests.report.runs import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("cli") / "run", count=4)


@pytest.mark.parametrize(
    ("require", "code"),
    [("over_refusal<=1", 0), ("over_refusal<=0.001", 1), ("over_refusal=1", 2), ("over_refusals<=1", 2)],
)
def test_check_exits_0_where_all_hold_1_where_one_fails_2_for_bad_input(
    run: Path, require: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "check", run, "--require", require) == code
    output = capsys.readouterr()
    assert ("FAIL kldo-cr: over_refusal <= 0.001" in output.out) is (code == 1)
    assert ("error:" in output.err) is (code == 2)


def test_check_writes_junit_also_where_it_fails(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gate.xml"
    options = ("--require", "asr.direct<=0.5", "--model", "kldo-cr", "--model", "dpo-pref", "--junit", file, "--quiet")
    assert call(monkeypatch, "check", run, *options) == 1
    root = parse(file).getroot()
    assert (root.get("tests"), root.get("failures")) == ("2", "1")
    assert capsys.readouterr().out.count("\n") == 1  # the failing line alone


def test_a_folder_named_by_a_dot_has_its_name_in_junit(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    assert call(monkeypatch, "check", ".", "--require", "over_refusal<=1", "--junit", tmp_path / "gate.xml") == 0
    suite = parse(tmp_path / "gate.xml").getroot()
    assert {element.get("name") for element in suite.iter("testsuite")} == {"divalign check run"}


def test_report_of_one_run_audits_its_training_sets_first(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "report", run) == 0
    assert (run / "report.html").is_file()
    assert read_json(run / "data" / "cr-seed0.jsonl.audit.json")["rows"] == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("report", "RUN", "--paper"), "not both"),
        (("report", "RUN", "--out", "x.html"), "--out is for --paper and for several runs"),
        (("report", "RUN", "--claims", "c.md", "--methods", "m.md"), "--claims writes one page"),
        (("report", "RUN", "RUN"), "expected two or more run folders"),
        (("card",), "give a run folder, or --schema"),
        (("card", "RUN", "--model", "nobody"), "the run has no model 'nobody'"),
    ],
)
def test_what_makes_no_page_or_card_is_refused_in_a_sentence(
    run: Path,
    arguments: tuple[str, ...],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, *(run if word == "RUN" else word for word in arguments)) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_card_writes_two_files_and_the_schema_is_printed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "card", run, "--model", "kldo-cr", "--out", tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "card.md"]
    capsys.readouterr()
    assert call(monkeypatch, "card", "--schema") == 0
    assert '"CardRecord"' in capsys.readouterr().out
