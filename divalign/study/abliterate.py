"""The abliterated control of a trained model: the refusal direction found on its own prompts, and taken out of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from divalign.core.directions import refusal_direction
from divalign.data.examples import Row, user_says
from divalign.lm.abliterate import abliterated
from divalign.lm.hidden import hidden_states
from divalign.lm.load import LM
from divalign.store import digest
from divalign.study.under_attack import sides

LAYER_SHARE = 0.5  # refusal is decided mid-way; see docs/separation.md for what other layers did in the embedded world


def without_refusal_direction(lm: LM, prompts: Sequence[Row], *, layer: int | None = None, batch_size: int = 64) -> LM:
    """Return a copy of `lm` that cannot write along its refusal direction, found at `layer` on `prompts`.

    The direction leads from the mean safe to the mean harmful state where the answer begins. `layer` counts from the
    embeddings (0); None takes the middle. Give prompts other than those that the copy is measured on.

    Raises ValueError where both means are the same, as at the embeddings.
    """
    texts = [row["prompt"] for row in prompts]
    states = hidden_states(lm.model, lm.tokenizer, [user_says(text) for text in texts], batch_size=batch_size)
    stack, (harmful, _) = states["generation"], sides(prompts)
    place = round(LAYER_SHARE * (len(stack) - 1)) if layer is None else layer
    if not -len(stack) <= place < len(stack):
        raise ValueError(f"{lm.name} has no layer {place}; it has 0 (the embeddings) to {len(stack) - 1} (the last)")
    direction = refusal_direction(stack[place][~harmful], stack[place][harmful])
    changed = abliterated(lm.model, torch.as_tensor(direction, dtype=torch.float64))
    key = digest("abliterated", lm.digest, texts, harmful.tolist(), place)
    return lm._replace(model=changed, name=f"{lm.name} abliterated", digest=key)
