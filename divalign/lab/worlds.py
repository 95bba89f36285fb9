"""Finite worlds: a few prompts, a few responses, and distributions that can be enumerated.

Probabilities are multiples of 1/rows, so a list of rows in which every response occurs with its exact frequency has
exact expectations for its means: the losses that train language models run here unchanged, and are exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

Distributions = Float[Tensor, "w x y"]


class Worlds(NamedTuple):
    """A batch of worlds: distributions of responses given equally likely prompts, `rows` rows per prompt."""

    aligned: Distributions
    unaligned: Distributions
    reference: Distributions
    rows: int


class Rows(NamedTuple):
    """Numbers of cells (prompt times responses + response), one per row; for pairs row i of both is pair i."""

    aligned: Int[Tensor, "w a"]
    unaligned: Int[Tensor, "w u"]


def draw_worlds(count: int, *, seed: int = 0, prompts: int = 6, responses: int = 8, rows: int = 16) -> Worlds:
    """Draw random worlds in which every response is possible everywhere, so that every divergence is finite."""
    random = np.random.default_rng(seed)
    shape = (count, prompts)
    spare = rows - responses
    aligned, unaligned = (
        1 + random.multinomial(spare, random.dirichlet(np.full(responses, 0.7), size=shape)) for _ in range(2)
    )
    reference = random.dirichlet(np.ones(responses), size=shape)
    return Worlds(
        torch.from_numpy(aligned / rows), torch.from_numpy(unaligned / rows), torch.from_numpy(reference), rows
    )


def with_equal_normalisers(worlds: Worlds) -> Worlds:
    """The first prompt of every world, over and over, its responses renamed: E_ref[R^(1/beta) | x] is one number."""
    orders = [torch.arange(worlds.aligned.shape[2]).roll(step) for step in range(worlds.aligned.shape[1])]
    aligned, unaligned, reference = (
        torch.stack([table[:, 0, order] for order in orders], dim=1) for table in worlds[:3]
    )
    return Worlds(aligned, unaligned, reference, worlds.rows)


def pointwise_rows(worlds: Worlds) -> Rows:
    """Every response as often as its distribution says."""
    return Rows(*(_repeated(table, worlds.rows).flatten(1) for table in (worlds.aligned, worlds.unaligned)))


def paired_rows(worlds: Worlds) -> Rows:
    """Every pair of an aligned and an unaligned response to one prompt, drawn independently given the prompt."""
    aligned, unaligned = (_repeated(table, worlds.rows) for table in (worlds.aligned, worlds.unaligned))
    shape = (*aligned.shape, worlds.rows)
    return Rows(aligned[..., :, None].expand(shape).flatten(1), unaligned[..., None, :].expand(shape).flatten(1))


def _repeated(table: Distributions, rows: int) -> Int[Tensor, "w x rows"]:
    count, prompts, responses = table.shape
    cells = torch.arange(prompts * responses).expand(count, -1)
    times = (table * rows).round().long()
    return cells.flatten().repeat_interleave(times.flatten()).reshape(count, prompts, rows)
