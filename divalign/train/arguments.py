"""DivergenceConfig: transformers' TrainingArguments and what divergence training adds, under TRL's names."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from transformers import TrainingArguments

from divalign.core.losses import Method, find_method, with_baseline
from divalign.core.paper_code import PAPER_CODE
from divalign.train.unsupported import TRL_ARGUMENTS, refuse_arguments, refuse_without_effect

NORMALISERS = ("exact", "online", "ema", "microbatch")
VARIANTS = ("paper", "paper_code")
TOO_LONG = ("refuse", "skip")
BASELINES = ("own", "prompt")
BASELINE_LEARNING_RATE = 0.1


@dataclass
class DivergenceConfig(TrainingArguments):
    """Arguments of `DivergenceTrainer`. Defaults are TRL's where TRL has the field.

    `per_device_train_batch_size` counts pairs for paired data (prompt, chosen, rejected) and rows for unpaired data
    (prompt, completion, label), of which every micro-batch holds half aligned and half unaligned: an even number.

    Raises ValueError for a value out of range, and for an option that would have no effect or that only TRL has, with
    what to set instead.
    """

    method: str = field(
        default="kldo", metadata={"help": "A name of divalign.METHODS, `fdo:<divergence>`, `pkg:thing`."}
    )
    beta: float = field(default=0.1, metadata={"help": "r = beta log pi/pi_ref. Larger stays closer to the reference."})
    max_length: int | None = field(
        default=1024, metadata={"help": "Tokens of prompt and response; longer responses are cut. None: no limit."}
    )
    too_long: str = field(
        default="refuse",
        metadata={
            "help": "Rows whose prompt leaves no room for a response within max_length: `refuse` the data set, or "
            "`skip` and count them."
        },
    )
    desirable_weight: float = field(
        default=1.0,
        metadata={
            "help": "Weight of the mean loss of the aligned rows. Classes count alike whatever their size; TRL's "
            "weight w is w n_desirable / (n_desirable + n_undesirable) here."
        },
    )
    undesirable_weight: float = field(
        default=1.0, metadata={"help": "Weight of the mean loss of the unaligned rows; see desirable_weight."}
    )
    sft_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the mean negative log-likelihood per token of the aligned responses, added to the loss "
            "of every method (TRL: loss_type 'sft', rpo_alpha). 0: the paper's objective."
        },
    )
    baseline: str = field(
        default="own",
        metadata={
            "help": "`own`: what the method takes off r by itself; `prompt`: a learned head on the prompt in its "
            "place, as METHOD+prompt. It closes the gap of a policy that must sum to 1; pointwise methods alone."
        },
    )
    baseline_learning_rate: float = field(
        default=BASELINE_LEARNING_RATE,
        metadata={"help": "Learning rate of the prompt baseline: about as many nats of r an update, twice at most."},
    )
    variant: str = field(
        default="paper",
        metadata={"help": "`paper`: the formulas; `paper_code`: what the code released with the paper computes."},
    )
    normaliser: str = field(
        default="exact",
        metadata={
            "help": "What the baseline is computed from: `exact` the whole optimizer step over all micro-batches and "
            "ranks; `online` the same for kldo on one process, without a second forward; `ema` a moving average over "
            "steps, kept in the checkpoint; `microbatch` each micro-batch alone. The last two are biased, for "
            "comparison."
        },
    )
    ema_rate: float = field(default=0.1, metadata={"help": "Weight of the newest step in the `ema` normaliser."})
    share_prompts: bool = field(
        default=True,
        metadata={"help": "Run a prompt once for all responses of a batch to it, where the architecture allows."},
    )
    disable_dropout: bool = field(default=True, metadata={"help": "Turn dropout off, so that r starts at 0 exactly."})
    reference_cache: str | None = field(
        default=None, metadata={"help": "Folder that keeps reference log-probabilities by the reference's weights."}
    )
    precompute_ref_batch_size: int | None = field(
        default=None, metadata={"help": "Rows per forward of the reference pass; the evaluation batch size if None."}
    )

    learning_rate: float = field(default=1e-6, metadata={"help": "Initial learning rate."})
    logging_steps: float = field(default=10, metadata={"help": "Log every so many updates."})
    gradient_checkpointing: bool | None = field(default=True, metadata={"help": "Trade compute for memory."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Off: the trainer reads the columns itself."})

    def __new__(cls, *args: Any, **options: Any) -> DivergenceConfig:
        """Refuse TRL's arguments before `__init__` can only say that it does not know them."""
        names = {entry.name for entry in fields(cls)}
        refuse_arguments((name for name in options if name not in names), TRL_ARGUMENTS, cls.__name__)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Check the fields of our own before transformers checks the rest."""
        _check_values(self)
        self.method = with_baseline(self.method, self.baseline)
        method = find_method(self.method)
        _check_effects(self, method)
        if self.variant == "paper_code":
            _check_paper_code(self)
        refuse_without_effect(self)
        if getattr(self, "activation_checkpointing", False) is None:  # the name since 5.23, which warns of the old one
            self.activation_checkpointing = self.gradient_checkpointing
        super().__post_init__()


def _check_values(args: DivergenceConfig) -> None:
    if args.beta <= 0:
        raise ValueError(f"beta is {args.beta}, expected a number above 0; the usual value is 0.1")
    if not 0 < args.ema_rate <= 1:
        raise ValueError(f"ema_rate is {args.ema_rate}, expected above 0 and at most 1; the usual value is 0.1")
    if args.max_length is not None and args.max_length < 2:
        raise ValueError(f"max_length is {args.max_length}, expected at least 2 tokens, or None for no limit")
    for name in ("sft_weight", "desirable_weight", "undesirable_weight"):
        value = getattr(args, name)
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} is {value}, expected a number of at least 0")
    if not 0 < args.baseline_learning_rate < float("inf"):
        raise ValueError(f"baseline_learning_rate is {args.baseline_learning_rate}, expected above 0, such as 0.1")
    choices_of = {"normaliser": NORMALISERS, "variant": VARIANTS, "too_long": TOO_LONG, "baseline": BASELINES}
    for name, choices in choices_of.items():
        if getattr(args, name) not in choices:
            raise ValueError(f"{name} is {getattr(args, name)!r}, expected one of {', '.join(choices)}")


def _check_effects(args: DivergenceConfig, method: Method) -> None:
    """Raise ValueError for an option of our own that this method would ignore."""
    if args.normaliser == "online" and not method.log_mean_exp_baseline:
        raise ValueError(f"normaliser 'online' is for kldo, got {args.method}; its baseline needs 'exact'")
    if args.normaliser != "exact" and not method.has_baseline:
        raise ValueError(f"normaliser {args.normaliser!r} has no effect: {args.method} has no baseline; leave it out")
    if args.baseline_learning_rate != BASELINE_LEARNING_RATE and not method.prompt_baseline:
        raise ValueError(
            f"baseline_learning_rate is {args.baseline_learning_rate}, which has no effect; set baseline='prompt' or "
            "leave it out"
        )
    if args.ema_rate != 0.1 and args.normaliser != "ema":
        raise ValueError(f"ema_rate is {args.ema_rate}, which has no effect; set normaliser='ema' or leave it out")
    if method.paired and (args.desirable_weight, args.undesirable_weight) != (1, 1):
        raise ValueError(
            f"desirable_weight and undesirable_weight have no effect on {args.method}, which compares the two "
            "responses of a pair; leave both at 1, or use an unpaired method such as kto"
        )


def _check_paper_code(args: DivergenceConfig) -> None:
    if args.method not in PAPER_CODE:
        raise ValueError(
            f"variant 'paper_code' is for {' and '.join(PAPER_CODE)}, got {args.method}, for which the released code "
            "computes the paper's loss; leave variant out"
        )
    if args.normaliser != "exact" or (args.desirable_weight, args.undesirable_weight) != (1, 1):
        raise ValueError(
            "variant 'paper_code' has its own moving average and no class weights; leave normaliser, desirable_weight "
            "and undesirable_weight out"
        )
