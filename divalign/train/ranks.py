"""Rows over processes: gathered from all of them, or scored by each in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from jaxtyping import Float
from torch import Tensor

from divalign.core.precision import widest_dtype


class Ranks(NamedTuple):
    """The processes of a training: accelerate's, this one's number among them, their count, and this one's device."""

    accelerator: Any
    rank: int
    world_size: int
    device: Any

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all ranks, which may hold unequal numbers of them."""
        size = torch.tensor([len(rows)], device=rows.device)
        sizes = self.accelerator.gather(size)
        parts = self.accelerator.gather(self.accelerator.pad_across_processes(rows))
        return torch.cat([part[:n] for part, n in zip(parts.chunk(len(sizes)), sizes.tolist(), strict=True)])

    def mean(self, value: float) -> float:
        """Return the mean of a number of each process."""
        if self.world_size == 1:
            return value
        every = self.accelerator.gather(torch.tensor([value], device=self.device, dtype=widest_dtype(self.device)))
        return float(every.mean())

    def any(self, flag: bool) -> bool:
        """Tell whether any process says so; all of them get the same answer."""
        return self.mean(float(flag)) > 0

    def leaders(self, value: Any) -> Any:
        """Return what the first process gives, plain data, on all of them."""
        return value if self.world_size == 1 else broadcast_object_list([value])[0]

    def score(self, rows: list, score: Callable[[list], np.ndarray]) -> Float[Tensor, " n"]:
        """Return the score of every row; each process scores its share of them."""
        share = rows[self.rank :: self.world_size]
        share += rows[:1] * (-(-len(rows) // self.world_size) - len(share))  # as many for all: none waits for ever
        local = torch.from_numpy(score(share)).to(self.device, widest_dtype(self.device))
        every = self.gather(local).cpu().unflatten(0, (self.world_size, -1))
        return every.T.flatten()[: len(rows)]  # row i was the (i // world_size)-th of process i % world_size

    def counter(self, report: Callable[[int, int], None] | None, rows: int) -> Callable[[int], None] | None:
        """Return what tells `report` how many of the rows are scored; each process counts for all of them."""
        if report is None:
            return None
        done = 0

        def count(scored: int) -> None:
            nonlocal done
            done = min(rows, done + scored * self.world_size)
            report(done, rows)

        return count
