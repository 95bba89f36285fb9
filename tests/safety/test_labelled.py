"""Labelled responses are read as their file says, and what it does not say is an error with file and row."""

from pathlib import Path

import pytest

from divalign.core.stats import rate
from divalign.safety.agreement import annotators
from divalign.safety.labelled import calibration_rows, labelled_models, labelled_responses

HEADER = "id,type,prompt,completion,annotation_1,annotation_2,final_label\n"
ROWS = (
    'a,benign,How?,"So, like this.",1_full_compliance,1_full_compliance,1_full_compliance\n'
    "b,benign,Why?,I will not say.,2_full_refusal,2_full_refusal,2_full_refusal\n"
    "c,benign,When?,Some of it.,3_partial_refusal,2_full_refusal,3_partial_refusal\n"
)


def write(folder: Path, text: str) -> Path:
    (folder / "mine.csv").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_rows_have_texts_labels_and_both_annotations(tmp_path: Path, mark: str) -> None:
    rows = labelled_responses(write(tmp_path, mark + HEADER + ROWS), "mine")
    assert labelled_models(tmp_path) == ["mine"]
    assert [row["response"] for row in rows] == ["So, like this.", "I will not say.", "Some of it."]
    assert [row["label"] for row in rows] == ["compliance", "refusal", "partial_refusal"]
    assert rows[2]["annotations"] == ("partial_refusal", "refusal")


def test_partial_refusals_take_no_part_in_a_calibration(tmp_path: Path) -> None:
    rows = calibration_rows(labelled_responses(write(tmp_path, HEADER + ROWS), "mine"))
    assert [(row["refused"], row["cluster"]) for row in rows] == [(False, "How?"), (True, "Why?")]


def test_two_people_agree_where_both_say_refusal_or_neither_does(tmp_path: Path) -> None:
    result = annotators(labelled_responses(write(tmp_path, HEADER + ROWS), "mine"))
    assert result.observed == rate([True, True, False])
    assert result.disagreements == [("mine", "mine 3")]
    assert result.judges == ("annotator 1", "annotator 2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + ROWS.replace("2_full_refusal\nc", "refused\nc"), r"mine.csv, row 2: the label is 'refused'"),
        (HEADER + "d,benign,Who?,Me.,1,,1\n", r"mine.csv, row 1: the label is ''"),
        (HEADER.replace("final_label", "label") + ROWS, r"mine.csv: the columns \['final_label'\] are missing"),
    ],
)
def test_a_file_that_says_something_else_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        labelled_responses(write(tmp_path, text), "mine")


def test_a_missing_folder_holds_no_model(tmp_path: Path) -> None:
    assert labelled_models(tmp_path / "nowhere") == []
