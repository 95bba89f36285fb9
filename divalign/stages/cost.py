"""What stages cost before they run: floating point operations, time, memory and disk, from sizes alone.

The time of a stage is the sum of four parts:

    operations / (0.7 R)  +  tokens layers width c  +  scored vocabulary d  +  forwards (a + layers b)

R is the rate of matrix products measured on this machine, over all its cores. The second and third part are everything
between the products (norms, activations, adapters, the softmax over the vocabulary), the last the dispatch of each
layer from Python; all but the first grow with the time of a tiny product measured here. The constants were fitted to
the stages of the tour (180 s on 2 idle cores with 290 GFLOP/s, 2026-11) and, roughly, to the CPU time of
configs/real.yaml cut to 4 updates on a busy machine. Operations are counted as train.speed counts them:
6 per weight and token in training, 4 under an adapter, 2 in a forward; attention's own products are left out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from divalign.lm.shape import ModelShape, model_shape
from divalign.stages.models import ModelSpec
from divalign.train.speed import matmul_rate

EFFICIENCY = 0.7  # of products inside a model against products alone
BETWEEN = {"train": 40e-9, "adapter": 80e-9, "forward": 22e-9}  # c in seconds per token, layer and unit of width
SOFTMAX = 4e-9  # d in seconds per scored token and entry of the vocabulary
STEP, LAYER = 2e-3, 0.5e-3  # a and b in seconds: of a forward, and of each of its layers
TINY = 1.1e-6  # seconds of a tiny product on the machine that the figures above were fitted on
START = 6.0  # seconds until the first stage: imports and drawing the data
STATISTICS = 3.2e-3  # seconds per prompt of separation's folds and intervals
LOAD = 1e9  # bytes per second of reading weights and of hashing them
PROCESS = 0.7e9  # bytes of a process that has loaded torch and transformers
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
LEARNS = "float32"  # the dtype of weights while they learn


class Machine(NamedTuple):
    """What this machine can do: products in operations per second, seconds of a tiny product, bytes free."""

    rate: float
    tiny: float
    memory: float
    disk: float


class TokenBatch(NamedTuple):
    """What is run: `rows`, their `tokens` of prompt and response, each prompt once, and the tokens under the head."""

    rows: int
    tokens: float
    scored: float


class Job(NamedTuple):
    """One stage of one model. `kind` is one of `BETWEEN`, `forwards` how often the layers are called."""

    model: str
    stage: str
    kind: str
    rows: int
    tokens: float
    scored: float
    operations: float
    forwards: float
    fixed: float = 0.0


def measure_machine(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Machine:
    """Measure this machine, in a second; `folder` is where the disk is filled.

    Small products, and the best of many: on a busy machine that finds the rate of an idle one.
    """
    accelerated = torch.device(device).type != "cpu"
    rate = matmul_rate(device, dtype, size=512, repeats=8 if accelerated else 100)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return Machine(rate, _tiny_seconds(), free_memory(device), float(psutil.disk_usage(str(existing)).free))


def training(shape: ModelShape, model: str, update: TokenBatch, updates: int, *, batches: int, adapter: bool) -> Job:
    """Return the cost of `updates` updates of the same size, each of `batches` forwards and backwards.

    `update.rows` counts pairs. The optimiser and the gradients count with what is between the products.
    """
    each = 4 if adapter else 6
    work = each * (shape.backbone * update.tokens + shape.head * update.scored)
    whole = [each * updates for each in (update.tokens, update.scored, work, 3.0 * batches)]
    return Job(model, "train", "adapter" if adapter else "train", update.rows * updates, *whole)


def scoring(shape: ModelShape, model: str, stage: str, batch: TokenBatch, size: int) -> Job:
    """Return the cost of forwards without gradients, `size` rows each: log-probabilities or hidden states."""
    work = 2 * (shape.backbone * batch.tokens + shape.head * batch.scored)
    return Job(model, stage, "forward", batch.rows, batch.tokens, batch.scored, work, math.ceil(batch.rows / size))


def writing(shape: ModelShape, model: str, stage: str, prompts: TokenBatch, new_tokens: int, size: int) -> Job:
    """Return the cost of generating `new_tokens` after each prompt, in batches of `size` rows."""
    new = prompts.rows * new_tokens
    work = 2 * (shape.backbone * (prompts.tokens + new) + shape.head * new)
    forwards = math.ceil(prompts.rows / size) * (new_tokens + 1)
    return Job(model, stage, "forward", prompts.rows, prompts.tokens + new, 0, work, forwards)


def statistics(model: str, prompts: int) -> Job:
    """Return the cost of the numbers behind a separation: folds, bootstraps and permutations."""
    return Job(model, "statistics", "forward", prompts, 0, 0, 0, 0, fixed=STATISTICS * prompts)


def loading(shape: ModelShape, model: str, times: int, dtype: str) -> Job:
    """Return the cost of reading the weights `times` times."""
    each = 0.1 + shape.parameters * BYTES[dtype] / LOAD
    return Job(model, "load", "forward", times, 0, 0, 0, 0, fixed=times * each)


def seconds(job: Job, shape: ModelShape, machine: Machine) -> float:
    """Return the time that a stage takes on a machine that does nothing else; see the formula above."""
    slow = machine.tiny / TINY
    between = job.tokens * shape.layers * shape.width * BETWEEN[job.kind] + job.scored * shape.vocabulary * SOFTMAX
    dispatch = job.forwards * (STEP + shape.layers * LAYER)
    return job.operations / (EFFICIENCY * machine.rate) + slow * (between + dispatch + job.fixed)


class Memory(NamedTuple):
    """Most bytes at once, while a model is trained and while it is measured beside its base."""

    training: float
    measuring: float

    @property
    def most(self) -> float:
        return max(self.training, self.measuring)


def memory(shape: ModelShape, *, dtype: str, rank: int | None, train_tokens: float, row_tokens: float) -> Memory:
    """Return an upper estimate of the memory of a run, in bytes.

    `train_tokens` are those of a forward in training, padding left out; `row_tokens` those of the largest forward or
    key-value cache in measuring. A trained weight costs itself, its gradient and two moments of AdamW, without an
    adapter in float32 and beside them its copy in half precision (`train.precision`). Kept for the backward are about
    20 widths and 8 inner widths per token and layer, and three copies of the logits of a chunk.
    """
    size, weights = BYTES[dtype], shape.parameters * BYTES[dtype]
    if rank is None:
        learning = shape.parameters * (4 * BYTES[LEARNS] + (size if dtype != LEARNS else 0))
    else:
        learning = weights + rank * shape.linear_sizes * 4 * size
    activations = train_tokens * shape.layers * (20 * shape.width + 8 * shape.inner_width) * size
    logits = 3 * min(train_tokens * shape.vocabulary, 1 << 25) * 4
    caches = row_tokens * shape.layers * 4 * shape.width * size
    return Memory(PROCESS + learning + activations + logits, PROCESS + 2 * weights + caches)


def disk(shape: ModelShape, *, dtype: str, rank: int | None, models: int, responses: int, states: int) -> float:
    """Return the bytes that a run leaves: checkpoints, hidden states of one layer, and about 1 kB a response.

    While a model is trained, three times its trained weights come on top, for resuming.
    """
    size = rank * shape.linear_sizes * BYTES[dtype] if rank is not None else shape.parameters * BYTES[dtype]
    resuming = 3 * (size if rank is not None else shape.parameters * BYTES[LEARNS])
    return float(size * models + resuming + states * shape.width * 4 + responses * 1000)


class Forecast(NamedTuple):
    """A run's stages with what they cost on a machine, and the memory and disk it needs, in bytes."""

    jobs: Sequence[Job]
    times: Sequence[float]
    memory: Memory
    disk: float
    machine: Machine

    @property
    def total(self) -> float:
        """Return the seconds of the whole run."""
        return START * self.machine.tiny / TINY + sum(self.times)

    def by(self, field: str) -> dict[str, float]:
        """Return seconds summed by `model` or `stage`, in the order of the run."""
        sums: dict[str, float] = {}
        for job, spent in zip(self.jobs, self.times, strict=True):
            sums[getattr(job, field)] = sums.get(getattr(job, field), 0.0) + spent
        return sums


def forecast(jobs: Sequence[Job], shape: ModelShape, machine: Machine, need: Memory, left: float) -> Forecast:
    """Return what the jobs cost together; `left` are the bytes that the run leaves on the disk."""
    return Forecast(jobs, [seconds(job, shape, machine) for job in jobs], need, left, machine)


def _tiny_seconds() -> float:
    matrix, best = torch.ones(16, 16), math.inf
    for _ in range(50):
        start = time.perf_counter()
        for _ in range(100):
            torch.mm(matrix, matrix)
        best = min(best, (time.perf_counter() - start) / 100)
    return best


def free_memory(device: str) -> float:
    """Return the free bytes of a CUDA device, else those of the machine."""
    if torch.device(device).type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(psutil.virtual_memory().available)


def check_weights_fit(spec: ModelSpec, rank: int | None) -> None:
    """Raise ValueError, before a model of a folder is loaded, where its weights and the optimiser cannot fit."""
    if Path(spec.source).is_dir():
        shape = model_shape(spec.source, trust_remote_code=spec.trust_remote_code)
        check_memory(shape, dtype=spec.dtype, rank=rank, free=free_memory(spec.device))


def check_memory(shape: ModelShape, *, dtype: str, rank: int | None, free: float) -> None:
    """Raise ValueError where weights and optimiser alone, without any text, need more than the `free` bytes."""
    least = memory(shape, dtype=dtype, rank=rank, train_tokens=0.0, row_tokens=0.0).most
    if least > free:
        raise ValueError(
            f"the run needs at least {least / 1e9:.1f} GB of memory for {shape.parameters / 1e6:,.0f} million "
            f"parameters, and {free / 1e9:.1f} GB are free; train an adapter (train.lora), with it set model.dtype to "
            "bfloat16, or take a smaller model"
        )
