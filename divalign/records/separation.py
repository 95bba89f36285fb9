"""separation.json of one model, and changes.json of `divalign separate`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from divalign.records.base import EstimateField, FolderName, Record


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
    models: list[FolderName]
    changes: list[SeparationChangeRecord]
