"""Train a loaded model and leave the result in a folder: what the command line and a study call."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from divalign.data.examples import Row
from divalign.lm.load import LM, quietly
from divalign.train.arguments import DivergenceConfig
from divalign.train.trainer import DivergenceTrainer


class _Steps(TrainerCallback):
    """Tell a function of every finished update."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance = advance

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.advance(1)


def train_and_save(
    lm: LM,
    rows: Sequence[Row],
    folder: Path,
    *,
    advance: Callable[[int], None] = lambda done: None,
    cache: Path | None = None,
    lora: dict[str, Any] | None = None,
    on_cpu: bool = False,
    **settings: Any,
) -> list[dict[str, float]]:
    """Train `lm` on TRL rows, write its weights (with `lora`, the adapter) and tokenizer to `folder`; return the log.

    `settings` are fields of `DivergenceConfig`. The learning rate warms up linearly and ends at 0 on a cosine;
    gradients are clipped at norm 1; no weight decay. `cache` keeps reference log-probabilities for other methods,
    betas and seeds. The model handed in is changed.
    """
    with tempfile.TemporaryDirectory() as scratch, quietly():
        arguments = DivergenceConfig(
            output_dir=scratch,
            lr_scheduler_type="cosine",
            weight_decay=0.0,
            save_strategy="no",
            report_to="none",
            use_cpu=on_cpu,
            gradient_checkpointing=False,
            disable_tqdm=True,
            logging_first_step=True,
            reference_cache=str(cache) if cache else None,
            **settings,
        )
        trainer = DivergenceTrainer(
            lm.model,
            args=arguments,
            train_dataset=rows,
            processing_class=lm.tokenizer,
            callbacks=[_Steps(advance)],
            peft_config=_lora(lora) if lora else None,
            reference_digest=lm.digest,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        trainer.model.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
    return [row for row in trainer.state.log_history if "loss" in row]


def _lora(options: dict[str, Any]) -> LoraConfig:
    return LoraConfig(
        r=options["rank"],
        lora_alpha=options["alpha"],
        lora_dropout=options["dropout"],
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )
