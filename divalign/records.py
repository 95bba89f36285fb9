"""What stands in run folders, typed: every result is written and read through these records.

A file's content is validated where it is read, so no room indexes a raw dictionary of results. A record with a schema
number refuses a file of another one in a sentence. An undecided value is None, never 0.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
)

from divalign.core.stats import Estimate
from divalign.store import cached_json, read_json


def _estimate(value: Any) -> Estimate:
    if isinstance(value, Estimate):
        return value
    if not isinstance(value, dict) or set(value) != set(Estimate._fields):
        raise ValueError("expected an estimate with the fields value, low, high and n")
    return Estimate(**value)


_NUMBER = {"type": ["number", "null"]}
ESTIMATE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "A number, the ends of its 95 % confidence interval, and how many outcomes it rests on.",
    "properties": {"value": _NUMBER, "low": _NUMBER, "high": _NUMBER, "n": {"type": "integer"}},
    "required": list(Estimate._fields),
    "additionalProperties": False,
}
# {"value", "low", "high", "n"} in a file, core's Estimate in memory. A rate is an estimate between 0 and 1.
EstimateField = Annotated[
    Estimate,
    PlainValidator(_estimate),
    PlainSerializer(lambda value: value._asdict()),
    WithJsonSchema(ESTIMATE_SCHEMA),
]
Rate = EstimateField


class Record(BaseModel):
    """A part of a result file. Unknown fields are errors: a typing error in a name must not lose a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, protected_namespaces=())

    def plain(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return self.model_dump(mode="json", by_alias=True)


Kind = TypeVar("Kind", bound=Record)


def read_record(path: Path, kind: type[Kind]) -> Kind:
    """Return a result file as the record `kind`. A whole file's record declares its schema, as Literal[NUMBER].

    Raises ValueError, naming the file, where it is missing, torn, of another schema, or has a field that does not fit.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}; run the stage that writes it")
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is torn or no JSON ({error}); run the stage that writes it again") from error
    expected = _schema(kind)
    if expected is not None and (not isinstance(content, dict) or content.get("schema") != expected):
        number = content.get("schema") if isinstance(content, dict) else None
        raise ValueError(
            f"{path} has schema {number!r}, this version reads {expected}; run the command that wrote it again, "
            "in a new folder"
        )
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise ValueError(
            f"{path} does not hold what was expected: {place}: {fault['msg']}; run the stage that writes it again"
        ) from error


def _schema(kind: type[Record]) -> int | None:
    """Return the schema number that a record's first field names, as Literal[2]."""
    field = kind.model_fields.get("schema_number")
    numbers = get_args(field.annotation) if field is not None else ()
    return numbers[0] if numbers else None


def cached_record(path: Path, key: str, kind: type[Kind], make: Callable[[], Kind]) -> Kind:
    """Return the record that `key` stands for from `path`, making it only if the file is not intact for that key."""
    return kind.model_validate(cached_json(path, key, lambda: make().plain()))


class PromptCounts(Record):
    """The prompts behind a separation: of each class, and how many independent clusters."""

    safe: int
    harmful: int
    clusters: int


class LayerSeparation(Record):
    """One layer's held-out separation at one position: a cell of the map. `why` says why there is no number."""

    position: str
    layer: int
    bhattacharyya: EstimateField
    probe_auc: EstimateField
    flags: list[str]
    why: str = ""


class Margins(Record):
    """Each prompt's distance from the held-out hyperplane, for a histogram."""

    safe: list[float]
    harmful: list[float]


class FullSeparation(Record):
    """Everything that is measured at one layer: held out, and as the paper's code does (`*_paper`).

    `flags` doubt the held-out numbers, `flags_paper` the paper's.
    """

    bhattacharyya: EstimateField
    silhouette: EstimateField
    probe_auc: EstimateField
    tpr_at_1_fpr: EstimateField
    energy: EstimateField
    energy_p_value: float | None
    null: EstimateField | None
    dimensions: list[int]
    bhattacharyya_paper: EstimateField
    silhouette_paper: EstimateField
    margins: Margins
    flags: list[str]
    flags_paper: list[str]


class NotMeasured(Record):
    """What stands in a separation's place where these states allow no number."""

    why: str


class BestLayer(Record):
    """The layer that separates best, chosen and measured on different prompts.

    `stability` is the share of folds that chose this layer; None where it was not measured.
    """

    layer: int
    bhattacharyya: EstimateField
    probe_auc: EstimateField
    flags: list[str]
    stability: float | None = None


class AttackSeparation(Record):
    """Held-out separation under each attack, the least and the mean of them."""

    by_attack: dict[str, EstimateField]
    worst: EstimateField
    mean: EstimateField


class SeparationPart(Record):
    """Separation on one part of the prompts: those on topics of the training data, or on held-out topics."""

    prompts: PromptCounts
    lexical_auc: EstimateField
    length_auc: EstimateField
    map: list[LayerSeparation]
    last_layer: dict[str, FullSeparation | NotMeasured]
    best_layer: dict[str, BestLayer | None]
    under_attack: dict[str, AttackSeparation] | None = None


class SeparationRecord(Record):
    """separation.json of one model."""

    schema_number: Literal[2] = Field(default=2, alias="schema")
    divalign: str
    model: str
    key: str
    layers: int
    parts: dict[str, SeparationPart]


class SeparationChangeRecord(Record):
    """Held-out separation of one model minus another's at the last layer; `cosine` of their refusal directions."""

    before: str
    after: str
    position: str
    bhattacharyya: EstimateField | None = None
    silhouette: EstimateField | None = None
    probe_auc: EstimateField | None = None
    energy: EstimateField | None = None
    cosine: float | None = None
    why: str = ""


class SeparationChanges(Record):
    """changes.json of `divalign separate`: every model after the first against the first."""

    schema_number: Literal[1] = Field(default=1, alias="schema")
    divalign: str
    models: list[str]
    changes: list[SeparationChangeRecord]


class AttackRecord(Record):
    """attack.json: what was asked of whom, and the key of the finished responses."""

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


class JudgeRates(Record):
    """One judge's rates. `addressed` counts responses that speak to their judge."""

    judge: str
    judge_sha256: str
    parts: dict[str, PartRates]
    addressed: int
    responses: int
    errors: JudgeErrors | None
    protocol: ProtocolRates | None


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


class DivergenceRecord(Record):
    """One divergence's held-out estimate in nats, with what it must be read with; see core.estimate and core.measure.

    The fields after `flags` are None where all rows were measured at once and none fitted a shift.
    """

    estimate: EstimateField
    bound: float
    lower: float | None
    ceiling: float | None
    effective_sample_size: float
    flags: list[str]
    train_bound: float | None = None
    overfit_gap: float | None = None
    shift: float | None = None
    null: EstimateField | None = None
    p_value: float | None = None


class DivergenceFile(Record):
    """divergence.json: each divergence of the aligned from the unaligned responses."""

    schema_number: Literal[2] = Field(default=2, alias="schema")
    divergences: dict[str, DivergenceRecord]


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

    name: str
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


SMALLEST_EFFECT = 0.3  # the smallest correlation that matters: less explains under 9 % of the variance


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
    verdicts: str

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


class StageCost(Record):
    """What a stage of a model costs by size alone: rows, tokens and floating-point operations; see stages.cost."""

    model: str
    stage: str
    rows: int
    tokens: float
    operations: float


class CostRecord(Record):
    """cost.json of a run. Tokens of generation are those that the limit allows, not those that were written."""

    schema_number: Literal[1] = Field(default=1, alias="schema")
    parameters: int
    stages: list[StageCost]


class EnvironmentRecord(Record):
    """environment.json of a run: versions of Python and packages, and the machine that it began on."""

    schema_number: Literal[1] = Field(default=1, alias="schema")
    versions: dict[str, str]


class CardNumber(Record):
    """A number of a card: its name in results.json, what it means and which way is better, and on which prompts."""

    name: str
    estimate: EstimateField
    base: EstimateField | None
    meaning: str
    direction: str
    prompts: str


class CardRecord(Record):
    """card.json of a model: what was measured on what, by whom, and what that does not show.

    `base` is the model that training started from, None where the run does not say; `overlap` counts evaluation prompts
    in the training set by kind, None where it was not counted.
    """

    schema_number: Literal[1] = Field(default=1, alias="schema")
    divalign: str
    model: str
    base: str | None
    method: str | None
    data: str | None
    seed: int | None
    config_sha256: str
    judges: dict[str, str]
    files: dict[str, str]
    overlap: dict[str, int] | None
    numbers: list[CardNumber]
    limits: list[str]
    reproduce: str
