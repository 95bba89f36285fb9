"""Sensitivity and specificity of a judge on labelled responses, and rates corrected for its errors.

The labels should be those of responses of the model that is judged: a judge errs differently on each. Where there are
none, counts on other models that come with the package stand in, and the interval then holds how much models differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from math import sqrt
from typing import NamedTuple

from scipy.stats import norm
from scipy.stats import t as student

from divalign.core.stats import Estimate, corrected_rate, rate
from divalign.data.columns import is_absent
from divalign.data.examples import Row
from divalign.safety.evaluate import independent, share
from divalign.safety.judges import Judge

ASSET = "external_calibration.json"  # written by `python -m bench.judges --write`


class Calibration(NamedTuple):
    """`sensitivity`: share called unsafe of what complied. `specificity`: share called safe of what refused.

    Both among the decided, 1 is best; `undecided` is the share of all. Rows with a "cluster" (wordings of one prompt)
    have intervals by cluster, and `independent` holds how many independent labels the two shares rest on. `warning`
    says what the figures cannot tell, None where they are of the judged model.
    """

    judge: str
    sensitivity: Estimate
    specificity: Estimate
    undecided: Estimate
    independent: tuple[int, int] | None = None
    warning: str | None = None


class JudgeCounts(NamedTuple):
    """One model's responses by a judge's verdicts: decided ones that complied and refused, and those called rightly."""

    model: str
    complied: int
    called_unsafe: int
    refused: int
    called_safe: int


def calibrate(judge: Judge, rows: Sequence[Row]) -> Calibration:
    """Return how a judge of refusal does on rows with "prompt", "response" and the true "refused".

    Raises ValueError where one of the two labels is missing.
    """
    missing = {True, False} - {row["refused"] for row in rows}
    if missing:
        raise ValueError(
            f"none of the {len(rows)} labelled responses has refused: {str(min(missing)).lower()}; label both "
            "responses that refuse and responses that comply, for a judge errs on each in its own way"
        )
    verdicts = judge([row["prompt"] for row in rows], [row["response"] for row in rows])
    rows = [_unit(row) for row in rows]
    complied = [(row, v.unsafe) for row, v in zip(rows, verdicts, strict=True) if not row["refused"]]
    refused = [
        (row, None if v.unsafe is None else not v.unsafe)
        for row, v in zip(rows, verdicts, strict=True)
        if row["refused"]
    ]
    return Calibration(
        judge.id,
        share(*zip(*complied, strict=True)),
        share(*zip(*refused, strict=True)),
        share(rows, [verdict.unsafe is None for verdict in verdicts]),
        (_independent(complied), _independent(refused)),
    )


def _unit(row: Row) -> Row:
    """Return a row whose cluster is the one that it names, or else its prompt, with rows of equal responses to it."""
    named = row.get("cluster")
    cluster = row["prompt"] if is_absent(named) or named == "" else named
    return {**row, "cluster": cluster, "prompt": f"{row['prompt']}\n{row['response']}"}


def _independent(outcomes: Sequence[tuple[Row, bool | None]]) -> int:
    return int(independent([row for row, _ in outcomes], [value for _, value in outcomes]))


def count(judge: Judge, model: str, rows: Sequence[Row]) -> JudgeCounts:
    """Return a judge's counts on one model's labelled rows."""
    verdicts = judge([row["prompt"] for row in rows], [row["response"] for row in rows])
    pairs = [(row["refused"], v.unsafe) for row, v in zip(rows, verdicts, strict=True) if v.unsafe is not None]
    complied, refused = ([unsafe for label, unsafe in pairs if label is side] for side in (False, True))
    return JudgeCounts(model, len(complied), sum(complied), len(refused), len(refused) - sum(refused))


def external_counts(judge: Judge) -> list[JudgeCounts]:
    """Return the counts on other models that the package holds for this very judge; none where its content differs."""
    text = (files("divalign.safety") / "assets" / ASSET).read_text(encoding="utf-8")
    entry = json.loads(text).get(judge.id)
    if entry is None or entry["sha256"] != judge.sha256:
        return []
    return [JudgeCounts(model, *numbers) for model, numbers in entry["models"].items()]


def calibration_for(judge: Judge, labelled: Sequence[Row] | None = None) -> Calibration | None:
    """Return what a correction of this judge's rates can rest on: `labelled` responses of the judged model if given.

    Else the counts on other models that come with the package, with a warning; None where there are none.
    """
    if labelled:
        return calibrate(judge, labelled)
    counts = external_counts(judge)
    return pooled_models(judge.id, counts) if len(counts) > 1 else None


def pooled_models(judge: str, counts: Sequence[JudgeCounts]) -> Calibration:
    names = ", ".join(entry.model for entry in counts)
    warning = (
        f"{judge} was measured on other models ({names}), none of which is the judged one; the interval holds how much "
        "they differ. Label 200 responses of your model for a correction of its own"
    )
    sensitivity = _for_a_new_model([(entry.called_unsafe, entry.complied) for entry in counts])
    specificity = _for_a_new_model([(entry.called_safe, entry.refused) for entry in counts])
    return Calibration(judge, sensitivity, specificity, Estimate(None, 0.0, 1.0, 0), warning=warning)


def _for_a_new_model(counts: Sequence[tuple[int, int]]) -> Estimate:
    """Return the mean of the models' shares, with the count of labels whose error would be that of a new model's share.

    Var = (1 + 1/m) times the variance between m models, or the mean share's binomial variance if that is larger, with
    Student's quantile in the place of the normal one. Shares are pulled by one success and one failure, so that models
    without an error still differ. Source: Higgins, Thompson, Spiegelhalter 2009, JRSS A 172, sec. 4 (prediction).
    """
    shares = [(right + 1) / (n + 2) for right, n in counts]
    m, value = len(counts), sum(right / n for right, n in counts) / len(counts)
    mean = sum(shares) / m
    between = sum((model_share - mean) ** 2 for model_share in shares) / (m - 1) * (1 + 1 / m)
    within = mean * (1 - mean) / sum(n for _, n in counts)
    widened = max(between * float(student.ppf(0.975, m - 1) / norm.ppf(0.975)) ** 2, within)
    n = max(2, min(sum(n for _, n in counts), int(mean * (1 - mean) / widened)))
    half = float(norm.ppf(0.975)) * sqrt(mean * (1 - mean) / n)
    return Estimate(value, max(0.0, min(value, mean - half)), min(1.0, max(value, mean + half)), n)


def corrected(
    rows: Sequence[Row], outcomes: Sequence[bool | None], calibration: Calibration, *, confidence: float = 0.95
) -> Estimate | None:
    """Return the rate of True that a judge without errors would have found, one outcome for each row.

    Its interval holds the errors of the rate and of the calibration, both by cluster where rows share one; `n` counts
    the decided. None where nothing is decided or the judge is no better than chance.
    """
    decided = [(row, value) for row, value in zip(rows, outcomes, strict=True) if value is not None]
    if not decided or None in (calibration.sensitivity.value, calibration.specificity.value):
        return None
    observed = rate([value for _, value in decided], confidence=confidence)._replace(n=_independent(decided))
    labels = calibration.independent or (calibration.sensitivity.n, calibration.specificity.n)
    try:
        estimate = corrected_rate(
            observed,
            sensitivity=calibration.sensitivity._replace(n=labels[0]),
            specificity=calibration.specificity._replace(n=labels[1]),
            confidence=confidence,
        )
    except ValueError:  # no better than chance: no correction exists
        return None
    return estimate._replace(n=len(decided))


def as_json(counts: Mapping[str, tuple[str, Sequence[JudgeCounts]]]) -> str:
    """Return the text of the package's file: for each judge its sha256 and the counts on each model."""
    content = {
        judge: {"sha256": sha256, "models": {entry.model: list(entry[1:]) for entry in models}}
        for judge, (sha256, models) in counts.items()
    }
    return json.dumps(content, indent=1) + "\n"
