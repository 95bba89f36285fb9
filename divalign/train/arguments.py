"""DivergenceConfig: transformers' TrainingArguments and what divergence training adds, under TRL's names."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments

from divalign.core.losses import find_method

NORMALISERS = ("exact", "online", "ema", "microbatch")


@dataclass
class DivergenceConfig(TrainingArguments):
    """Arguments of `DivergenceTrainer`. Defaults are TRL's where TRL has the field.

    `per_device_train_batch_size` counts pairs for paired data (prompt, chosen, rejected) and rows for unpaired data
    (prompt, completion, label), of which every micro-batch holds half aligned and half unaligned.
    """

    method: str = field(
        default="kldo", metadata={"help": "A name of divalign.METHODS, `fdo:<divergence>`, `pkg:thing`."}
    )
    beta: float = field(default=0.1, metadata={"help": "r = beta log pi/pi_ref. Larger stays closer to the reference."})
    max_length: int = field(
        default=1024, metadata={"help": "Tokens of prompt and response together; responses are cut."}
    )
    desirable_weight: float = field(default=1.0, metadata={"help": "Weight of the aligned class mean."})
    undesirable_weight: float = field(default=1.0, metadata={"help": "Weight of the unaligned class mean."})
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

    def __post_init__(self) -> None:
        """Check the fields of our own before transformers checks the rest."""
        find_method(self.method)
        if self.beta <= 0:
            raise ValueError(f"beta is {self.beta}, expected a number above 0; the usual value is 0.1")
        if self.normaliser not in NORMALISERS:
            raise ValueError(f"normaliser is {self.normaliser!r}, expected one of {', '.join(NORMALISERS)}")
        if self.normaliser == "online" and not find_method(self.method).log_mean_exp_baseline:
            raise ValueError(f"normaliser 'online' is for kldo, got {self.method}; its baseline needs 'exact'")
        if not 0 < self.ema_rate <= 1:
            raise ValueError(f"ema_rate is {self.ema_rate}, expected above 0 and at most 1; the usual value is 0.1")
        if getattr(self, "activation_checkpointing", False) is None:  # the name since 5.23, which warns of the old one
            self.activation_checkpointing = self.gradient_checkpointing
        super().__post_init__()
