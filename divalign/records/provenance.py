"""cost.json and environment.json of a run: what its work costs by size, and what it ran on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from divalign.records.base import Record


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
