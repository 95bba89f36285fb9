"""card.json of a model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from divalign.records.base import EstimateField, Record


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
