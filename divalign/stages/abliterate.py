"""The abliterated control of a trained model: its own refusal direction, found on training prompts and taken out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch

from divalign.core.directions import refusal_direction
from divalign.data.examples import Row, user_says
from divalign.lm.abliterate import abliterated
from divalign.lm.hidden import hidden_states
from divalign.lm.load import LM
from divalign.stages.hidden import check_layers, depth_of
from divalign.stages.models import OpenModel, generated_by
from divalign.stages.under_attack import sides
from divalign.store import digest


def without_refusal_direction(
    lm: LM, prompts: Sequence[Row], *, layer: int = -1, rounds: int = 1, batch_size: int = 64
) -> LM:
    """Return a copy of `lm` that cannot write along its refusal direction, found at `layer` on `prompts`.

    The direction leads from the mean safe to the mean harmful state where the answer begins. `layer` counts from the
    embeddings (0), or from the last (-1). In the embedded world one direction carries a part of refusal only: with
    several `rounds`, the next is found in the copy without the last, and taken out too. Give prompts other than those
    that the copy is measured on.

    Raises ValueError where both means are the same, as at the embeddings, and for a layer that does not exist.
    """
    texts, harmful = [user_says(row["prompt"]) for row in prompts], sides(prompts)[0]
    check_layers([layer], depth_of(lm.model))
    changed = lm
    for _ in range(rounds):
        states = hidden_states(changed.model, lm.tokenizer, texts, batch_size=batch_size)["generation"]
        direction = refusal_direction(states[layer][~harmful], states[layer][harmful])
        changed = changed._replace(model=abliterated(changed.model, torch.as_tensor(direction)))
    key = digest("abliterated", lm.digest, texts, harmful.tolist(), layer, rounds)
    return changed._replace(name=f"{lm.name} abliterated", digest=key)


def abliterated_copy(
    model: OpenModel, prompts: Sequence[Row], *, layer: int, rounds: int, batch_size: int
) -> OpenModel:
    """Return `without_refusal_direction` of a model as a model of its own, made when it is first used."""

    @cache
    def load() -> LM:
        return without_refusal_direction(model.lm(), prompts, layer=layer, rounds=rounds, batch_size=batch_size)

    key = digest("abliterated", model.key, list(prompts), layer, rounds)
    return OpenModel(f"{model.name} abliterated", key, generated_by(load), load)
