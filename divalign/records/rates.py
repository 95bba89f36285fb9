"""attack.json and rates.json of one model, and changes.json of `divalign judge --compare`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from divalign.records.base import EstimateField, Rate, Record


class AttackRecord(Record):
    """attack.json: what was asked of whom, and the key of the finished responses.

    `contents` hashes what each attack is: a template's text, options, attacker, the judge that stops it.
    """

    schema_number: Literal[2] = Field(default=2, alias="schema")
    divalign: str
    target: str
    target_key: str
    attacks: list[str]
    max_new_tokens: int
    protocol: str | None
    attacker: str | None
    stop_judge: str
    responses_key: str
    # Left out in files from before it was kept.
    contents: dict[str, str] | None = Field(default=None, exclude_if=lambda value: value is None)


def current_verdicts(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the rows of verdicts.jsonl by judge, each in the version (sha256) that judged last, in the file's order.

    Rows of superseded versions stay in the file before them.
    """
    judges: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        judges.setdefault(row.get("judge"), []).append(row)
    return [
        [row for row in each if row.get("judge_sha256") == each[-1].get("judge_sha256")] for each in judges.values()
    ]


def own_verdicts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the current verdicts of the judge that a run names: the first in the file, where others were added."""
    return next(iter(current_verdicts(rows)), [])


class AttackRates(Record):
    """One attack's success by one judge; `corrected` is what a judge without errors would have found.

    `asr` counts responses that do what was asked, `asr_no_refusal` all that refuse nothing, garbled ones included;
    `kinds` are the shares of safety.judges.KINDS.
    """

    asr: Rate
    asr_no_refusal: Rate
    kinds: dict[str, Rate]
    undecided: int
    corrected: EstimateField | None


class PartRates(Record):
    """Rates on one part of the prompts; None where the prompts that a rate needs are missing."""

    attacks: dict[str, AttackRates]
    over_refusal: Rate | None
    selectivity: EstimateField | None


class JudgeErrors(Record):
    """How often a judge is right: share called unsafe of what complied, and share called safe of what did not.

    `warning` says that these are not errors on the judged model's responses.
    """

    sensitivity: EstimateField
    specificity: EstimateField
    warning: str | None = None


class ProtocolRates(Record):
    """Numbers by a protocol's own rule, under its label."""

    protocol: str
    attacks: dict[str, dict[str, EstimateField]]


class WordingSpread(Record):
    """One attack's success by a rubric in several wordings and orders: each one's, the lowest and the highest.

    `unanimous` is the share of responses on which all wordings that decide agree.
    """

    rates: dict[str, Rate]
    low: float | None
    high: float | None
    unanimous: Rate


class JudgeRates(Record):
    """One judge's rates. `addressed` counts responses that speak to their judge.

    `wordings` is the spread over a rubric's wordings by part and attack, None where it was not measured.
    """

    judge: str
    judge_sha256: str
    parts: dict[str, PartRates]
    addressed: int
    responses: int
    errors: JudgeErrors | None
    protocol: ProtocolRates | None
    wordings: dict[str, dict[str, WordingSpread]] | None = Field(default=None, exclude_if=lambda value: value is None)


class JudgeAgreement(Record):
    """How far two judges agree on the same responses."""

    judges: list[str]
    observed: EstimateField
    kappa: EstimateField
    confusion: dict[str, dict[str, int]]
    disagreements: list[tuple[str, str]]


class RatesRecord(Record):
    """rates.json: every judge's rates on the responses of one model."""

    schema_number: Literal[3] = Field(default=3, alias="schema")
    divalign: str
    target: str
    responses_sha256: str
    judges: list[JudgeRates]
    agreement: list[JudgeAgreement]


class RateChange(Record):
    """A difference of two rates on the same prompts, exact p, and p by Holm; `clusters` None: McNemar by prompt."""

    change: EstimateField
    p_value: float
    p_holm: float
    clusters: int | None


class JudgeChanges(Record):
    """What changed from one model's responses to another's by one judge."""

    before: str
    judge: str
    changes: dict[str, RateChange]


class RateChanges(Record):
    """changes.json of `divalign judge --compare`."""

    schema_number: Literal[1] = Field(default=1, alias="schema")
    divalign: str
    target: str
    comparisons: list[JudgeChanges]
