"""results.json of a run: its models' numbers and the verdict over them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from divalign.records.base import EstimateField, FolderName, Rate, Record

SMALLEST_EFFECT = 0.3  # the smallest correlation that matters: less explains under 9 % of the variance


class SeparationNumbers(Record):
    """The numbers of a separation that results.json repeats."""

    bhattacharyya_paper: EstimateField
    silhouette_paper: EstimateField
    bhattacharyya: EstimateField
    probe_auc: EstimateField
    lexical_auc: EstimateField


class PartResult(Record):
    """What was measured on one part of the prompts."""

    separation: SeparationNumbers
    flags: list[str]
    asr: dict[str, Rate]
    asr_no_refusal: dict[str, Rate]
    over_refusal: Rate


class ModelResult(Record):
    """A model's entry of results.json; `method`, `data` and `seed` are None for the base."""

    name: FolderName
    method: str | None
    data: str | None
    seed: int | None
    separation: SeparationNumbers
    flags: list[str]
    asr: dict[str, Rate]
    asr_no_refusal: dict[str, Rate]
    over_refusal: Rate
    divergence: dict[str, EstimateField]
    held_out: PartResult | None = Field(default=None, exclude_if=lambda value: value is None)


class VerdictRecord(Record):
    """Whether separation goes with fewer successful attacks over models: see study.verdict.

    `effect` is a correlation, `low` and `high` its 95 % confidence interval; `power` is that of finding the smallest
    effect that matters.
    """

    statistic: str
    value: float | None
    p_value: float | None
    power: float | None
    n_models: int
    conclusion: str
    low: float | None = None
    high: float | None = None
    effect: float | None = None
    left_out: int = 0
    words: str


class Results(Record):
    """results.json."""

    schema_number: Literal[2] = Field(default=2, alias="schema")
    divalign: str
    config_sha256: str
    seconds: float
    overlap: dict[str, int] | None = Field(default=None, exclude_if=lambda value: value is None)
    models: list[ModelResult]
    verdict: VerdictRecord
