"""Self-tests of the trainer on this machine: each check computes a result in two ways that must agree.

`python -m divalign.train.doctor FOLDER` is one of the two processes of the distributed check.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from divalign.data.batching import Encoded
from divalign.lm.layout import lay_out
from divalign.lm.load import quietly
from divalign.lm.score import attach
from divalign.train.arguments import DivergenceConfig
from divalign.train.couples import Couples, Scored
from divalign.train.trainer import DivergenceTrainer

METHODS_TRIED = ("kldo", "bco", "kto", "dpo")


class DoctorCheck(NamedTuple):
    """Two ways that must agree: their largest distance, relative to the numbers' own size, and what is allowed."""

    name: str
    distance: float
    allowed: float

    @property
    def holds(self) -> bool:
        return self.distance <= self.allowed


def check_trainer() -> Iterator[DoctorCheck]:
    """Yield every check as it is done; about a minute on two cores."""
    with tempfile.TemporaryDirectory() as folder, quietly():
        yield _layouts()
        yield from _accumulation(Path(folder))
        yield from _two_processes(Path(folder))
        yield _resumed(Path(folder))
        yield _reference(Path(folder))


def _layouts() -> DoctorCheck:
    batch, scored = rows(16), []
    model = attach(tiny().eval())
    with torch.no_grad():
        for layout in (lay_out(batch[:1], 0), lay_out(batch, 0), lay_out(batch, 0, share=True)):
            scored.append(model(**layout.inputs()).log_probs)
    alone = torch.cat([model(**lay_out([row], 0).inputs()).log_probs for row in batch]).detach()
    worst = max(_apart(alone, scored[1]), _apart(alone, scored[2]))
    return DoctorCheck("padded = packed and shared = one by one (log-probabilities, float32)", worst, 1e-5)


def _accumulation(folder: Path) -> Iterator[DoctorCheck]:
    for method in METHODS_TRIED:
        whole, *split = (step(folder, method, batch=size) for size in (16, 4, 1))
        worst = max(_apart(whole, other) for other in split)
        yield DoctorCheck(f"1 x 16 = 4 x 4 = 16 x 1 ({method}: an update, float64)", worst, 1e-6)


def _two_processes(folder: Path) -> Iterator[DoctorCheck]:
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*run, "-m", "divalign.train.doctor", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"two processes could not train together: {done.stderr[-2000:]}")
    two, single = load_file(folder / "two.safetensors"), _both(folder, batch=16)
    yield DoctorCheck("1 process = 2 processes (kldo: an update, float64)", _apart(single["moved"], two["moved"]), 1e-6)
    yield DoctorCheck(
        "1 process = 2 processes (held-out log-ratios)", _apart(single["held_out"], two["held_out"]), 1e-6
    )


def _both(folder: Path, *, batch: int) -> dict[str, Tensor]:
    """Return what two updates did to the weights, and then the log-ratios of an odd number of other rows."""
    trained = trainer(folder, "kldo", batch=batch)
    before = _weights(trained)
    held_out = trained._couples(rows(10)[:6])  # before training moves the reference
    assert held_out is not None
    trained.train()
    return {"moved": _weights(trained) - before, "held_out": torch.cat(trained.held_out_ratios(held_out)[:2])}


def _resumed(folder: Path) -> DoctorCheck:
    """Four updates, against two more from the checkpoint after two; with the average that lives in the checkpoint."""
    options: dict[str, Any] = {"normaliser": "ema", "max_steps": 4, "save_steps": 2.0, "save_strategy": "steps"}
    whole = trainer(folder / "whole", "kldo", batch=4, **options)
    whole.train()
    again = trainer(folder / "again", "kldo", batch=4, **options)
    again.train(resume_from_checkpoint=str(folder / "whole" / "checkpoint-2"))
    return DoctorCheck(
        "resumed = uninterrupted (weights after 4 updates)", _apart(_weights(whole), _weights(again)), 0.0
    )


def _reference(folder: Path) -> DoctorCheck:
    plain, beside = (
        trainer(folder, "kldo", batch=16, ref_model=tiny().double() if other else None) for other in (False, True)
    )
    columns = [torch.tensor([row.reference for row in entry.train_dataset.aligned]) for entry in (plain, beside)]  # type: ignore[union-attr]
    return DoctorCheck("reference column = reference model", _apart(*columns), 1e-7)


def tiny() -> Any:
    """Return a Llama of random weights, the same each time."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
    )
    return LlamaForCausalLM(config)


def rows(count: int) -> list[Encoded]:
    """Return rows of random tokens; every two share a prompt."""
    draw = torch.Generator().manual_seed(1)

    def tokens(low: int, high: int) -> list[int]:
        size = int(torch.randint(low, high, (1,), generator=draw))
        return torch.randint(3, 64, (size,), generator=draw).tolist()

    prompts = [tokens(4, 20) for _ in range(count // 2)]
    return [Encoded(prompt, tokens(2, 24)) for prompt in prompts for _ in range(2)]


class _Tokens:
    """Stands in for a tokenizer: the rows are tokens already."""

    pad_token_id = 0
    eos_token_id = 1

    def save_pretrained(self, folder: Any, **options: Any) -> tuple:
        return ()


class _Prepared(DivergenceTrainer):
    """The trainer on rows that are tokens already."""

    def _couples(self, rows: Any, name: str = "") -> Couples | None:
        if rows is None:
            return None
        aligned, unaligned = rows[::2], rows[1::2]
        references = self._scores(aligned, unaligned, cached=False)
        sides = [
            [Scored(row, reference, str(n)) for n, (row, reference) in enumerate(zip(side, column, strict=True))]
            for side, column in zip((aligned, unaligned), references, strict=True)
        ]
        return Couples(sides[0], sides[1], paired=True)


def trainer(folder: Path, method: str, *, batch: int, ref_model: Any = None, **options: Any) -> DivergenceTrainer:
    """Return a trainer of 16 couples an update whose update is the gradient: plain descent at rate 1."""
    ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    settings: dict[str, Any] = {
        "optim": "sgd",
        "learning_rate": 1.0,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "max_steps": 2,  # at the first update every r is 0, and so is every baseline
        "save_strategy": "no",
        "beta": 0.5,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": 16 // batch // ranks,
        "gradient_checkpointing": False,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "ddp_backend": "gloo" if ranks > 1 else None,
        **options,
    }
    args = DivergenceConfig(str(folder), method=method, **settings)
    return _Prepared(tiny().double(), ref_model, args=args, train_dataset=rows(64), processing_class=_Tokens())


def step(folder: Path, method: str, *, batch: int) -> Tensor:
    """Return what two updates did to the weights."""
    trained = trainer(folder, method, batch=batch)
    before = _weights(trained)
    trained.train()
    return _weights(trained) - before


def _weights(trained: DivergenceTrainer) -> Tensor:
    return torch.cat([parameter.detach().flatten().double() for parameter in trained.model.parameters()])


def _apart(first: Tensor, second: Tensor) -> float:
    return float((first - second).norm() / first.norm())


def _process(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    updates = _both(folder, batch=4)
    if torch.distributed.get_rank() == 0:
        save_file(updates, folder / "two.safetensors")
    torch.distributed.barrier()
    # Out at once: one of some fifteen pairs died in the interpreter's own end, its work done, of a thread of gloo's.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    _process(Path(sys.argv[1]))
