"""Train a loaded model and leave the result in a folder: what the command line and a study call."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint

from divalign.data.examples import Row
from divalign.lm.load import LM, quietly
from divalign.train.arguments import DivergenceConfig
from divalign.train.trainer import DivergenceTrainer


class _Steps(TrainerCallback):
    """Tell a function of every finished update."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance = advance

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.advance(state.global_step)  # a resumed run has done some already

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
    held_out: Sequence[Row] | None = None,
    work: Path | None = None,
    **settings: Any,
) -> list[dict[str, float | None]]:
    """Train `lm` on TRL rows, write its weights (with `lora`, the adapter) and tokenizer to `folder`; return the log.

    `settings` are fields of `DivergenceConfig`. The learning rate warms up linearly and ends at 0 on a cosine;
    gradients are clipped at norm 1; no weight decay. `cache` keeps reference log-probabilities for other methods,
    betas and seeds. With `work`, checkpoints are kept there ten times a run until it ends, and training goes on from
    the last one.
    The log's last row measures the `held_out` rows; a number that is not finite is None in it. The model handed in is
    changed.
    """
    with tempfile.TemporaryDirectory() as scratch, quietly():
        arguments = DivergenceConfig(
            output_dir=str(work or scratch),
            lr_scheduler_type="cosine",
            weight_decay=0.0,
            save_strategy="steps" if work else "no",
            save_steps=float(max(1, settings["max_steps"] // 10)),
            save_total_limit=1,
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
            eval_dataset=held_out,
            processing_class=lm.tokenizer,
            callbacks=[_Steps(advance)],
            peft_config=_lora(lora) if lora else None,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=get_last_checkpoint(str(work)) if work and work.is_dir() else None)
        if held_out is not None:
            trainer.evaluate()
        trainer.save_model(str(folder))
        if trainer.is_world_process_zero():
            (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle, which nothing here reads
            shutil.rmtree(work or scratch, ignore_errors=True)
    rows_of = [row for row in trainer.state.log_history if "loss" in row or "eval_loss" in row]
    return [{name: value if math.isfinite(value) else None for name, value in row.items()} for row in rows_of]


def _lora(options: dict[str, Any]) -> LoraConfig:
    return LoraConfig(
        r=options["rank"],
        lora_alpha=options["alpha"],
        lora_dropout=options["dropout"],
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )
