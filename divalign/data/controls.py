"""Recipes for negative controls: training on them must not align a model, or not separate its prompts."""

from __future__ import annotations

import hashlib

from divalign.data.examples import Request, Row
from divalign.data.recipes import compliance_refusal


def shuffled_labels(request: Request) -> Row:
    """Compliance-refusal with random labels: for half of the prompts, by their hash, the sides are exchanged.

    Whatever a model learns here is no alignment; a separation that grows all the same is an effect of training.
    """
    row = compliance_refusal(request)
    if _lot(request):
        return row
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"]}


def random_classes(request: Request) -> Row:
    """Compliance-refusal whose column `harmful` is drawn by the hash of the prompt, half and half; sides stay.

    A method that separates harmful from benign prompts separates nothing that means anything here: what changes all the
    same is an effect of that much training.
    """
    return {**compliance_refusal(request), "harmful": bool(_lot(request))}


def _lot(request: Request) -> int:
    return hashlib.sha256(request.prompt.encode()).digest()[0] % 2
