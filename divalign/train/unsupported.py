"""Arguments of TRL and transformers that have no effect here: refused, with the remedy.

An option that is silently ignored gives a model other than the one asked for, so each is refused where it is set.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

METRICS = "no predictions are made here, so it has no effect; use held_out_ratios, or what evaluate() returns"
FULL_EVALUATION = "evaluation runs in the precision of training, so that r is comparable; use bf16 or fp16"
SAMPLING = "batches are couples of aligned and unaligned rows in random order, like lengths together; leave it out"
COMPILE = "packed batches have another shape each time and would be compiled again for each; leave it out"
LIGER = "it replaces the model's forward, which scores responses here; leave it out"

# Fields of transformers.TrainingArguments that do nothing here, each with the value it must keep.
WITHOUT_EFFECT: dict[str, tuple[Any, str]] = {
    "label_smoothing_factor": (0.0, "it smooths token labels, which no loss here has; use method='dpo(0.1)'"),
    "label_names": (None, "labels come from the columns of the rows; leave it out"),
    "prediction_loss_only": (False, METRICS),
    "include_for_metrics": ([], METRICS),
    "batch_eval_metrics": (False, METRICS),
    "eval_do_concat_batches": (True, METRICS),
    "eval_use_gather_object": (False, METRICS),
    "eval_accumulation_steps": (None, METRICS),
    "bf16_full_eval": (False, FULL_EVALUATION),
    "fp16_full_eval": (False, FULL_EVALUATION),
    "train_sampling_strategy": ("random", SAMPLING),
    "length_column_name": ("length", SAMPLING),
    "average_tokens_across_devices": (True, "an update's means are always over all devices; leave it out"),
    "use_cache": (False, "a training forward keeps no key-value cache; leave it out"),
    "torch_compile": (False, COMPILE),
    "torch_compile_backend": (None, COMPILE),
    "torch_compile_mode": (None, COMPILE),
    "use_liger_kernel": (False, LIGER),
    "liger_kernel_config": (None, LIGER),
}

_REFERENCE = "the reference is fixed: it is scored once, before training; leave it out"
_LOAD = "load the model yourself and give it to the trainer"
_METHOD = "the loss is named by method: METHODS lists them, e.g. method='dpo', 'kto', 'ipo'"
_F_DPO = "method='fdo:<divergence>' names the divergence between aligned and unaligned responses"
_LENGTH = "max_length limits prompt and response together"
_PAD = "set tokenizer.pad_token and give the tokenizer as processing_class"
_AUXILIARY = "no auxiliary loss of experts is added; leave it out"
_GENERATE = "nothing is generated during training; leave it out"
_ADAPTER = "the reference is the model as handed in, adapters included; leave it out"
_FASTER = "only scored tokens are projected to logits already; leave it out"
_DENSITY = "rows are not reweighted by a density ratio; leave it out"

TRL_ARGUMENTS: dict[str, str] = {
    "loss_type": _METHOD,
    "loss": _METHOD,
    "loss_weights": "the likelihood of the chosen response is added with sft_weight; leave it out",
    "rpo_alpha": "the same term is sft_weight",
    "cpo_alpha": "the same term is sft_weight",
    "label_smoothing": "it is part of the method: method='dpo(0.1)'",
    "f_divergence_type": _F_DPO,
    "f_alpha_divergence_coef": _F_DPO,
    "discopop_tau": _METHOD,
    "use_weighting": "pairs are not weighted by their likelihood; leave it out",
    "ld_alpha": "all tokens of a response count alike; leave it out",
    "reference_free": "r is always against a reference; leave it out",
    "precompute_ref_log_probs": "the reference is always scored once, before training; leave it out",
    "sync_ref_model": _REFERENCE,
    "ref_model_mixup_alpha": _REFERENCE,
    "ref_model_sync_steps": _REFERENCE,
    "force_use_ref_model": _REFERENCE,
    "model_adapter_name": _ADAPTER,
    "ref_adapter_name": _ADAPTER,
    "model_init_kwargs": _LOAD,
    "ref_model_init_kwargs": _LOAD,
    "trust_remote_code": _LOAD,
    "router_aux_loss_coef": _AUXILIARY,
    "dataset_num_proc": "rows are tokenised in one process; leave it out",
    "max_prompt_length": _LENGTH,
    "max_completion_length": _LENGTH,
    "truncation_mode": "responses are cut at their end; leave it out",
    "padding_free": "share_prompts packs rows; leave it out",
    "pad_to_multiple_of": "rows are packed and padded to the longest; leave it out",
    "pad_token": _PAD,
    "padding_value": _PAD,
    "label_pad_token_id": "there are no padded labels; leave it out",
    "activation_offloading": "it is not offered; use gradient_checkpointing",
    "use_logits_to_keep": _FASTER,
    "use_liger_loss": _FASTER,
    "generate_during_eval": _GENERATE,
    "is_encoder_decoder": "only causal language models are trained; leave it out",
    "base_model_attribute_name": _FASTER,
    "tools": "write the tools into the prompts' text; leave it out",
    "prompt_sample_size": _DENSITY,
    "min_density_ratio": _DENSITY,
    "max_density_ratio": _DENSITY,
}

TRAINER_ARGUMENTS: dict[str, str] = {
    "tokenizer": "give it as processing_class",
    "data_collator": "batches are laid out by the trainer; leave it out",
    "model_init": "give the model itself",
    "compute_loss_func": "give a method of your own: method='package.module:thing'",
    "preprocess_logits_for_metrics": "there are no logits to keep; leave it out",
    "optimizer_cls_and_kwargs": "give optimizers=(optimizer, scheduler)",
    "formatting_func": "give rows with prompt, chosen, rejected or prompt, completion, label",
    "dataset_text_field": "give rows with prompt, chosen, rejected or prompt, completion, label",
    "beta": "set it in DivergenceConfig",
    "max_length": "set it in DivergenceConfig",
}


def refuse_arguments(names: Iterable[str], remedies: dict[str, str], owner: str) -> None:
    """Raise ValueError, with what to do instead, for the first of `names` that stands in `remedies`."""
    for name in names:
        if name in remedies:
            raise ValueError(f"{owner} does not take {name}: {remedies[name]}")


def refuse_without_effect(arguments: Any) -> None:
    """Raise ValueError for a field of transformers' TrainingArguments that is set and would be ignored."""
    for name, (neutral, remedy) in WITHOUT_EFFECT.items():
        value = getattr(arguments, name, neutral)
        if value != neutral and not (not value and not neutral):
            raise ValueError(f"{name} is {value!r}, which has no effect here: {remedy}")


def refuse_processes(count: int, what: str) -> None:
    """Raise ValueError for several processes where `what` is done on one."""
    if count > 1:
        raise ValueError(f"{what} on one process, and there are {count}; start it without accelerate or torchrun")


def refuse_data_parallel(args: Any) -> None:
    """Raise ValueError for several GPUs in one process: nn.DataParallel splits batches whose rows belong together."""
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs in one process, which would split packed batches; start one process each with "
            "`accelerate launch` or `torchrun`, or show one GPU with CUDA_VISIBLE_DEVICES"
        )
