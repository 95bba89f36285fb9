"""`divalign report --paper`: the paper's statistics and our conclusion, on the terminal and as a page."""

from pathlib import Path

import pytest

from tests.commands import call


def test_the_papers_numbers_and_our_conclusion_are_shown_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, "report", "--paper", "--out", tmp_path / "paper.html") == 0
    output = " ".join(capsys.readouterr().out.split())
    for words in ("r = -0.485", "0.030", "r = -0.554", "0.026", "rho = +0.014", "0.954"):
        assert words in output
    assert "these points cannot tell" in output
    assert "The four methods as units: Undecided" in output
    assert "If all 20 models were independent: Undecided" in output
    page = (tmp_path / "paper.html").read_text()
    for words in ("r = −0.485", "p = 0.030", "r = −0.554", "rho = 0.0139", "Undecided", "gemma-2-2b"):
        assert words in page
    assert page.count("<svg") == 2 + 4  # two panels and the key
    assert "<script" not in page


@pytest.mark.parametrize("arguments", [(), ("runs/tour", "--paper")])
def test_a_report_is_of_a_run_or_of_the_paper(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, "report", *arguments) == 2
    assert "give a run folder, or --paper" in " ".join(capsys.readouterr().err.split())
