"""What a report shows, typed: the facts of a run folder and of a separation folder, read by reading.py.

Absent and undecided are different and both survive: a number that was not measured is missing from its mapping; one
that is undecided is an Estimate whose value is None. Neither ever becomes 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from divalign.core.stats import Estimate
from divalign.records import (
    CostRecord,
    DivergenceRecord,
    RatesRecord,
    SeparationChangeRecord,
    SeparationPart,
    VerdictRecord,
)

MARK = " ‡"  # behind the name of a model whose evaluation prompts are in its training set


class PartFacts(NamedTuple):
    """What was measured on one part of the prompts. Keys are results.json's: "bhattacharyya_paper", "direct", ...

    `asr` counts responses that comply, `asr_no_refusal` all that refuse nothing.
    """

    separation: dict[str, Estimate]
    asr: dict[str, Estimate]
    over_refusal: Estimate | None
    asr_no_refusal: Mapping[str, Estimate] = MappingProxyType({})


class Point(NamedTuple):
    """One prompt's hidden state in the plane of the first two principal components."""

    x: float
    y: float
    harmful: bool
    held_out: bool
    prompt: str


class JudgedResponse(NamedTuple):
    """One response under one attack, and the judge's verdict; `unsafe` None is "could not decide"."""

    attack: str
    prompt: str
    harmful: bool
    held_out: bool
    response: str
    unsafe: bool | None
    reason: str
    kind: str | None = None


class SearchFacts(NamedTuple):
    """One white-box search: the loss before it and after each step, and whether its last response was judged unsafe."""

    losses: tuple[float, ...]
    succeeded: bool | None


class ModelFacts(NamedTuple):
    """One model of a run; `method` and `data` are None for the base, `held_out` where no topics were held out.

    `title` is what prose calls it beside its data: the method, with the seed where a run has several. `bounds` are the
    records behind its divergences, `layers` its separation by layer on topics of the training data, `rates` every
    judge's, `training` what training said of itself beside its log. `score_change` is the change from the base of mean
    attack success plus over-refusal by prompt (`changes.with_score_changes`), None where it was not tested.
    """

    name: str
    title: str
    method: str | None
    data: str | None
    seed: int | None
    in_distribution: PartFacts
    held_out: PartFacts | None
    divergence: dict[str, Estimate]
    bounds: Mapping[str, DivergenceRecord] = MappingProxyType({})
    plane: tuple[Point, ...] = ()
    metrics: tuple[Mapping[str, float | None], ...] = ()
    responses: tuple[JudgedResponse, ...] = ()
    searches: tuple[SearchFacts, ...] = ()
    layers: SeparationPart | None = None
    rates: RatesRecord | None = None
    training: Mapping[str, Any] = MappingProxyType({})
    score_change: Estimate | None = None


class RunFacts(NamedTuple):
    """A run folder. `base` is what its base model was loaded from, `base_key` the sha256 of what it is.

    `trained_on` counts the evaluation prompts that are in the training set, `overlap` all by kind.

    `stages` are seconds by announced stage, `audits` the audits of the training sets and `files` sha256 sums of what
    the run worked on, both by file name.
    """

    version: str
    config_sha256: str
    seconds: float | None
    models: tuple[ModelFacts, ...]
    verdict: VerdictRecord | None
    config: str = ""
    trained_on: int = 0
    overlap: Mapping[str, int] | None = None
    folder: str = ""
    base: str = ""
    base_key: str = ""
    stages: Mapping[str, float] = MappingProxyType({})
    cost: CostRecord | None = None
    audits: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    versions: Mapping[str, str] = MappingProxyType({})
    files: Sequence[tuple[str, str]] = ()

    @property
    def marked(self) -> bool:
        """Whether numbers of aligned models are marked: they measure memory too."""
        return self.trained_on > 0


class SeparationRun(NamedTuple):
    """The folder of `divalign separate`: each model's numbers on the first part of its prompts, and the changes."""

    parts: dict[str, SeparationPart]
    changes: list[SeparationChangeRecord]
