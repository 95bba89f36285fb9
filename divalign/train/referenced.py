"""Rows with the reference's log-probabilities, which are computed once, before the weights move."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from divalign.train.batched import BatchedTrainer
from divalign.train.construction import encode_data
from divalign.train.couples import Couples, RowCounts, RowNumbers, scored_couples
from divalign.train.reference import reference_scores


class ReferencedTrainer(BatchedTrainer):
    """A Trainer whose data sets are couples of rows, scored by the reference as the policy is scored."""

    row_counts: dict[str, RowCounts]
    _waiting: list[tuple[Couples, RowNumbers]] | None
    _begun: bool
    _share: bool
    _pad_id: Any
    _sampled: Any
    _on_reference: Any
    _can_share: Any

    def _named_couples(self, rows: Any) -> Any:
        if isinstance(rows, dict) and "prompt" not in rows:  # several sets, and not the columns of one
            return {name: self._couples(part, f"eval_dataset[{name!r}]") for name, part in rows.items()}
        return self._couples(rows, "eval_dataset")

    def _couples(self, rows: Any, name: str = "the data set") -> Couples | None:
        """Tokenise rows and put the reference's log-probabilities beside those that will be read."""
        if rows is None:
            return None
        encoded = encode_data(rows, name, self._tokenizer, self.args)
        self.row_counts[name] = encoded.counts
        if self._sampled and name == "train_dataset":
            self._sampled.set_rows(encoded)
        couples = scored_couples(encoded)
        if encoded.references is None:
            rows = self._rows_trained_on(couples) if name == "train_dataset" else couples.numbers()
            self._score(couples, rows)
        return couples

    def _score(self, couples: Couples, rows: RowNumbers) -> None:
        """Score rows with the reference as the policy is scored: same device, same precision, same layout.

        Where the weights are not sharded yet, they wait for that. Raises ValueError where training has begun and the
        reference was the model itself.
        """
        if self._begun and not self._reference.lasts:
            raise ValueError(
                "the reference was the model before training, which has begun; give these rows to the constructor as "
                "eval_dataset, or give a ref_model, or bring ref_chosen_logps and ref_rejected_logps (ref_logps)"
            )
        if self._waiting is not None and not self._reference.another:
            self._waiting.append((couples, rows))
        else:
            self._set_scores(couples, rows, cached=not self._begun)

    def _set_scores(self, couples: Couples, rows: RowNumbers, *, cached: bool) -> None:
        """Raise ValueError, with the row, where the reference has no number for one."""
        sides = self._scores(*couples.texts(rows), cached=cached)
        couples.set_references(rows, *sides)
        for side, numbers, scores in zip((couples.aligned, couples.unaligned), rows, sides, strict=True):
            bad = [side[number].number for number, score in zip(numbers, scores, strict=True) if math.isnan(score)]
            if bad:
                raise ValueError(
                    f"the reference's log-probability of row {bad[0]} is not a number ({len(bad)} of {len(scores)} "
                    "rows): a weight of it is NaN, or float16 overflows; load it in float32 or bfloat16"
                )

    def _scores(self, aligned: list, unaligned: list, *, cached: bool) -> tuple[list, list]:
        """Return the reference's log-probabilities of aligned and of unaligned rows, in nats."""
        with self._reference.ready(self.args.device) as model, self.accelerator.autocast():
            scores = reference_scores(
                self._reference,
                model,
                [*aligned, *unaligned],
                self.ranks,
                cache=Path(self.args.reference_cache) if self.args.reference_cache and cached else None,
                report=self._on_reference,
                pad_id=self._pad_id,
                batch_size=self.args.precompute_ref_batch_size or self.args.per_device_eval_batch_size,
            )
        return scores[: len(aligned)], scores[len(aligned) :]

    def _score_waiting(self) -> None:
        """Score the rows that have waited for the sharding of the weights, which training has not moved yet."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        self._share = self._can_share()
        for couples, rows in waiting:
            self._set_scores(couples, rows, cached=True)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """Do what Trainer does, which shards the weights; without a checkpoint they are still the reference's.

        Raises ValueError where DeepSpeed would load a checkpoint before the reference is scored.
        """
        stored = self.args.reference_cache or self._reference.lasts
        if self.is_deepspeed_enabled and resume_from_checkpoint and self._waiting and not stored:
            raise ValueError(
                "DeepSpeed loads a checkpoint as it shards the weights, before the reference can be scored again; set "
                "reference_cache, which keeps it from the first start"
            )
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        self._score_waiting()
        return prepared
