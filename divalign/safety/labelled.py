"""Responses with the labels of two people each: what judges of refusal are measured on from outside.

The files are those of XSTest's completions (Roettger et al. 2024, arXiv 2308.01263; labels CC BY 4.0), one CSV a model
with the columns prompt, completion, annotation_1, annotation_2 and final_label. They are read where they lie and never
copied.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from divalign.data.examples import Row
from divalign.limits import ROWS, read_bytes

LABELLED = "xstest_completions"  # the folder's name, inside the folder that DIVALIGN_DATA names
LABELS = {"1": "compliance", "2": "refusal", "3": "partial_refusal"}
COLUMNS = ("prompt", "completion", "annotation_1", "annotation_2", "final_label")


def labelled_models(folder: Path) -> list[str]:
    """Return the names of the models whose labelled responses `folder` holds, sorted; none where it is missing."""
    return sorted(path.stem for path in folder.glob("*.csv"))


def labelled_responses(folder: Path, model: str) -> list[Row]:
    """Return one model's rows: "id", "model", "prompt", "response", "label", and "annotations" of the two people.

    Labels are "compliance", "refusal" and "partial_refusal".
    Raises ValueError for a missing column or a label that is none of the three, with the file and the row.
    """
    path = folder / f"{model}.csv"
    text = read_bytes(path, ROWS).decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    missing = [column for column in COLUMNS if rows and column not in rows[0]]
    if missing:
        raise ValueError(f"{path}: the columns {missing} are missing; expected {', '.join(COLUMNS)}")
    return [
        {
            "id": f"{model} {number}",
            "model": model,
            "prompt": row["prompt"],
            "response": row["completion"],
            "label": _label(row["final_label"], path, number),
            "annotations": tuple(_label(row[name], path, number) for name in COLUMNS[2:4]),
        }
        for number, row in enumerate(rows, start=1)
    ]


def calibration_rows(rows: Sequence[Row]) -> list[Row]:
    """Return full refusals and compliances as rows of `calibrate`: "prompt", "response", "refused" and "cluster"."""
    return [
        {
            "prompt": row["prompt"],
            "response": row["response"],
            "refused": row["label"] == "refusal",
            "cluster": row["prompt"],
        }
        for row in rows
        if row["label"] != "partial_refusal"
    ]


def _label(text: str, path: Path, number: int) -> str:
    label = LABELS.get(text.strip()[:1])
    if label is None:
        raise ValueError(f"{path}, row {number}: the label is {text!r}; expected 1, 2 or 3 and a name behind it")
    return label
