"""reward_model.json of a training that samples responses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from divalign.records.base import EstimateField, Record


class RewardModelRecord(Record):
    """reward_model.json: how good the reward model of a training is, on pairs that it was not trained on.

    `loss` is Bradley-Terry's in nats, `js` ln 2 minus it, a lower bound of JS(P x Q, Q x P); see
    `core.reward_quality.PairQuality`. All of them are None where no pair was kept aside.
    """

    schema_number: Literal[1] = Field(default=1, alias="schema")
    divalign: str
    key: str
    pairs: int
    held_out_pairs: int
    loss: EstimateField | None
    js: EstimateField | None
    accuracy: EstimateField | None
    calibration_error: float | None
    calibration_slope: float | None
