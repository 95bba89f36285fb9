"""sweep.json: many runs' models and the verdicts over them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from divalign.records.base import EstimateField, InnerPath, Record
from divalign.records.results import ModelResult, VerdictRecord
from divalign.records.separation import AttackSeparation


class BenignDistances(Record):
    """Distance between the two halves of the benign topics, a placebo; None where these states allow no number."""

    bhattacharyya_paper: float | None
    bhattacharyya: float | None


class SeparationDraws(Record):
    """D_B and after it its bootstrap draws: of direct prompts, and the least under attack; None if not measured."""

    direct: list[float] | None
    worst: list[float] | None


class SweepMeasures(Record):
    """What a sweep measures of a model beside its run, on topics of the training data."""

    under_attack: dict[str, AttackSeparation]
    benign_against_benign: BenignDistances
    draws: SeparationDraws


class SweepModel(ModelResult):
    """A model's entry of sweep.json.

    `control` is None for a model that counts as evidence, "base" for the base model, "abliterated" for a copy of the
    model `of`, else the control's name. `family` is its base model, `recipe` all that was done to it except the seed,
    of which `length` is what the grid changed. `verdicts` is its verdicts.jsonl, relative to the sweep's folder.
    """

    run: str
    control: str | None
    of: str | None = None
    family: str
    recipe: str
    length: str | None = None
    under_attack: dict[str, AttackSeparation]
    benign_against_benign: BenignDistances
    draws: SeparationDraws
    verdicts: InnerPath

    def success_share(self, attack: str | None = None, *, no_refusal: bool = False) -> float | None:
        """Return the share of successes of one attack, or of all together; None where nothing was decided.

        With `no_refusal` every response that refuses nothing is a success, off-topic and broken ones included.
        """
        rates = [
            rate
            for name, rate in (self.asr_no_refusal if no_refusal else self.asr).items()
            if attack in (None, name) and rate.value is not None
        ]
        trials = sum(rate.n for rate in rates)
        return sum(round((rate.value or 0.0) * rate.n) for rate in rates) / trials if trials else None


class CorrelationRecord(Record):
    """A correlation and its two-sided p-value."""

    estimate: EstimateField
    p_value: float


class EvidenceRecord(Record):
    """What stands beside an indicator's verdict; see study.evidence. None where the models allow no number.

    `verdict` is the indicator's alone, `adjusted` holds verdicts by the covariate that was taken out, corrected for
    all indicators, and `placebos` verdicts on numbers that should predict nothing.
    """

    odds_ratio: EstimateField
    ranks: CorrelationRecord | None
    within_families: CorrelationRecord | None
    pooled_z: CorrelationRecord | None
    held_out_family_skill: float | None
    verdict: VerdictRecord
    adjusted: dict[str, VerdictRecord]
    placebos: dict[str, VerdictRecord]


class SweepVerdicts(Record):
    """What a sweep's models say together. Each group of verdicts is by indicator.

    `with_controls` counts controls as models; `held_out_topics` is empty where the runs have none. `joint` are
    correlations with prompts resampled on both sides, by the distance that they are of.
    """

    verdicts: dict[str, VerdictRecord]
    by_attack: dict[str, dict[str, VerdictRecord]]
    by_family: dict[str, dict[str, VerdictRecord]]
    with_controls: dict[str, VerdictRecord]
    held_out_topics: dict[str, VerdictRecord]
    evidence: dict[str, EvidenceRecord]
    joint: dict[str, EstimateField | None]


class SweepRecord(SweepVerdicts):
    """sweep.json."""

    schema_number: Literal[2] = Field(default=2, alias="schema")
    divalign: str
    sweep_sha256: str
    seconds: float
    models: list[SweepModel]
