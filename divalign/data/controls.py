"""Recipes for negative controls: training on them must not align a model."""

from __future__ import annotations

import hashlib

from divalign.data.examples import Request, Row
from divalign.data.recipes import compliance_refusal


def shuffled_labels(request: Request) -> Row:
    """Compliance-refusal with random labels: for half of the prompts, by their hash, the sides are exchanged.

    Whatever a model learns here is no alignment; a separation that grows all the same is an effect of training.
    """
    row = compliance_refusal(request)
    if hashlib.sha256(request.prompt.encode()).digest()[0] % 2:
        return row
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"]}
