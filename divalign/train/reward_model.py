"""A reward model from pairs: the base with a scalar head, trained with the Bradley-Terry loss.

    loss = mean over pairs of -log sigmoid(reward(x, chosen) - reward(x, rejected))

The head reads the hidden state of the token that ends the response, in training and in scoring alike: what a template
writes behind that token is cut off, and a response that was cut gets the token. Dropout is off. What is saved is a
whole sequence classifier (an adapter merged into its base), which `lm.reward.RewardModel` reads.
Source: Christiano et al. 2017, arXiv 1706.03741, eq. 1; Ouyang et al. 2022, arXiv 2203.02155, eq. 1.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from divalign.core.losses import find_method
from divalign.core.reward_quality import PairQuality, pair_quality
from divalign.data.batching import pad_right
from divalign.data.examples import Row
from divalign.data.rendering import encode_response
from divalign.lm.backbone import backbone_of
from divalign.lm.generate import end_tokens
from divalign.lm.load import LM, quietly
from divalign.lm.reward import ENDS, RewardModel, rewards_at_end, up_to_end
from divalign.store import digest
from divalign.train.construction import disable_dropout
from divalign.train.couples import EncodedRows, encode_rows
from divalign.train.policy_gradient import Completion
from divalign.train.precision import autocast_settings, narrow, widen
from divalign.train.ranks import Ranks
from divalign.train.resume import newest_checkpoint
from divalign.train.run import StoppedError, Watch, Watching
from divalign.train.unsupported import refuse_data_parallel, refuse_processes


@dataclass(frozen=True, kw_only=True)
class RewardTraining:
    """How a reward model is trained: `updates` of `pairs_per_update` pairs, `pairs_per_batch` of them a forward."""

    updates: int = 60
    pairs_per_update: int = 32
    pairs_per_batch: int = 32
    learning_rate: float = 5e-5
    warmup_updates: int = 6
    max_length: int = 1024
    seed: int = 0
    too_long: str = "refuse"

    def __post_init__(self) -> None:
        """Raise ValueError where the pairs of a forward do not divide those of an update."""
        if self.pairs_per_update % self.pairs_per_batch:
            raise ValueError(
                f"pairs_per_update is {self.pairs_per_update}, which pairs_per_batch {self.pairs_per_batch} does not "
                "divide; make it a multiple"
            )

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights, however an update is split."""
        return {name: value for name, value in asdict(self).items() if name != "pairs_per_batch"}


class PairLoss(nn.Module):
    """The rewards of pairs as a module, which is what transformers' Trainer trains."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids: Int[Tensor, "b t"], attention_mask: Int[Tensor, "b t"]) -> dict[str, Tensor]:
        """Return reward(chosen) - reward(rejected); the chosen rows stand above the rejected ones."""
        chosen, rejected = rewards_at_end(self.classifier, input_ids, attention_mask).chunk(2)
        return {"margins": chosen - rejected}


def pair_loss(
    outputs: dict[str, Tensor], labels: Int[Tensor, " b"], num_items_in_batch: Tensor | int
) -> Float[Tensor, ""]:
    """Return a forward's part of the mean loss over the pairs of its update, which may be fewer at an epoch's end."""
    loss = find_method("dpo").aligned_loss(outputs["margins"]).mean()
    return loss * (len(labels) / num_items_in_batch)


def train_reward_model(
    lm: LM,
    rows: Sequence[Row],
    folder: Path,
    plan: RewardTraining,
    *,
    lora: dict[str, Any] | None = None,
    work: Path,
    watch: Watch | None = None,
) -> None:
    """Train a copy of `lm` with a scalar head on pairs, and write it with its tokenizer to `folder`.

    A stopped training resumes from the last whole checkpoint in `work`. Half precision is treated as in
    `train_and_save`.

    Raises ValueError for rows that are no pairs, and for an architecture without a sequence classifier; StoppedError
    where `watch` said to stop.
    """
    encoded = encode_rows(rows, lm.tokenizer, max_length=plan.max_length, too_long=plan.too_long)
    if not encoded.paired:
        raise ValueError("a reward model learns from pairs; expected prompt, chosen, rejected, or another reward")
    torch.manual_seed(plan.seed)
    classifier = scalar_head(lm)
    ends = classifier.config.reward_end_tokens
    if lora is not None:
        config = LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], target_modules="all-linear", task_type="SEQ_CLS")
        classifier = get_peft_model(classifier, config)
    disable_dropout(classifier)
    masters, on_cpu = widen(classifier), torch.device(lm.model.device).type == "cpu"  # of an adapter's, the head
    precision = autocast_settings(masters, on_cpu=on_cpu)
    identity = {"model": lm.digest, "rows": digest(list(rows)), "lora": lora, **precision, **plan.identity()}
    arguments = _arguments(plan, work, use_cpu=on_cpu, **precision)
    refuse_data_parallel(arguments)
    refuse_processes(arguments.world_size, "a reward model is trained")
    with quietly():
        last = newest_checkpoint(work, identity)
        trainer = Trainer(
            model=PairLoss(classifier),
            args=arguments,
            train_dataset=_pairs(encoded, ends),  # type: ignore[arg-type]
            data_collator=lambda items: _collate(items, lm.tokenizer.pad_token_id),
            compute_loss_func=pair_loss,
        )
        trainer.remove_callback(PrinterCallback)
        ranks = Ranks(trainer.accelerator, trainer.args.process_index, trainer.args.world_size, trainer.args.device)
        watching = Watching(watch or Watch(), ranks)
        trainer.add_callback(watching)
        trainer.train(resume_from_checkpoint=last)
        if watching.stopped:
            state = trainer.state
            raise StoppedError(f"after update {state.global_step} of {state.max_steps}, which is saved")
    narrow(classifier, masters)
    merged: Any = classifier.merge_and_unload() if isinstance(classifier, PeftModel) else classifier
    merged.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)


def scalar_head(lm: LM) -> Any:
    """Return a copy of the model with a scalar head of zeros in place of its language-model head: every reward is 0."""
    causal: Any = lm.model
    if isinstance(causal, PeftModel):
        causal = copy.deepcopy(causal).merge_and_unload()
    labels = {"id2label": {0: "reward"}, "label2id": {"reward": 0}}
    config = type(causal.config).from_dict({**causal.config.to_dict(), **labels})
    setattr(config, ENDS, [lm.tokenizer.eos_token_id, *sorted(end_tokens(causal, lm.tokenizer))])
    config.get_text_config().pad_token_id = lm.tokenizer.pad_token_id
    try:
        classifier = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise ValueError(f"{type(causal).__name__} has no sequence classifier in transformers: {error}") from error
    if not isinstance(getattr(classifier, "score", None), nn.Linear):
        raise ValueError(f"{type(classifier).__name__} has no linear head called score, which the reward is read from")
    nn.init.zeros_(classifier.score.weight)
    backbone_of(classifier).load_state_dict(backbone_of(causal).state_dict())
    return classifier.to(device=causal.device, dtype=causal.dtype)


def held_out_quality(source: Path, rows: Sequence[Row], plan: RewardTraining, *, device: str) -> PairQuality:
    """Return the figures of a saved reward model on pairs that it was not trained on; prompts are the clusters."""
    model = RewardModel(str(source), device=device, batch_size=2 * plan.pairs_per_batch)
    encoded = encode_rows(rows, model.tokenizer, max_length=plan.max_length, too_long="skip")
    chosen, rejected = (np.array(model.score_tokens(side)) for side in (encoded.aligned, encoded.unaligned))
    return pair_quality(chosen - rejected, encoded.clusters[0])


def scorer(
    source: Path, tokenizer: Any, *, device: str, batch_size: int = 64
) -> Callable[[Sequence[Completion]], list[float]]:
    """Return the reward by a saved reward model of completions that a policy with this tokenizer has sampled.

    Where both have one vocabulary and one chat template the model reads the very tokens that were sampled; else it
    reads the text, in its own tokens and written by its own template.

    Raises ValueError where it lacks a chat template and the policy has one.
    """
    model = RewardModel(str(source), device=device, batch_size=batch_size)
    own = model.tokenizer
    if own.chat_template == tokenizer.chat_template and own.get_vocab() == tokenizer.get_vocab():
        return lambda completions: model.score_tokens([completion.sample.tokens for completion in completions])
    if not own.chat_template:
        raise ValueError(
            f"the reward model {source} has no chat template and the policy has one, so it cannot read the policy's "
            "conversations; save a chat template with its tokenizer, or choose another reward"
        )
    return lambda completions: model.score_tokens(
        [encode_response(own, each.row, each.response, max_length=sys.maxsize) for each in completions]
    )


def _pairs(encoded: EncodedRows, ends: Sequence[int]) -> list[dict[str, list[int]]]:
    sides = zip(encoded.aligned, encoded.unaligned, strict=True)
    return [{"chosen": up_to_end(chosen, ends), "rejected": up_to_end(rejected, ends)} for chosen, rejected in sides]


def _collate(items: Sequence[dict[str, list[int]]], pad: int) -> dict[str, Tensor]:
    ids = [item[side] for side in ("chosen", "rejected") for item in items]
    mask = pad_right([[1] * len(row) for row in ids], 0)
    counted = torch.zeros(len(items), dtype=torch.long)  # what transformers counts the pairs of an update by
    return {"input_ids": pad_right(ids, pad), "attention_mask": mask, "labels": counted}


def _arguments(plan: RewardTraining, work: Path, **settings: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(work),
        max_steps=plan.updates,
        per_device_train_batch_size=plan.pairs_per_batch,
        gradient_accumulation_steps=plan.pairs_per_update // plan.pairs_per_batch,
        learning_rate=plan.learning_rate,
        warmup_steps=plan.warmup_updates,
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        seed=plan.seed,
        save_strategy="steps",
        save_steps=max(1, plan.updates // 10),
        save_total_limit=1,
        logging_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
        **settings,
    )
