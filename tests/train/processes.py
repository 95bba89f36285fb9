"""One of several processes that train together, over gloo; what it finds is compared with one process's."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from divalign import DivergenceConfig, DivergenceTrainer
from divalign.train.run import Watch, Watching
from divalign.train.sharding import whole_state
from tests.tiny import tiny_model

METHODS = ("kldo", "bco", "kto", "dpo")
UPDATE = 8  # couples; the last update of an epoch of 11 has 3, so of four processes two have none
# One aligned row among many unaligned ones: without care a process would lack a class.
UNPAIRED = [{"prompt": f"Say {i}", "completion": f" {'no' * (1 + i % 4)} {i}", "label": i == 3} for i in range(12)]
PAIRS = [{"prompt": f"Ask {i}", "chosen": " yes" * (1 + i % 3), "rejected": f" no {i}"} for i in range(11)]
HELD_OUT = [{"prompt": f"Tell {i}", "chosen": " well" * (1 + i % 2), "rejected": f" not {i}"} for i in range(5)]
# Two updates an epoch, of 32 and 16 pairs, one micro-batch a process: in the second half of the processes have none.
MANY = [{**PAIRS[i % 11], "prompt": f"Ask {i}", "harmful": i % 2 == 0} for i in range(48)]


def shard_on_cpus() -> None:
    """Let accelerate shard on CPUs, which it does on accelerators alone, though gloo can carry it."""
    inner = PartialState.__init__

    def init(self: Any, *args: Any, **options: Any) -> None:
        inner(self, *args, **options)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = init  # type: ignore[method-assign]


def _normalise_in_float64(model: Any) -> None:
    """Let Llama's norms compute in float64; their own float32 leaves a rounding of 1e-7."""
    for part in model.modules():
        if type(part).__name__ == "LlamaRMSNorm":

            def forward(x: torch.Tensor, norm: Any = part) -> torch.Tensor:
                return norm.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon)

            part.forward = forward


def trainer(folder: Path, method: str, *, lora: bool = False, many: bool = False, **options: Any) -> DivergenceTrainer:
    """Return a trainer whose update is the gradient (plain descent), 8 couples an update on any number of processes.

    `many` rows are of pairs in updates of 32.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rows, update = (MANY, 32) if many else (PAIRS if method == "dpo" else UNPAIRED, UPDATE)
    couples = update // world // (2 if world == 2 and not many else 1)  # two processes accumulate, four do not
    settings: dict[str, Any] = {
        "optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant", "max_grad_norm": 0.5, "max_steps": 4,
        "save_strategy": "no", "logging_steps": 1.0, "beta": 0.5, "sft_weight": 0.3, "gradient_checkpointing": False,
        "per_device_train_batch_size": couples * (2 if rows is UNPAIRED else 1),
        "gradient_accumulation_steps": update // couples // world, "per_device_eval_batch_size": 3,
        **options,
    }  # fmt: skip
    args = DivergenceConfig(
        str(folder), method=method, report_to="none", use_cpu=True, disable_tqdm=True,
        ddp_backend="gloo" if world > 1 else None, **settings,
    )  # fmt: skip
    model, tokenizer = tiny_model("Llama")
    _normalise_in_float64(model)
    adapter = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None
    return DivergenceTrainer(
        model.double(), args=args, train_dataset=rows, eval_dataset=HELD_OUT, processing_class=tokenizer,
        peft_config=adapter,
    )  # fmt: skip


def findings(made: DivergenceTrainer, folder: Path) -> dict[str, torch.Tensor]:
    """Return what a training left: weights, the same as saved, its log, held-out metrics, the reference."""
    metrics = made.evaluate()
    made.save_model(str(folder))
    weights = whole_state(made.model)  # of a sharded model on the first process alone
    names = ("loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "logps/chosen",
             "nll/chosen", "divergence/ess", "separation/bhattacharyya")  # fmt: skip
    rows = [dict(row) for row in made.state.log_history if "loss" in row]
    rows[0]["rewards/accuracies"] = 0.0  # every r is 0 then, but for a rounding that decides who wins
    if not made.is_world_process_zero():
        return {}
    saved = load_file(next(folder.glob("*model.safetensors")))
    sides = made.train_dataset.aligned, made.train_dataset.unaligned
    return {
        "weights": torch.cat([weights[name].flatten().double() for name in sorted(weights)]),
        "saved": torch.cat([saved[name].flatten().double() for name in sorted(saved)]),
        "log": torch.tensor([[float(row.get(name, 0.0)) for name in names] for row in rows], dtype=torch.float64),
        "held out": torch.tensor([metrics[name] for name in sorted(metrics)], dtype=torch.float64),
        "reference": torch.tensor([row.reference for side in sides for row in side], dtype=torch.float64),
    }


def train_all(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for method in METHODS:
        for kind in ("full", "lora"):
            made = trainer(folder / "out", method, lora=kind == "lora")
            made.train()
            entry = findings(made, folder / f"{method}-{kind}")
            found |= {f"{method}, {kind}: {name}": value for name, value in entry.items()}
    return found


def train_many(folder: Path, *, sharded: bool) -> dict[str, torch.Tensor]:
    """Train where some processes have no row in an update: with a prompt baseline, and on clouds of hidden states."""
    found = {}
    for method in ("separate",) if sharded else ("separate", "kldo+prompt"):
        made = trainer(folder / "out", method, many=True, save_strategy="steps", save_steps=2.0)
        made.train()
        found |= {f"{method}: {name}": value for name, value in findings(made, folder / method).items()}
    return found


def train_released(folder: Path) -> dict[str, torch.Tensor]:
    """Train with the released code's average, which each process has for itself, whole and from a checkpoint."""
    options = {"save_strategy": "steps", "save_steps": 2.0, "max_steps": 3, "sft_weight": 0.0, "learning_rate": 1e-3}
    options |= {"variant": "paper_code", "per_device_train_batch_size": 4, "max_grad_norm": 0.0}
    found = {}
    for name, checkpoint in (("whole", None), ("resumed", folder / "whole" / "checkpoint-2")):
        made = trainer(folder / name, "kldo", many=True, **options)
        made.add_callback(Watching(Watch(), made.ranks))
        made.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        found |= {f"released {name}: {key}": value for key, value in findings(made, folder / f"{name} saved").items()}
    return found


def train_from(folder: Path, checkpoint: str | None, *, lora: bool) -> dict[str, torch.Tensor]:
    """Train with AdamW, from a checkpoint of any number of processes or from the start, saving one after update 3.

    The checkpoint is within the second epoch: the resumed training must draw that epoch's order, and skip its start.
    """
    options = {"optim": "adamw_torch", "learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 3.0}
    made = trainer(folder, "kldo", lora=lora, reference_cache=str(folder / "reference"), **options)
    watching = Watching(Watch(), made.ranks)
    made.add_callback(watching)
    made.train(resume_from_checkpoint=checkpoint)
    return findings(made, folder / "saved")


def main(folder: str, name: str, sharded: bool, resumed_from: str | None) -> None:
    """Train everything that is compared and write it to FOLDER/NAME.safetensors; resume what another run saved."""
    torch.set_num_threads(1)
    if sharded:
        shard_on_cpus()
    mine, found = Path(folder) / name, {}
    found |= train_all(mine)
    found |= train_many(mine, sharded=sharded)
    found |= {} if sharded else train_released(mine)
    for kind in ("full", "lora"):
        entry = train_from(mine / f"whole-{kind}", None, lora=kind == "lora")
        found |= {f"AdamW, {kind}: {key}": value for key, value in entry.items()}
        if resumed_from:
            work = Path(folder) / resumed_from / f"whole-{kind}"
            entry = train_from(mine / f"again-{kind}", str(work / "checkpoint-3"), lora=kind == "lora")
            found |= {f"AdamW, {kind}, resumed: {key}": value for key, value in entry.items()}
    if os.environ.get("RANK", "0") == "0":
        save_file({key: value.contiguous() for key, value in found.items()}, Path(folder) / f"{name}.safetensors")
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # a thread of gloo's may fail in the interpreter's own end
