"""Train a loaded model and leave the result in a folder: what the command line and a study call."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from peft import LoraConfig
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from divalign.core.losses import method_code
from divalign.data.examples import Row
from divalign.lm.load import LM, quietly
from divalign.store import digest, write_json
from divalign.train.adapters import has_adapter
from divalign.train.arguments import DivergenceConfig
from divalign.train.couples import RowCounts
from divalign.train.displacement import first_displacement
from divalign.train.precision import autocast_settings, narrow, round_weights, widen
from divalign.train.ranks import Ranks
from divalign.train.resume import BY_FSDP, SETTINGS, WHOLE, by_deepspeed, newest_checkpoint, seal_checkpoint
from divalign.train.tracking import Board, Tracking
from divalign.train.trainer import DivergenceTrainer

LENGTHS = ("max_steps", "num_train_epochs")
# Settings that do not decide the weights, so that a stopped training may go on with others.
NOT_DECIDING = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "per_device_eval_batch_size",
    "precompute_ref_batch_size",
    "reference_cache",
    "use_cpu",
)


def _ignore(*progress: Any) -> None:
    """Take no notice of progress."""


def _never() -> bool:
    return False


class StoppedError(Exception):
    """Training was told to stop, and has saved a checkpoint to resume from; the message says after which update."""


class Watch(NamedTuple):
    """Progress callbacks of a training, and the trackers that its log is sent to.

    `reference` gets the rows scored by the reference and their number, `start` the updates there will be, `advance` the
    updates just done (on resumption those done before), `evaluated` every evaluation's metrics. After each update
    `should_stop` is called; where it says so on any process, a checkpoint is saved and StoppedError raised.
    """

    reference: Callable[[int, int], None] = _ignore
    start: Callable[[int], None] = _ignore
    advance: Callable[[int], None] = _ignore
    evaluated: Callable[[Mapping[str, float]], None] = _ignore
    should_stop: Callable[[], bool] = _never
    tracking: Tracking | None = None


class Trained(NamedTuple):
    """What a training leaves besides its weights.

    Args:
        log: the rows of metrics.jsonl, training and evaluation; a number that is not finite is None.
        updates: optimizer steps done.
        rows: the training rows, those skipped as too long and those whose response was cut.
        held_out: the last row's metrics on the held-out rows; None without them.
        displacement: the first sign that the aligned responses were unlearned, in a sentence; None without one.

    """

    log: list[dict[str, float | None]]
    updates: int
    rows: RowCounts
    held_out: dict[str, float | None] | None
    displacement: str | None


class Watching(TrainerCallback):
    """Report progress, seal checkpoints, and keep none of the last update: the result is saved then."""

    def __init__(self, watch: Watch, ranks: Ranks) -> None:
        self.watch, self.ranks, self.stopped = watch, ranks, False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.start(state.max_steps)
        self.watch.advance(state.global_step)  # a resumed run has done some already

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False  # Trainer, resumed at the last update, would make one more
        elif self.ranks.any(self.watch.should_stop()):
            self.stopped = control.should_save = control.should_training_stop = True
        self.watch.advance(1)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ranks.accelerator.wait_for_everyone()  # each process writes files of its own
        if not self.ranks.rank:
            seal_checkpoint(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.watch.evaluated(metrics)


def train_and_save(
    lm: LM,
    rows: Sequence[Row],
    folder: Path,
    *,
    held_out: Sequence[Row] | None = None,
    lora: dict[str, Any] | None = None,
    work: Path | None = None,
    watch: Watch | None = None,
    **settings: Any,
) -> Trained:
    """Train `lm` on TRL rows and write its weights (of an adapter, those alone) and tokenizer to `folder`.

    `settings` are fields of `DivergenceConfig`, among them either `max_steps` or `num_train_epochs`, and `rollouts` for
    methods that sample responses. The learning rate warms up linearly and ends at 0 on a cosine; gradients are clipped
    at norm 1; no weight decay. With `work`, checkpoints are kept there ten times a run, training goes on from the last
    whole one, and `folder` gets a training.json of what was trained; whoever gave `work` removes it when the result is
    safe. The log's last row measures the `held_out` rows. The model handed in is changed.

    `lora` holds rank and alpha. A model that has an adapter keeps it: `lora` adds a second one, and without `lora`, or
    with `lora["continue"]`, its own is trained further. Weights in half precision learn in float32 (see
    `train.precision`) and are saved in the dtype that they had.

    Raises StoppedError where `watch` said to stop; NotFiniteError for a loss or gradient that is not finite; ValueError
    where `work` holds checkpoints of another model, other rows or other settings, where the length of training is not
    given once, and where an adapter is to be continued that the model has not.
    """
    watch, rollouts = watch or Watch(), settings.pop("rollouts", None)
    masters = {} if lora is not None or has_adapter(lm.model) or _launched_with("DEEPSPEED") else widen(lm.model)
    settings = {**autocast_settings(masters, on_cpu=bool(settings.get("use_cpu"))), **settings}
    with tempfile.TemporaryDirectory() as scratch, quietly():
        arguments = _arguments(work or Path(scratch), settings, saves=work is not None, tracking=watch.tracking)
        identity = _identity(lm, rows, lora, arguments, settings)
        identity |= {} if rollouts is None else {"rollouts": rollouts.identity()}
        last = _last_checkpoint(work, identity, arguments) if work else None
        trainer = DivergenceTrainer(
            lm.model,
            args=arguments,
            train_dataset=rows,
            eval_dataset=held_out,
            processing_class=lm.tokenizer,
            peft_config=_lora(lm.model, lora),
            reference_progress=watch.reference,
            rollouts=rollouts,
        )
        trainer.remove_callback(PrinterCallback)
        watching = Watching(watch, trainer.ranks)
        trainer.add_callback(watching)
        with _tracked(trainer, watch.tracking) as close_trackers:
            trainer.train(resume_from_checkpoint=last)
            if watching.stopped:
                state = trainer.state
                raise StoppedError(f"after update {state.global_step} of {state.max_steps}, which is saved")
            close_trackers()
            round_weights(trainer.model, masters)  # so that what is measured is what is saved
            if held_out is not None:
                trainer.evaluate()
        narrow(trainer.model, masters)
        _save(trainer, folder, identity if work else None)
    return _result(trainer, measured=held_out is not None)


def _save(trainer: DivergenceTrainer, folder: Path, identity: dict[str, Any] | None) -> None:
    """Write the model to `folder`, and training.json of what was trained where that is given."""
    trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle, which nothing here reads
        if identity:
            write_json(folder / SETTINGS, identity)


def _launched_with(engine: str) -> bool:
    """Tell whether FSDP or DEEPSPEED trains, as `accelerate launch` says it."""
    return os.environ.get(f"ACCELERATE_USE_{engine}", "").lower() == "true"


@contextmanager
def _tracked(trainer: DivergenceTrainer, tracking: Tracking | None) -> Iterator[Callable[[], None]]:
    """Send the log to trackers; yield a function that closes those of transformers, called on leaving at the latest.

    TensorBoard's writer stays open until then. The monitor's numbers reach every tracker by the trainer's own log.
    """
    with ExitStack() as remote, ExitStack() as local:
        if tracking:
            remote.push(_closing(trainer, tracking))
            if tracking.monitor:
                tracking.monitor.log = trainer.log
        for callback in tracking.callbacks() if tracking else ():
            trainer.add_callback(callback)
            if isinstance(callback, Board):
                local.callback(callback.close)
        yield remote.close


def _closing(trainer: DivergenceTrainer, tracking: Tracking) -> Callable[..., None]:
    """Return the exit function that closes the trackers: as failed after an exception, but for a stop to be resumed."""
    before = tracking.open_runs()

    def close(kind: type[BaseException] | None, *_: Any) -> None:
        failed = kind is not None and not issubclass(kind, StoppedError)
        tracking.close(trainer, before=before, failed=failed)

    return close


def _last_checkpoint(work: Path, identity: dict[str, Any], arguments: DivergenceConfig) -> str | None:
    """Return the checkpoint to resume from, on every process the one that the first has found."""
    ranks = Ranks(None, arguments.process_index, arguments.world_size, arguments.device)
    layout = by_deepspeed(arguments.world_size) if _launched_with("DEEPSPEED") else WHOLE
    layout = BY_FSDP if _launched_with("FSDP") else layout
    return ranks.leaders(None if ranks.rank else newest_checkpoint(work, identity, layout=layout))


def _result(trainer: DivergenceTrainer, *, measured: bool) -> Trained:
    history = trainer.state.log_history
    log = [
        # By name, as the rows that come from a checkpoint are.
        {name: value if math.isfinite(value) else None for name, value in sorted(row.items())}
        for row in history
        if "loss" in row or "eval_loss" in row
    ]
    return Trained(
        log,
        trainer.state.global_step,
        trainer.row_counts["train_dataset"],
        log[-1] if measured else None,
        first_displacement(history, beta=trainer.args.beta),
    )


def _arguments(folder: Path, settings: dict[str, Any], *, saves: bool, tracking: Tracking | None) -> DivergenceConfig:
    lengths = [name for name in LENGTHS if settings.get(name) is not None]
    if len(lengths) != 1:
        count = "both" if lengths else "neither"
        raise ValueError(f"{count} of max_steps (updates) and num_train_epochs (passes over the rows), expected one")
    length: dict[str, Any]
    if lengths == ["max_steps"]:
        length = {"max_steps": settings["max_steps"], "save_steps": float(max(1, settings["max_steps"] // 10))}
    else:
        length = {"num_train_epochs": float(settings["num_train_epochs"]), "save_steps": 0.1}  # of all updates
    arguments = DivergenceConfig(
        output_dir=str(folder),
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        save_strategy="steps" if saves else "no",
        report_to=tracking.report_to if tracking else "none",
        run_name=tracking.name if tracking else None,
        gradient_checkpointing=False,
        disable_tqdm=True,
        logging_first_step=True,
        **{name: value for name, value in settings.items() if name not in LENGTHS},
        **length,
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if arguments.world_size != launched:
        raise ValueError(
            f"launched as {launched} processes, which would each train alone, since torch found no accelerator they "
            "share; on CPUs set model.device to cpu"
        )
    return arguments


def _identity(
    lm: LM, rows: Sequence[Row], lora: Any, arguments: DivergenceConfig, settings: dict[str, Any]
) -> dict[str, Any]:
    """Return what decides the weights: the model, the rows and the settings, however and where they are computed."""
    update = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    deciding = {name: value for name, value in settings.items() if name not in NOT_DECIDING}
    if arguments.variant == "paper_code" or arguments.normaliser == "microbatch":
        deciding["rows_per_micro_batch"] = arguments.per_device_train_batch_size
    if arguments.variant == "paper_code" and arguments.world_size > 1:  # each process has an average of its own
        deciding["processes"] = arguments.world_size
    if code := method_code(arguments.method):
        deciding["method_code"] = digest(code)
    return {"model": lm.digest, "rows": digest(list(rows)), "lora": lora, "rows_per_update": update, **deciding}


def _lora(model: Any, options: dict[str, Any] | None) -> LoraConfig | None:
    if options is None:
        return None
    if options.get("continue"):
        if not has_adapter(model):
            raise ValueError(
                "lora.continue is true, and the model has no adapter; give the adapter's folder as the model, or leave "
                "lora.continue out to start one"
            )
        return None
    return LoraConfig(
        r=options["rank"],
        lora_alpha=options["alpha"],
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )
