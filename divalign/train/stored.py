"""What a training writes beside Trainer's own files, and how it is read again: adapters, sharded weights, baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from divalign.data.method_rows import with_control
from divalign.train.adapters import activate, save_as_one
from divalign.train.sharding import whole_state


class StoredTrainer(Trainer):
    """A Trainer whose checkpoints and results hold all that DivergenceTrainer trains."""

    args: Any
    model: Any
    method: Any
    objective: Any
    ranks: Any
    _reference: Any
    _head: Any
    _tokenizer: Any
    _unlogged: Any
    _score_waiting: Any

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Do what Trainer does, and let the prompt baseline learn beside the model, at its own rate."""
        optimizer = super().create_optimizer(model)
        if self._head:
            self._head.join(optimizer, self.args.baseline_learning_rate)
        return optimizer

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self._unlogged.collect()
        if self.objective.released:
            self.objective.average.collect(self.ranks)
        super()._save_checkpoint(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Do what Trainer does; an adapter that was trained beside the model's own is saved as one with it.

        A prompt baseline has a file of its own, and the tokenizer says what texts the model is used with.
        """
        folder = output_dir or str(self.args.output_dir)
        if self.is_fsdp_enabled and not _internal_call:  # of sharded checkpoints Trainer writes no whole weights
            state = whole_state(self.model)
            self._save(folder, state_dict=state)
        else:
            super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            self._save_beside(Path(folder))
        if self._reference.own and not _internal_call:
            save_as_one(self.model, Path(folder), writes=self.args.should_save)

    def _save_beside(self, folder: Path) -> None:
        if self._head:
            self._head.save(folder)
        if self.method.controls:
            with_control(self._tokenizer, self.method.controls.aligned).save_pretrained(str(folder))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Do what Trainer does, which leaves one adapter active where ours are several."""
        self._score_waiting()  # the last moment at which the weights are the reference's
        names = list(self.model.active_adapters) if self._reference.own else []
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._head:
            self._head.load(Path(resume_from_checkpoint))
        if names:
            activate(self.model, names)

    def _load_best_model(self) -> None:
        if not self._reference.own:
            super()._load_best_model()
            if self._head:
                self._head.load(Path(str(self.state.best_model_checkpoint)))
            return None
        return self._load_from_checkpoint(str(self.state.best_model_checkpoint))
