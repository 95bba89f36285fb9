"""divergence.json: how far apart the two sides of a data set are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from divalign.records.base import EstimateField, Record


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


class AlignedLikelihood(Record):
    """Mean negative log-likelihood per token of aligned responses, in nats; e to its power is the perplexity.

    A policy's above its reference's is likelihood displacement.
    """

    policy: EstimateField
    reference: EstimateField


class DivergenceFile(Record):
    """divergence.json: each divergence of the aligned from the unaligned responses.

    `divergences` are what r proves, `of_pairs` what the margin r(aligned) - r(unaligned) proves between pairs and the
    same pairs swapped, `with_baseline` what r + b(x) does, for a policy trained with a prompt baseline. `aligned_nll`
    is by the kind of prompt, "benign", "harmful", or "all" where the rows do not say.
    """

    schema_number: Literal[2] = Field(default=2, alias="schema")
    divergences: dict[str, DivergenceRecord]
    # Left out where no policy was scored, as in files from before this was measured.
    aligned_nll: dict[str, AlignedLikelihood] | None = Field(default=None, exclude_if=lambda value: value is None)
    # Left out where the rows are no pairs, as in files from before these were measured.
    of_pairs: dict[str, DivergenceRecord] | None = Field(default=None, exclude_if=lambda value: value is None)
    # Left out where the policy has no such baseline, as in files from before there was one.
    with_baseline: dict[str, DivergenceRecord] | None = Field(default=None, exclude_if=lambda value: value is None)
