"""Train a loaded model and leave the result in a folder: what the command line and a study call."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from divalign.data.examples import Row
from divalign.lm.load import LM, quietly
from divalign.store import digest, write_json
from divalign.train.arguments import DivergenceConfig
from divalign.train.resume import SETTINGS, go_on
from divalign.train.trainer import DivergenceTrainer


class _Steps(TrainerCallback):
    """Tell a function of every finished update, and keep no checkpoint of the last: the result is saved then."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance = advance

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.advance(state.global_step)  # a resumed run has done some already

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False  # Trainer, resumed at the last update, would make one more
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
    betas and seeds. With `work`, checkpoints are kept there ten times a run, training goes on from the last whole one,
    and `folder` gets a training.json of what was trained; whoever gave `work` removes it when the result is safe.
    The log's last row measures the `held_out` rows; a number that is not finite is None in it. The model handed in is
    changed.

    Raises ValueError where `work` holds checkpoints of another model, other rows or other settings.
    """
    with tempfile.TemporaryDirectory() as scratch, quietly():
        arguments = _arguments(work or Path(scratch), settings, saves=work is not None, on_cpu=on_cpu, cache=cache)
        told = _identity(lm, rows, lora, arguments, settings)
        last = go_on(work, told, leader=arguments.process_index == 0) if work else None
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
        trainer.train(resume_from_checkpoint=last)
        if held_out is not None:
            trainer.evaluate()
        trainer.save_model(str(folder))
        if trainer.is_world_process_zero():
            (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle, which nothing here reads
            if work:
                write_json(folder / SETTINGS, told)
    rows_of = [row for row in trainer.state.log_history if "loss" in row or "eval_loss" in row]
    return [{name: value if math.isfinite(value) else None for name, value in row.items()} for row in rows_of]


def _arguments(
    folder: Path, settings: dict[str, Any], *, saves: bool, on_cpu: bool, cache: Path | None
) -> DivergenceConfig:
    return DivergenceConfig(
        output_dir=str(folder),
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        save_strategy="steps" if saves else "no",
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


def _identity(
    lm: LM, rows: Sequence[Row], lora: Any, arguments: DivergenceConfig, settings: dict[str, Any]
) -> dict[str, Any]:
    """Return what decides the weights: the model, the rows and the settings, however an update is split."""
    split = ("per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size")
    update = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    told = {name: value for name, value in settings.items() if name not in split}
    return {"model": lm.digest, "rows": digest(list(rows)), "lora": lora, "rows_per_update": update, **told}


def _lora(options: dict[str, Any]) -> LoraConfig:
    return LoraConfig(
        r=options["rank"],
        lora_alpha=options["alpha"],
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )
