"""DivergenceTrainer: a transformers.Trainer whose loss is a divergence. It holds no mathematics.

The model owns the only weights: the reference is a column of log-probabilities, computed once from the model as it
was handed in (or from `ref_model`), in the precision and on the device of training, and kept by content, so every
method, beta and seed over the same rows shares it.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed
from transformers.trainer_utils import EvalPrediction

from divalign.core.logprobs import log_ratio
from divalign.core.losses import LogRatios, RowBaselines
from divalign.core.precision import widest_dtype
from divalign.lm.score import attach, can_share
from divalign.train.accumulation import Step, response_tokens, whole_ratios
from divalign.train.arguments import DivergenceConfig
from divalign.train.construction import (
    check_arguments,
    disable_dropout,
    load_policy,
    load_tokenizer,
    warn_of_rounding,
)
from divalign.train.couples import check_scored, collate
from divalign.train.displacement import REMEDY, displacement
from divalign.train.lora_products import lora_by_products
from divalign.train.measured import MeasuredTrainer
from divalign.train.not_finite import check_finite, check_gradients
from divalign.train.objective import Objective
from divalign.train.online import OnlineNormaliser, halves
from divalign.train.policy_gradient import Rollouts, SampledStep, each_once, prompts_of, sampled_step
from divalign.train.precision import COMPUTED
from divalign.train.prompt_baseline import HeadGradients, ends_of, make_head, row_baselines
from divalign.train.prompt_clouds import COLUMNS, PromptClouds, check_prompts
from divalign.train.recording import Recorder, Unlogged
from divalign.train.reference import adapt
from divalign.train.rows import as_rows
from divalign.train.running import RunningBaseline
from divalign.train.sharding import is_sharding, keep_outputs
from divalign.train.unsupported import refuse_data_parallel, refuse_processes

logger = logging.getLogger(__name__)
BESIDE = (
    "reference",
    "couples",
    "numbers",
    "unscored",
    "offset",
    *COLUMNS,
)  # of a batch: no arguments of the model's forward


class DivergenceTrainer(MeasuredTrainer):
    """Align a causal language model by maximising a divergence between its aligned and unaligned responses.

    Takes TRL's data columns, `prompt, chosen, rejected` or `prompt, completion, label`, plain or conversational, and
    logs under TRL's names. `train_dataset` and `eval_dataset` are sequences of rows (a `datasets.Dataset` is one).

    `model` may be a folder or hub id, of an adapter too; `quantization_config` then says how its weights are read
    (QLoRA, with `peft_config`). A model that has an adapter keeps it: with `peft_config` a second one is trained beside
    it, without, its own is trained further. `reference_progress` is called with the rows that the reference has scored
    and with their number. Methods that sample responses (`rlhf`, `on_policy:<divergence>`) need `rollouts`.

    Raises ValueError where rows lack columns or a class, where a paired method meets unpaired rows, where `ref_model`
    is the model itself, and for an argument that would be ignored, as `compute_metrics` is: there are no predictions to
    compute on.
    """

    args: DivergenceConfig  # type: ignore[assignment]
    model: Any  # type: ignore[assignment]
    model_wrapped: Any  # type: ignore[assignment]

    def __init__(
        self,
        model: Any,
        ref_model: Any = None,
        args: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: Sequence[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: Any = None,
        quantization_config: Any = None,
        reference_progress: Callable[[int, int], None] | None = None,
        rollouts: Rollouts | None = None,
        **unsupported: Any,
    ) -> None:
        args = args or DivergenceConfig(f"{model if isinstance(model, str) else type(model).__name__}-divalign")
        check_arguments(args, model, ref_model, compute_metrics, quantization_config, unsupported)
        train_dataset = as_rows(train_dataset, "train_dataset")
        tokenizer = processing_class or load_tokenizer(model)
        if isinstance(model, str):
            model = load_policy(model, quantization_config)
        self.objective = Objective(args)
        self.method = self.objective.method
        self._pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self._tokenizer, self._begun, self._on_reference = tokenizer, False, reference_progress
        self._sampled = sampled_step(self.method, rollouts, tokenizer, args)
        if self._sampled and ref_model is None and peft_config is None:
            ref_model = copy.deepcopy(model)  # sampled responses are scored by the reference all along
        if peft_config is not None:
            set_seed(args.seed)  # Trainer does so later, when the adapter's start is batch already
        model, self._reference = adapt(model, ref_model, peft_config, cached=args.reference_cache is not None)
        if args.disable_dropout:
            disable_dropout(model)
        self._step, self._running, self._unlogged = Step(None, 1.0, 1.0), RunningBaseline(), Unlogged(self)
        self._clouds = PromptClouds(self.method.states_loss) if self.method.states_loss else None
        self._displaced = False  # whether the warning was given
        self._share = False  # until the model is where it trains
        self._head = make_head(self.method, model, optimizers)
        head_gradients = [HeadGradients(self._head)] if self._head else []
        super().__init__(
            model=attach(model),
            args=args,
            data_collator=self._collate,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            callbacks=[*(callbacks or []), self._running, self.objective.average, self._unlogged, *head_gradients],
            optimizers=optimizers,
        )
        self._check_processes()
        for callback in head_gradients:
            callback.place(self.args.device, self.accelerator)
        self._take_rows(train_dataset, eval_dataset)
        self._online = OnlineNormaliser(self.model.parameters()) if args.normaliser == "online" else None
        self._left = 0  # micro-batches of the update that are to come
        self.recorder = Recorder(self.model, dtype=COMPUTED.get(self.accelerator.mixed_precision))
        if self._sampled and self._reference.another:
            self._reference.model.to(self.args.device)  # else it would travel there at every update
        self.loss_is_scaled_for_ga = False  # ours is a mean over the micro-batch: Trainer divides by their number

    def _take_rows(self, train_dataset: Any, eval_dataset: Any) -> None:
        """Score the rows with the reference, or, where weights will be sharded, let them wait for that."""
        self._waiting = [] if is_sharding(self.accelerator) else None
        if self._waiting is None:
            self._share = self._can_share()
        self.row_counts = {}
        self.train_dataset: Any = self._couples(train_dataset, "train_dataset")
        self.eval_dataset: Any = self._named_couples(eval_dataset)
        if self._clouds and self.train_dataset is not None:
            check_prompts(self.train_dataset, self.method.name, self._couples_per_update(self.train_dataset))

    def _collate(self, items: Any) -> dict[str, Any]:
        options: Any = {"share": self._share, "prompts": self._clouds is not None}
        batch = collate(items, self._pad_id, dtype=widest_dtype(self.args.device), **options)
        if self._head:
            batch["prompt_ends"] = ends_of(batch)
        return {**batch, "prompts": prompts_of(items)} if self._sampled else batch

    def _check_processes(self) -> None:
        refuse_data_parallel(self.args)
        keep_outputs(self.accelerator)
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):  # which keep float32 weights of their own
            warn_of_rounding(self.model, self.args.learning_rate)
        if self.args.normaliser == "online" and self.args.world_size > 1:
            raise ValueError("normaliser 'online' works on one process; use 'exact', which gathers all ranks' rows")
        if self._sampled:
            refuse_processes(self.args.world_size, f"{self.args.method} samples")
        if self.args.dataloader_drop_last and self.args.world_size > 1:
            raise ValueError("dataloader_drop_last has no effect on several processes, which fill every batch; drop it")
        if self._sampled and not self._reference.lasts:
            raise ValueError("this adapter changes the base, so no reference is left to score samples; give ref_model")
        if self._head and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError("a prompt baseline is not trained under FSDP or DeepSpeed; use DDP, or leave it out")

    def _can_share(self) -> bool:
        """Try the sharing of prompts as training will compute: on this device and in this precision."""
        if not self.args.share_prompts or self.args.normaliser == "online":
            return False
        with self.accelerator.autocast():
            shares = can_share(self.model)
        if not shares:
            logger.info("%s: prompts are not shared; every response has a row of its own", type(self.model).__name__)
        return shares

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Do what Trainer does, and remember that the model is no longer the one that was handed in."""
        self._begun = True
        with lora_by_products(self.model):
            return super().train(*args, **kwargs)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, None]:
        """Fetch the micro-batches of one update and, where the loss depends on all of them, look at them first."""
        if self._waiting is not None:
            raise RuntimeError("the reference was never scored: this transformers shards elsewhere; update it to 5.23")
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        check_scored(sum(batch["unscored"] for batch in batches), sum(len(batch["numbers"]) for batch in batches))
        count = max(len(batches), 1)
        couples = self.ranks.mean(float(sum(batch["couples"] for batch in batches)))
        tokens = self._mean_tokens(batches) if batches and any(self.objective.likelihood) else (0.0, 0.0)
        if self._sampled and batches:
            prompts = each_once(batch["prompts"] for batch in batches)
            batches = [{**batch, "prompts": own} for batch, own in zip(batches, prompts, strict=True)]
            with self.compute_loss_context_manager():
                self._sampled.draw(self.model, prompts, update=self.state.global_step)
        self._step, self._left = Step(self._baseline(batches), couples / count, *tokens), len(batches)
        if self._clouds and (len(batches) > 1 or (batches and self.args.world_size > 1)):
            self._clouds.look_ahead(self._prompt_states(batches), self.ranks)
        return batches, None

    def _mean_tokens(self, batches: list) -> list[float]:
        """Return the scored tokens of a micro-batch's aligned and unaligned responses, a mean over ranks too."""
        sides = zip(*(response_tokens(batch) for batch in batches), strict=True)
        return [self.ranks.mean(float(sum(int(part.sum()) for part in side))) / len(batches) for side in sides]

    def _prompt_states(self, batches: list) -> list[tuple[Tensor, Tensor]]:
        """Return the last-layer states of each micro-batch's prompts and which are harmful, without gradients."""
        parts = []
        with torch.no_grad(), self.compute_loss_context_manager():
            self.model.train()
            for batch in batches:
                inputs = self._prepare_inputs(batch)
                states, harmful = self._outputs(self.model_wrapped, inputs).prompt_states, inputs["harmful"]
                counted = inputs["prompts"] if inputs["couples"] else inputs["prompts"][:0]
                parts.append((states[: len(counted)], harmful[counted]))
        return parts

    def _baseline(self, batches: list) -> Tensor | None:
        """Return the baseline of a step's micro-batches; None where each can take its own, being all there is."""
        alone = len(batches) == 1 and self.args.world_size == 1
        normaliser = self.args.normaliser
        if (
            not (batches and self.objective.needs_step_baseline)
            or normaliser in ("microbatch", "online")
            or (alone and normaliser == "exact")
        ):
            return None
        with torch.no_grad(), self.compute_loss_context_manager():
            self.model.train()
            parts = [self._log_ratios(self.model_wrapped, self._prepare_inputs(batch)) for batch in batches]
        ratios = whole_ratios(parts, self.ranks.gather)
        if normaliser == "ema":
            baseline = self._running.update(self.method, ratios, self.args.ema_rate)
        else:
            baseline = self.method.baseline(ratios)
        check_finite(baseline, "baseline", list(zip(parts, batches, strict=True)), update=self.state.global_step + 1)
        return baseline

    def _log_ratios(self, model: Any, inputs: dict[str, Any]) -> LogRatios:
        """Return r of the couples of a batch that count."""
        return self._counted(self._log_probs(model, inputs), inputs)

    def _counted(self, log_probs: Tensor, inputs: dict[str, Any]) -> LogRatios:
        """Return r = beta (log pi - log pi_ref) of the couples that count; aligned rows stand above unaligned ones."""
        aligned, unaligned = self._r(log_probs, inputs).chunk(2)
        return LogRatios(aligned[: inputs["couples"]], unaligned[: inputs["couples"]])

    def _log_probs(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        return self._outputs(model, inputs).log_probs

    def _outputs(self, model: Any, inputs: dict[str, Any]) -> Any:
        return model(**{name: value for name, value in inputs.items() if name not in BESIDE})

    def _r(self, log_probs: Tensor, inputs: dict[str, Any]) -> Tensor:
        return log_ratio(log_probs, inputs["reference"], self.args.beta)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the objective of a micro-batch, at the baseline and the token count of the whole step."""
        if self._sampled is None:
            return self._rows_loss(model, inputs, return_outputs=return_outputs)
        share = self._sampled.rollouts.offline_weight
        loss = (1 - share) * self._sampled_loss(self._sampled, model, inputs["prompts"])
        return loss + share / self.args.beta * self._rows_loss(model, inputs) if share else loss

    def _sampled_loss(self, sampled: SampledStep, model: Any, prompts: list[list[int]]) -> Tensor:
        if not prompts:  # earlier micro-batches have them all
            return 0 * next(parameter for parameter in model.parameters() if parameter.requires_grad).sum()
        batch = sampled.take(prompts, self._reference, self._pad_id, device=self.args.device)
        layout = self._prepare_inputs(sampled.inputs(batch, self._pad_id, share=self._share))
        self.recorder.speed.add(layout)
        return sampled.loss(batch, self._log_probs(model, layout))

    def _rows_loss(self, model: Any, inputs: dict[str, Any], *, return_outputs: bool = False) -> Any:
        outputs = self._outputs(model, inputs)
        log_probs, couples = outputs.log_probs, inputs["couples"]
        ratios = self._counted(log_probs, inputs)
        if couples:
            read = self._clouds.anchored(ratios, inputs) if self._clouds else ratios
            baseline = row_baselines(self._head and self._head(outputs.prompt_states), inputs.get("offset"))
            loss = self.objective.loss(read, log_probs, self._step, baseline)
            if self._clouds:
                loss = loss + self._clouds.loss(outputs.prompt_states, inputs)
            check_finite(loss, "loss", [(ratios, inputs)], update=self.state.global_step + 1)
        else:  # this process ran out of rows, and takes part for the others
            loss, baseline = 0 * log_probs.sum(), RowBaselines(*ratios[:2])
            if self._clouds:
                loss = loss + self._clouds.loss(outputs.prompt_states[:0], inputs)
        self.recorder.add(ratios, inputs, baseline if self._head else None)
        return (loss, ratios) if return_outputs else loss

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Do what Trainer does, but for the online normaliser, whose two classes go backward apart."""
        self._left -= 1
        value = self._step_of_both(model, inputs, num_items_in_batch)
        if not self._left and not self.accelerator.scaler:  # which skips an update of float16 that overflows
            check_gradients(self.model.parameters(), update=self.state.global_step + 1)
        return value

    def _step_of_both(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Tensor:
        if self._online is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        inputs = self._prepare_inputs(inputs)
        parts, steps = halves(inputs), self.current_gradient_accumulation_steps
        with self.compute_loss_context_manager():
            log_probs = self._log_probs(model, parts[0])
        aligned = self._r(log_probs, parts[0])
        loss = -self.args.desirable_weight * aligned.mean() * self._step.weight(len(aligned))
        if self.objective.likelihood.aligned:
            loss = loss + self.objective.anchor(log_probs, self._step)
        loss = loss / steps
        self.accelerator.backward(loss)
        with self.compute_loss_context_manager():
            unaligned = self._r(self._log_probs(model, parts[1]), parts[1])
        self._online.add(unaligned, self.accelerator.backward)
        value = loss.detach()
        if not self._left:
            value = value + self.args.desirable_weight * self._online.finish(self.args.undesirable_weight)
        self.recorder.add(LogRatios(aligned, unaligned), inputs)
        return value

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to a training log the rewards since the last one, over all rows and ranks, and this process's speed.

        The first row that shows displacement is followed by a warning.
        """
        if "loss" in logs:
            paired = self.train_dataset.paired
            logs = {**logs, **self.recorder.metrics(self.ranks.gather, beta=self.args.beta, paired=paired)}
            logs |= self._clouds.metrics() if self._clouds else {}
            logs |= self._sampled.metrics() if self._sampled else {}
        sign = displacement(logs, beta=self.args.beta)
        if sign and not self._displaced and self.is_world_process_zero():
            self._displaced = True
            logger.warning("displacement: %s; %s", sign, REMEDY)
        super().log(logs, start_time)
