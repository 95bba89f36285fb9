"""What stands in run folders, typed: every result is written and read through these records.

A file's content is validated where it is read, so no room indexes a raw dictionary of results. A record with a schema
number refuses a file of another one in a sentence. An undecided value is None, never 0.
"""

from divalign.records.base import EstimateField, Rate, Record, cached_record, publish_record, read_record
from divalign.records.card import CardNumber, CardRecord
from divalign.records.divergence import AlignedLikelihood, DivergenceFile, DivergenceRecord
from divalign.records.provenance import CostRecord, EnvironmentRecord, StageCost
from divalign.records.rates import (
    AttackRates,
    AttackRecord,
    JudgeAgreement,
    JudgeChanges,
    JudgeErrors,
    JudgeRates,
    PartRates,
    ProtocolRates,
    RateChange,
    RateChanges,
    RatesRecord,
    WordingSpread,
    current_verdicts,
    own_verdicts,
)
from divalign.records.results import SMALLEST_EFFECT, ModelResult, PartResult, Results, SeparationNumbers, VerdictRecord
from divalign.records.rewards import RewardModelRecord
from divalign.records.separation import (
    AttackSeparation,
    BestLayer,
    FullSeparation,
    LayerSeparation,
    Margins,
    NotMeasured,
    PromptCounts,
    SeparationChangeRecord,
    SeparationChanges,
    SeparationPart,
    SeparationRecord,
)
from divalign.records.sweep import (
    BenignDistances,
    CorrelationRecord,
    EvidenceRecord,
    SeparationDraws,
    SweepMeasures,
    SweepModel,
    SweepRecord,
    SweepVerdicts,
)

__all__ = [
    "SMALLEST_EFFECT",
    "AlignedLikelihood",
    "AttackRates",
    "AttackRecord",
    "AttackSeparation",
    "BenignDistances",
    "BestLayer",
    "CardNumber",
    "CardRecord",
    "CorrelationRecord",
    "CostRecord",
    "DivergenceFile",
    "DivergenceRecord",
    "EnvironmentRecord",
    "EstimateField",
    "EvidenceRecord",
    "FullSeparation",
    "JudgeAgreement",
    "JudgeChanges",
    "JudgeErrors",
    "JudgeRates",
    "LayerSeparation",
    "Margins",
    "ModelResult",
    "NotMeasured",
    "PartRates",
    "PartResult",
    "PromptCounts",
    "ProtocolRates",
    "Rate",
    "RateChange",
    "RateChanges",
    "RatesRecord",
    "Record",
    "Results",
    "RewardModelRecord",
    "SeparationChangeRecord",
    "SeparationChanges",
    "SeparationDraws",
    "SeparationNumbers",
    "SeparationPart",
    "SeparationRecord",
    "StageCost",
    "SweepMeasures",
    "SweepModel",
    "SweepRecord",
    "SweepVerdicts",
    "VerdictRecord",
    "WordingSpread",
    "cached_record",
    "current_verdicts",
    "own_verdicts",
    "publish_record",
    "read_record",
]
