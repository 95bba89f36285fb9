"""Batches of couples: their sizes in couples, their order, and which rows the updates of a training read."""

from __future__ import annotations

from itertools import islice
from math import ceil
from typing import Any

from torch.utils.data import DataLoader, Sampler

from divalign.train.couples import Couples, CoupleSampler, RowNumbers, rows_of
from divalign.train.ranks import Ranks
from divalign.train.stored import StoredTrainer


class BatchedTrainer(StoredTrainer):
    """A Trainer whose data sets are couples: paired data count couples, unpaired data rows, two to a couple."""

    @property
    def ranks(self) -> Ranks:
        """The processes of this training."""
        return Ranks(self.accelerator, self.args.process_index, self.args.world_size, self.args.device)

    def _couple_sampler(self, couples: Couples) -> CoupleSampler:
        at_once = self._couples_per_batch(couples) * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        multiple = at_once if self.args.world_size > 1 else 1
        return CoupleSampler(couples, seed, window=self._couples_per_update(couples), multiple=multiple)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        couples: Any = train_dataset or self.train_dataset
        sampler = self._couple_sampler(couples)
        self.remove_callback(CoupleSampler)
        self.add_callback(sampler)
        return sampler

    def _rows_trained_on(self, couples: Couples) -> RowNumbers:
        """Return the rows that the updates of this training read; all of them from the end of the first epoch on."""
        window = self._couples_per_update(couples)
        updates = self.args.max_steps
        if updates <= 0:
            updates = ceil(self.args.num_train_epochs * ceil(len(couples) / window))
        if updates * window >= len(couples) or self.args.dataloader_drop_last:  # which starts the second epoch earlier
            return couples.numbers()
        return rows_of(islice(self._couple_sampler(couples), updates * window))

    def _couples_per_batch(self, couples: Couples, batch_size: int | None = None) -> int:
        """Return the couples of a micro-batch.

        In training unpaired rows are an even number, which `encode_data` checks.
        """
        size = batch_size or self._train_batch_size
        return size if couples.paired else max(1, size // 2)

    def _couples_per_update(self, couples: Couples) -> int:
        return self._couples_per_batch(couples) * self.args.gradient_accumulation_steps * self.args.world_size

    def _get_dataloader(self, dataset: Any, description: str, batch_size: int, *args: Any, **kwargs: Any) -> DataLoader:
        couples = self._couples_per_batch(dataset, batch_size)
        return super()._get_dataloader(dataset, description, couples, *args, **kwargs)
