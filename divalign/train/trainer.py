"""DivergenceTrainer: a transformers.Trainer whose loss is a divergence. It holds no mathematics.

The model owns the only weights: the reference is a column of log-probabilities, computed once from the model as it
was handed in (or from `ref_model`), in the precision and on the device of training, and kept by content, so every
method, beta and seed over the same rows shares it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, set_seed
from transformers.trainer_utils import EvalPrediction

from divalign.core.logprobs import log_ratio
from divalign.core.losses import LogRatios, RowBaselines
from divalign.data.method_rows import with_control
from divalign.lm.decoding import evaluating
from divalign.lm.score import attach, can_share, reference_log_probs, sequence_log_probs
from divalign.store import digest
from divalign.train.accumulation import Step, response_tokens, whole_ratios
from divalign.train.adapters import activate, save_as_one
from divalign.train.arguments import DivergenceConfig
from divalign.train.construction import check_arguments, disable_dropout, encode_data, load_policy, load_tokenizer
from divalign.train.couples import Couples, CoupleSampler, RowCounts, collate, scored_couples
from divalign.train.displacement import REMEDY, displacement
from divalign.train.lora_products import lora_by_products
from divalign.train.objective import Objective
from divalign.train.online import OnlineNormaliser, halves
from divalign.train.prompt_baseline import HeadGradients, baselines_of, ends_of, make_head, row_baselines
from divalign.train.ranks import Ranks
from divalign.train.readout import held_out_metrics, held_out_scores, is_supported
from divalign.train.recording import Recorder
from divalign.train.reference import adapt
from divalign.train.rows import as_rows
from divalign.train.running import RunningBaseline

logger = logging.getLogger(__name__)


class DivergenceTrainer(Trainer):
    """Align a causal language model by maximising a divergence between its aligned and unaligned responses.

    Takes TRL's data columns, `prompt, chosen, rejected` or `prompt, completion, label`, plain or conversational, and
    logs under TRL's names. `train_dataset` and `eval_dataset` are sequences of rows (a `datasets.Dataset` is one).

    `model` may be a folder or hub id, of an adapter too; `quantization_config` then says how its weights are read
    (QLoRA, with `peft_config`). A model that has an adapter keeps it: with `peft_config` a second one is trained beside
    it, without, its own is trained further. `reference_progress` is called with the rows that the reference has scored
    and with their number.

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
        if peft_config is not None:
            set_seed(args.seed)  # Trainer does so later, when the adapter's start is drawn already
        model, self._reference = adapt(model, ref_model, peft_config, cached=args.reference_cache is not None)
        if args.disable_dropout:
            disable_dropout(model)
        self._step, self._running = Step(None, 1.0, 1.0), RunningBaseline()
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
            callbacks=[*(callbacks or []), self._running, self.objective.average, *head_gradients],
            optimizers=optimizers,
        )
        self._check_processes()
        for callback in head_gradients:
            callback.place(self.args.device, self.accelerator)
        self._share = args.share_prompts and args.normaliser != "online" and self._can_share()
        self.row_counts: dict[str, RowCounts] = {}
        self.train_dataset: Any = self._couples(train_dataset, "train_dataset")
        self.eval_dataset: Any = self._named_couples(eval_dataset)
        self._online = OnlineNormaliser(self.model.parameters()) if args.normaliser == "online" else None
        self._left = 0  # micro-batches of the update that are to come
        self._recorder = Recorder(self.model)
        self.loss_is_scaled_for_ga = False  # ours is a mean over the micro-batch: Trainer divides by their number

    def _check_processes(self) -> None:
        if self.args.n_gpu > 1:
            raise ValueError(
                f"{self.args.n_gpu} GPUs in one process, which would split packed batches; start one process each with "
                "`accelerate launch` or `torchrun`, or show one GPU with CUDA_VISIBLE_DEVICES"
            )
        if self.args.normaliser == "online" and self.args.world_size > 1:
            raise ValueError("normaliser 'online' works on one process; use 'exact', which gathers all ranks' rows")
        if self._head and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError("a prompt baseline is not trained under FSDP or DeepSpeed; use DDP, or leave it out")

    def _collate(self, items: Any) -> dict[str, Any]:
        batch = collate(items, self._pad_id, share=self._share)
        return {**batch, "prompt_ends": ends_of(batch)} if self._head else batch

    def _can_share(self) -> bool:
        """Try the sharing of prompts as training will compute: on this device and in this precision."""
        with self.accelerator.autocast():
            shares = can_share(self.model)
        if not shares:
            logger.info("%s: prompts are not shared; every response has a row of its own", type(self.model).__name__)
        return shares

    def _named_couples(self, rows: Any) -> Any:
        if isinstance(rows, dict) and "prompt" not in rows:  # several sets, and not the columns of one
            return {name: self._couples(part, f"eval_dataset[{name!r}]") for name, part in rows.items()}
        return self._couples(rows, "eval_dataset")

    def _couples(self, rows: Any, name: str = "the data set") -> Couples | None:
        """Tokenise rows and put the reference's log-probabilities beside them."""
        if rows is None:
            return None
        encoded = encode_data(rows, name, self._tokenizer, self.args)
        self.row_counts[name] = encoded.counts
        references = encoded.references or self._reference_columns(encoded.aligned, encoded.unaligned)
        return scored_couples(encoded, references)

    def _reference_columns(self, aligned: list, unaligned: list) -> tuple[list, list]:
        """Score rows with the reference as the policy is scored: same device, same precision, same layout.

        Raises ValueError where training has begun and the reference was the model itself.
        """
        if self._begun and not self._reference.lasts:
            raise ValueError(
                "the reference was the model before training, which has begun; give these rows to the constructor as "
                "eval_dataset, or give a ref_model, or bring ref_chosen_logps and ref_rejected_logps (ref_logps)"
            )
        cache = self.args.reference_cache if not self._begun else None
        with self._reference.ready(self.args.device) as model, self.accelerator.autocast():
            options: dict[str, Any] = {
                "cache": Path(cache) if cache else None,
                "model_digest": digest(self._reference.digest, self.accelerator.mixed_precision),
                "batch_size": self.args.precompute_ref_batch_size or self.args.per_device_eval_batch_size,
                "on_progress": self._ranks.counter(self._on_reference, len(aligned) + len(unaligned)),
            }
            scores = self._ranks.score(
                [*aligned, *unaligned], lambda share: reference_log_probs(model, share, self._pad_id, **options)
            ).tolist()
        return scores[: len(aligned)], scores[len(aligned) :]

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Do what Trainer does, and remember that the model is no longer the one that was handed in."""
        self._begun = True
        with lora_by_products(self.model):
            return super().train(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        couples: Any = train_dataset or self.train_dataset
        window = self._couples_per_batch(couples) * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return CoupleSampler(couples, seed, window=window)

    def _couples_per_batch(self, couples: Couples, batch_size: int | None = None) -> int:
        """Return the couples of a micro-batch: paired data count couples, unpaired data rows, two to a couple."""
        size = batch_size or self._train_batch_size
        return size if couples.paired else max(1, size // 2)

    def _get_dataloader(self, dataset: Any, description: str, batch_size: int, *args: Any, **kwargs: Any) -> DataLoader:
        """Count rows for unpaired data: a couple is two of them."""
        couples = self._couples_per_batch(dataset, batch_size)
        return super()._get_dataloader(dataset, description, couples, *args, **kwargs)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, None]:
        """Fetch the micro-batches of one update and, where the loss depends on all of them, look at them first."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        count = max(len(batches), 1)
        couples = sum(len(batch["reference"]) / 2 for batch in batches)
        tokens = self._mean_tokens(batches) if batches and any(self.objective.likelihood) else (0.0, 0.0)
        self._step, self._left = Step(self._baseline(batches), couples / count, *tokens), len(batches)
        return batches, None

    def _mean_tokens(self, batches: list) -> list[float]:
        """Return the scored tokens of a micro-batch's aligned and unaligned responses, a mean over ranks too."""
        sides = zip(*(response_tokens(batch) for batch in batches), strict=True)
        return [self._ranks.mean(float(sum(int(part.sum()) for part in side))) / len(batches) for side in sides]

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
        ratios = whole_ratios(parts, self._ranks.gather)
        if normaliser == "ema":
            return self._running.update(self.method, ratios, self.args.ema_rate)
        return self.method.baseline(ratios)

    @property
    def _ranks(self) -> Ranks:
        return Ranks(self.accelerator, self.args.process_index, self.args.world_size, self.args.device)

    def _log_ratios(self, model: Any, inputs: dict[str, Any]) -> LogRatios:
        """Return r = beta (log pi - log pi_ref) of a batch whose aligned rows stand above its unaligned rows."""
        return LogRatios(*self._r(self._log_probs(model, inputs), inputs).chunk(2))

    def _log_probs(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        return self._forward(model, inputs).log_probs

    def _forward(self, model: Any, inputs: dict[str, Any]) -> Any:
        return model(**{name: value for name, value in inputs.items() if name not in ("reference", "offset")})

    def _r(self, log_probs: Tensor, inputs: dict[str, Any]) -> Tensor:
        return log_ratio(log_probs, inputs["reference"], self.args.beta)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the objective of a micro-batch, at the baseline and the token count of the whole step."""
        outputs = self._forward(model, inputs)
        ratios = LogRatios(*self._r(outputs.log_probs, inputs).chunk(2))
        baseline = row_baselines(self._head and self._head(outputs.prompt_states), inputs.get("offset"))
        loss = self.objective.loss(ratios, outputs.log_probs, self._step, baseline)
        self._recorder.add(ratios, inputs, baseline if self._head else None)
        return (loss, ratios) if return_outputs else loss

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Do what Trainer does, but for the online normaliser, whose two classes go backward apart."""
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
        self._left -= 1
        value = loss.detach()
        if not self._left:
            value = value + self.args.desirable_weight * self._online.finish(self.args.undesirable_weight)
        self._recorder.add(LogRatios(aligned, unaligned), inputs)
        return value

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to a training log the rewards since the last one, over all rows and ranks, and this process's speed.

        The first row that shows displacement is followed by a warning.
        """
        if "loss" in logs:
            paired = self.train_dataset.paired
            logs = {**logs, **self._recorder.metrics(self._ranks.gather, beta=self.args.beta, paired=paired)}
        sign = displacement(logs, beta=self.args.beta)
        if sign and not self._displaced and self.is_world_process_zero():
            self._displaced = True
            logger.warning("displacement: %s; %s", sign, REMEDY)
        super().log(logs, start_time)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Do what Trainer does, and let the prompt baseline learn beside the model, at its own rate."""
        optimizer = super().create_optimizer(model)
        if self._head:
            self._head.join(optimizer, self.args.baseline_learning_rate)
        return optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Do what Trainer does; an adapter that was trained beside the model's own is saved as one with it.

        A prompt baseline has a file of its own, and the tokenizer says what texts the model is used with.
        """
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            self._save_beside(Path(output_dir or str(self.args.output_dir)))
        if self._reference.own and not _internal_call and self.args.should_save:
            save_as_one(self.model, Path(output_dir or str(self.args.output_dir)))

    def _save_beside(self, folder: Path) -> None:
        if self._head:
            self._head.save(folder)
        if self.method.controls:
            with_control(self._tokenizer, self.method.controls.aligned).save_pretrained(str(folder))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Do what Trainer does, which leaves one adapter active where ours are several."""
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

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure loss, rewards and divergences with their intervals on the whole held-out set at once.

        Raw rows are taken too; once training has begun, only where the reference is still there. Never changes the
        state of training.
        """
        couples = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(couples, dict):
            parts = [self.evaluate(rows, ignore_keys, f"{metric_key_prefix}_{name}") for name, rows in couples.items()]
            return {name: value for part in parts for name, value in part.items()}
        if not isinstance(couples, Couples):
            couples = self._couples(couples, "eval_dataset")
        if couples is None:
            raise ValueError("nothing to evaluate on; give eval_dataset to the trainer or to evaluate()")
        ratios = self.held_out_ratios(couples)
        options: dict[str, Any] = {"beta": self.args.beta, "paired": couples.paired, "seed": self.args.seed}
        options["baseline"] = self.held_out_baseline(couples)
        measured = held_out_metrics(self.method, *held_out_scores(couples, ratios), **options)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        raise ValueError("predict() has no predictions to give; use held_out_ratios for r of each row, or evaluate()")

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Do what Trainer does, but for a divergence that these rows do not support: that is no new best."""
        name = self.args.metric_for_best_model
        if name is None or is_supported(name, metrics):
            return super()._determine_best_metric(metrics, trial)
        logger.warning("eval_%s is left out: the held-out rows support no such number; no new best model", name)
        return False

    def held_out_ratios(self, couples: Couples) -> LogRatios:
        """Return r of every row of a held-out set, aligned and unaligned."""
        rows = [*couples.aligned, *couples.unaligned]
        with evaluating(self.model), self.accelerator.autocast():
            scores = self._ranks.score(
                [row.row for row in rows],
                lambda share: sequence_log_probs(
                    self.model, share, self._pad_id, batch_size=self.args.per_device_eval_batch_size
                ),
            )
        r = log_ratio(scores, torch.tensor([row.reference for row in rows]), self.args.beta)
        return LogRatios(r[: len(couples.aligned)], r[len(couples.aligned) :])

    def held_out_baseline(self, couples: Couples) -> RowBaselines | None:
        """Return what is taken off r of every row of a held-out set; None for a method without such a baseline."""
        offsets = couples.offsets()
        if self._head is None:
            return row_baselines(None, offsets)
        rows, size = [row.row for row in (*couples.aligned, *couples.unaligned)], self.args.per_device_eval_batch_size
        with evaluating(self.model), self.accelerator.autocast():
            values = baselines_of(self._head, self.model, rows, self._pad_id, batch_size=size)
        split = len(couples.aligned)
        return RowBaselines(-values[:split], -values[split:])
