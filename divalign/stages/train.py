"""Train one model with one method: the same for a run and for `divalign train`, on one process or, under `accelerate
launch`, on many.

checkpoint/      the weights, or with LoRA the adapter, and the tokenizer
reward_model*    rlhf: the reward model and, in reward_model.json, its figures on held-out pairs
metrics.jsonl    the log of training, without its speed; with held-out rows its last line holds their divergences
training.json    updates, beta, rows used and skipped, held-out figures, a warning of displacement, speed
model.json       how to load the model: the folder can be named as a model
work/            checkpoints of an unfinished training, which resumes from the last complete one

TensorBoard's files, where it is a tracker, lie in tracking/.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from divalign import __version__
from divalign.core.losses import find_method
from divalign.data.examples import Row
from divalign.limits import refuse_links
from divalign.lm.memory import out_of_memory, release
from divalign.stages.folder import Advance, Progress, locked
from divalign.stages.models import ModelSpec, open_model, write_model_spec
from divalign.stages.rewards import TRAINED, RewardSource, open_reward
from divalign.stages.termination import Terminated, deferring
from divalign.stages.tracking import tracking_of
from divalign.stages.train_plan import OnPolicyPlan, TrainPlan
from divalign.store import digest, intact, intact_folder, jsonl, key_of, publish_folder, seal, write_json
from divalign.train.construction import trains_on_pairs
from divalign.train.policy_gradient import Rollouts
from divalign.train.reward_model import RewardTraining
from divalign.train.run import StoppedError, Trained, Watch, train_and_save
from divalign.train.speed import TIMES
from divalign.train.unsupported import refuse_processes

logger = logging.getLogger(__name__)
REWARD_SETTINGS = (
    "pairs_per_update",
    "pairs_per_batch",
    "learning_rate",
    "warmup_updates",
    "max_length",
    "seed",
    "too_long",
)
ROLLOUT_SETTINGS = ("responses", "max_new_tokens", "kl", "offline_weight", "truncated")


def train_key(base_key: str, rows: Sequence[Row], plan: TrainPlan) -> str:
    """Return the key that names everything the weights depend on."""
    return digest("train", __version__, base_key, digest(list(rows)), plan.identity())


Trainer = Callable[..., ModelSpec]  # trains as `train` does: the same arguments, files and result


def is_trained(
    base: ModelSpec, rows: Sequence[Row], plan: TrainPlan, folder: Path, *, held_out: Sequence[Row] | None = None
) -> bool:
    """Tell whether `folder` holds the result of this training intact."""
    key, log_key = _keys(base, rows, plan, held_out)
    return intact_folder(folder / "checkpoint", key) and intact(folder / "metrics.jsonl", log_key)


def refuse_another(
    base: ModelSpec, rows: Sequence[Row], plan: TrainPlan, folder: Path, *, held_out: Sequence[Row] | None = None
) -> None:
    """Raise ValueError where `folder` holds a finished model of other rows or settings."""
    checkpoint = folder / "checkpoint"
    if checkpoint.is_dir() and key_of(checkpoint) not in (_keys(base, rows, plan, held_out)[0], None):
        raise ValueError(f"{folder} holds another model, of other rows or settings; choose another --out")


def train(
    base: ModelSpec,
    rows: Sequence[Row],
    plan: TrainPlan,
    folder: Path,
    *,
    held_out: Sequence[Row] | None = None,
    cache: Path | None = None,
    progress: Progress,
) -> ModelSpec:
    """Train a fresh copy of `base` on TRL rows unless `folder` holds the result intact; return its spec.

    `cache` keeps reference log-probabilities for other methods, betas and seeds. A stopped training resumes from its
    last complete checkpoint.

    Raises ValueError where the folder holds a model of other rows or settings, finished or not, or another process is
    at work in it; NotFiniteError where the loss is not finite; MemoryError where a single pair does not fit; Terminated
    once SIGTERM has come and a checkpoint is saved.
    """
    if find_method(plan.method).on_policy:
        refuse_processes(_processes(), f"{plan.method} samples")
    refuse_links(folder)
    checkpoint, metrics = folder / "checkpoint", folder / "metrics.jsonl"
    key, log_key = _keys(base, rows, plan, held_out)
    with locked(folder) if _is_leader() else nullcontext(), ExitStack() as terminable:
        if not is_trained(base, rows, plan, folder, held_out=held_out):
            refuse_another(base, rows, plan, folder, held_out=held_out)
            rollouts = _rollouts(base, rows, plan, folder, held_out, cache, progress)
            trained = _train(base, rows, plan, folder, _Around(held_out, cache, rollouts, progress, terminable))
            if _is_leader():
                seal(metrics, jsonl(_without_times(trained.log)), log_key)
                write_json(folder / "training.json", _summary(trained, plan))
                publish_folder(folder / ".checkpoint.draft", checkpoint, key)
                shutil.rmtree(folder / "work", ignore_errors=True)
            release()
    spec = _spec(base, checkpoint, folder.name, plan.method)
    if _is_leader():
        write_model_spec(folder, spec)
    return spec


def _keys(base: ModelSpec, rows: Sequence[Row], plan: TrainPlan, held_out: Sequence[Row] | None) -> tuple[str, str]:
    """Return the keys of the checkpoint and of the log."""
    key = digest(train_key(open_model(base).key, rows, plan), held_out and digest(list(held_out)))
    return key, digest("metrics", key)


class _Around(NamedTuple):
    """What a training takes beside base, rows and plan; SIGTERM waits for the end of `terminable`."""

    held_out: Sequence[Row] | None
    cache: Path | None
    rollouts: Rollouts | None
    progress: Progress
    terminable: ExitStack


def _train(base: ModelSpec, rows: Sequence[Row], plan: TrainPlan, folder: Path, around: _Around) -> Trained:
    """Fill the draft of the checkpoint's folder; where memory runs out, again with half the pairs in a forward.

    An update is the same however it is split, so what is trained stays the same.
    """
    while True:
        try:
            return _train_once(base, rows, plan, folder, around)
        except StoppedError as stop:
            raise Terminated(str(stop)) from None
        except RuntimeError as error:  # as torch raises it; a MemoryError says that a single row is too large
            if not out_of_memory(error):
                raise
            smaller = _smaller_batch(plan, rows, error)
        release()
        logger.warning("out of memory with %d pairs in a forward; going on with %d", plan.pairs_per_batch, smaller)
        plan = replace(plan, pairs_per_batch=smaller)


def _smaller_batch(plan: TrainPlan, rows: Sequence[Row], error: BaseException) -> int:
    """Return at most half the pairs of a forward, a divisor of an update's; of unpaired rows an even number.

    Raises MemoryError where there is none.
    """
    least = 1 if trains_on_pairs(find_method(plan.method), rows) else 2
    if _processes() > 1 or plan.pairs_per_batch <= least or plan.variant == "paper_code":
        raise MemoryError(
            f"out of memory with {plan.pairs_per_batch} pairs in a forward of process {os.environ.get('RANK', '0')}; "
            "lower train.pairs_per_batch (an update stays the same, but for the paper's code) or train.max_length, or "
            "shard the weights with "
            "configs/accelerate/fsdp2.yaml; checkpoints are kept"
        ) from error
    sizes = range(plan.pairs_per_batch // 2, 0, -1)
    return next(size for size in sizes if plan.pairs_per_update % size == 0 and size % least == 0)


def _train_once(base: ModelSpec, rows: Sequence[Row], plan: TrainPlan, folder: Path, around: _Around) -> Trained:
    draft, several = folder / ".checkpoint.draft", _processes() > 1
    settings = _settings(plan, _processes())
    # With several processes each moves its copy to its own device, and they read one reference, also on resumption.
    lm = open_model(replace(base, device="cpu") if several else base).lm()
    cache = around.cache or (folder / "work" / "reference" if several else None)
    if _is_leader():
        shutil.rmtree(draft, ignore_errors=True)
    with _watched(folder.name, around.progress, around.terminable) as watch:
        return train_and_save(
            lm,
            rows,
            draft,
            held_out=around.held_out,
            lora={"continue": True} if plan.continue_adapter else asdict(plan.lora) if plan.lora else None,
            work=folder / "work",
            watch=watch._replace(tracking=tracking_of(plan.tracking, folder, probe=not several)),
            rollouts=around.rollouts,
            use_cpu=base.device == "cpu",
            reference_cache=str(cache) if cache else None,
            **settings,
        )


def _rollouts(
    base: ModelSpec,
    rows: Sequence[Row],
    plan: TrainPlan,
    folder: Path,
    held_out: Sequence[Row] | None,
    cache: Path | None,
    progress: Progress,
) -> Rollouts | None:
    """Return how responses are sampled and rewarded, the reward model trained; None for methods that sample none.

    Raises ValueError where a reward model's updates cannot be told: its training has no epochs.
    """
    options = plan.on_policy
    if not find_method(plan.method).on_policy:
        return None
    options = options or OnPolicyPlan()
    updates = options.reward_updates or plan.updates
    if updates is None and options.reward == TRAINED:
        raise ValueError("train.epochs says nothing of the reward model; set train.on_policy.reward_updates")
    training = RewardTraining(
        updates=updates or 1,
        **{name: getattr(plan, name) for name in REWARD_SETTINGS},
    )
    lora = asdict(plan.lora) if plan.lora and not plan.continue_adapter else None
    source = RewardSource(base, rows, held_out, training, lora, folder, cache)
    settings = {name: getattr(options, name) for name in ROLLOUT_SETTINGS}
    return Rollouts(reward=open_reward(options.reward, source, progress), **settings)


@contextmanager
def _watched(name: str, progress: Progress, terminable: ExitStack) -> Iterator[Watch]:
    """Report the reference pass and the updates as two stages, of which the first ends when the second starts.

    From the first update to the end of `terminable` SIGTERM waits for an update to end, or for the result to be safe.
    """
    advances: dict[str, Advance] = {}
    terminated: list[Callable[[], bool]] = []
    scored = 0
    with ExitStack() as stage:

        def reference(done: int, total: int) -> None:
            nonlocal scored
            if "reference" not in advances:
                advances["reference"] = stage.enter_context(progress(f"reference {name}", total, "rows"))
            advances["reference"](done - scored)
            scored = done

        def start(updates: int) -> None:
            stage.close()
            advances["train"] = stage.enter_context(progress(f"train {name}", updates, "updates"))
            terminated.append(terminable.enter_context(deferring()))

        yield Watch(
            reference=reference,
            start=start,
            advance=lambda done: advances["train"](done),
            should_stop=lambda: terminated[-1](),
        )


def _settings(plan: TrainPlan, ranks: int) -> dict[str, Any]:
    """Return the fields of DivergenceConfig: an update has the same pairs on any number of processes.

    Raises ValueError where the processes do not divide an update's pairs.
    """
    at_once = plan.pairs_per_batch if ranks == 1 else min(plan.pairs_per_batch, plan.pairs_per_update // ranks)
    if not at_once or plan.pairs_per_update % (at_once * ranks):
        raise ValueError(
            f"train.pairs_per_update is {plan.pairs_per_update}, which {ranks} processes of {at_once} pairs do not "
            "divide; make it a multiple, or set train.pairs_per_batch"
        )
    return {
        "method": plan.method,
        "seed": plan.seed,
        "beta": plan.beta,
        **({"num_train_epochs": plan.epochs} if plan.updates is None else {"max_steps": plan.updates}),
        "sft_weight": plan.sft_weight,
        **({"baseline_learning_rate": plan.baseline_learning_rate} if find_method(plan.method).prompt_baseline else {}),
        "variant": plan.variant,
        "too_long": plan.too_long,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": plan.pairs_per_update // (at_once * ranks),
        "learning_rate": plan.learning_rate,
        "warmup_steps": float(plan.warmup_updates),
        "max_length": plan.max_length,
        "logging_steps": float(plan.log_every),
        "per_device_eval_batch_size": plan.batch_size,
    }


def _spec(base: ModelSpec, checkpoint: Path, name: str, method: str) -> ModelSpec:
    """Return the trained model's spec. An adapter is complete: trained from an adapter, it holds that one too.

    The chat template of a method with control texts is the one saved with the model, which opens responses with them.
    """
    if find_method(method).controls:
        base = replace(base, chat_template=None)
    if (checkpoint / "adapter_config.json").is_file():
        return replace(base, adapter=str(checkpoint), name=name)
    return replace(base, source=str(checkpoint), revision=None, adapter=None, name=name)


def _without_times(history: Sequence[dict[str, float | None]]) -> list[dict[str, float | None]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in history]


def _summary(trained: Trained, plan: TrainPlan) -> dict[str, Any]:
    """Return what a training says of itself beside its log; the speeds are medians over the log."""
    columns = {name: [value for row in trained.log if (value := row.get(name)) is not None] for name in TIMES}
    return {
        "updates": trained.updates,
        "beta": plan.beta,
        "rows": trained.rows._asdict(),
        "held_out": trained.held_out,
        "displacement": trained.displacement,
        **{name: median(values) if values else None for name, values in columns.items()},
    }


def _is_leader() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
