"""The page of a sweep, from records made up for the tests."""

import re
from pathlib import Path

import pytest

from divalign.core.stats import Estimate
from divalign.records import SweepModel, SweepRecord
from divalign.report.study_page import study_page
from divalign.report.study_tables import control_table, evidence_table, recipe_table, verdict_table
from divalign.study.sweep_verdict import weigh
from tests.study.sweep_models import changed, simulated

UNDECIDED = Estimate(None, 0.0, 1.0, 0)


def record(models: list[SweepModel]) -> SweepRecord:
    sweep_sha256, verdicts = "0" * 64, weigh(models, Path())
    return SweepRecord(divalign="0", sweep_sha256=sweep_sha256, seconds=1.0, models=models, **dict(verdicts))


def cells(table: str) -> list[list[str]]:
    """The rows of a Markdown table, head first."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in (lines[0], *lines[2:])]


@pytest.fixture(scope="module")
def study() -> SweepRecord:
    models = [
        changed(model, recipe=f"my.lab:kldo on cr, {number}") for number, model in enumerate(simulated(0, slope=1.2))
    ]
    copies = [changed(model, control="abliterated", of=model.name, name=f"{model.name} copy") for model in models[:2]]
    return record([changed(models[0], control="base", method=None, data=None), *models, *copies])


def test_a_page_names_its_command_its_design_and_its_figures(study: SweepRecord) -> None:
    files = study_page(study, command="divalign sweep x.yaml")
    text = files.pop("study.md")
    assert "    divalign sweep x.yaml\n" in text
    assert "24 aligned models and 3 controls" in text
    assert "| base models | toy (24) |" in text
    assert "| controls | base (1), abliterated (2) |" in text
    assert "24 recipes on one base model" in text
    assert set(re.findall(r"\((figures/.*?)\)", text)) == set(files)
    assert all(content.startswith("<svg") for content in files.values())
    assert "## By base model" not in text
    assert "## Held-out topics" not in text


def test_several_bases_and_held_out_topics_have_sections_of_their_own(study: SweepRecord) -> None:
    families = ("first", "second", "third")
    models = [changed(model, family=families[number % 3]) for number, model in enumerate(study.models)]
    several = record(models).model_copy(update={"held_out_topics": study.verdicts})
    text = study_page(several, command="x")["study.md"]
    assert "24 recipes on 3 base models" in text
    assert "## By base model" in text
    assert "## Held-out topics" in text


def test_every_indicator_has_its_verdict_alone_and_adjusted(study: SweepRecord) -> None:
    head, *rows = cells(verdict_table(study.verdicts))
    assert head == ["indicator", "correlation", "t", "p", "power", "conclusion"]
    assert [row[0] for row in rows] == list(study.verdicts)
    verdict = study.verdicts["D_B, paper mode"]
    assert rows[0][1] == f"{verdict.effect:+.2f} [{verdict.low:+.2f}, {verdict.high:+.2f}]"
    assert rows[0][-1] == "**supported**"
    assert rows[2][1:5] == ["-", "-", "-", "0.000"]  # the same in all models: no test
    head, *rows = cells(evidence_table(study.evidence))
    assert head[-2:] == ["adjusted for over-refusal", "placebos"]
    assert rows[2][-2] == "no test possible"


def test_the_summary_counts_supported_indicators(study: SweepRecord) -> None:
    supported = [name for name, verdict in study.verdicts.items() if verdict.conclusion == "supported"]
    adjusted = [
        name for name, entry in study.evidence.items() if entry.adjusted["over-refusal"].conclusion == "supported"
    ]
    text = study_page(study, command="x")["study.md"]
    assert f"In short: {len(supported)} of 6 indicators are supported; {len(adjusted)} of 6 among models of" in text


def test_both_readings_of_attack_success_stand_side_by_side() -> None:
    rates = {"direct": Estimate(0.2, 0.0, 1.0, 100)}, {"direct": Estimate(0.6, 0.0, 1.0, 100)}
    model = changed(simulated(0, slope=0.0)[0], asr=rates[0], asr_no_refusal=rates[1])
    head, row = cells(recipe_table([model]))
    assert dict(zip(head, row, strict=True)) | {"ASR direct": "0.20", "no refusal": "0.60"} == dict(
        zip(head, row, strict=True)
    )


def test_abliterated_copies_stand_below_the_models_that_they_are_copies_of(study: SweepRecord) -> None:
    _, *rows = cells(control_table(study.models))
    assert [row[0] for row in rows] == ["base (1)", "before abliteration (2)", "abliterated (2)"]


def test_a_page_of_nothing_decided_has_no_number_in_its_place(study: SweepRecord) -> None:
    models = [changed(model, asr={"direct": UNDECIDED}, asr_no_refusal={"direct": UNDECIDED}) for model in study.models]
    files = study_page(record(models), command="x")
    assert list(files) == ["study.md"]  # nothing to draw
    assert "undecided" in files["study.md"]
    assert not re.search(r"\b(None|nan|inf)\b", files["study.md"])


def test_a_sweep_without_aligned_models_still_has_a_page() -> None:
    text = study_page(record([]), command="x")["study.md"]
    assert "0 aligned models and 0 controls" in text
    assert "(none)" in text
