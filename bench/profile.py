"""Where our trainer's time goes: `python -m bench.profile [real] [METHOD]`, under torch's profiler.

The job is that of bench.trainer; with `real` the first updates of bench.real: SmolLM2 with LoRA, METHOD dpo or kto,
then a precision.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench import job, real
from bench.trainer import matmul_rate

THREADS, UPDATES = 2, 3
PRODUCTS = "matrix products"
KINDS = {  # the first kind of which a word is in the operation's name takes it
    PRODUCTS: ("::mm", "::addmm", "::bmm"),
    "attention": ("scaled_dot_product",),
    "softmax of the logits": ("log_softmax", "::exp", "::expm1", "::gather", "::scatter"),
    "optimizer and clipping": ("adam", "Optimizer", "linalg_vector_norm", "foreach"),
    "zeros of fresh arrays": ("fill_", "zero_"),
    "elementwise in the layers": ("::mul", "::add", "silu", "::pow", "::mean", "::sum", "::neg", "::cat", "::copy_"),
}


def kind(name: str) -> str:
    return next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "all else")


def profiled(trainer: Any) -> dict[str, Any]:
    """Train; return seconds by kind of operation, the wall time, and the operations of the matrix products."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, with_flops=True) as found:
        start = time.perf_counter()
        trainer.train()
        wall = time.perf_counter() - start
    seconds, done = defaultdict(float), 0.0
    for event in found.key_averages():
        seconds[kind(event.key)] += event.self_cpu_time_total / 1e6
        done += event.flops if kind(event.key) == PRODUCTS else 0
    return {"seconds": seconds, "wall": wall, "done": done}


def own_job(method: str, folder: str, rest: list[str]) -> tuple[Any, float]:
    """Return the trainer of bench.trainer's job and the operations that it cannot do without."""
    sys.argv = [sys.argv[0], "ours", method, *rest]
    options = job.arguments()
    rows, tok = job.pairs(options.pairs), job.tokenizer()
    return job.ours(rows, options, folder), job.useful_operations(rows, tok, options)


def real_job(method: str, folder: str, rest: list[str]) -> tuple[Any, float]:
    """Return the trainer of bench.real's first updates, in float32 or the precision that is named.

    More updates would not fit: the profiler holds on to arrays. Of the frozen weights a token costs 4 operations each,
    in the head the tokens of responses alone; the adapter's own weights and attention are left out.
    """
    trainer = real.trainer_of("ours", method, *(rest or ["float32"]), str(real.GGUF), folder)
    shape = trainer.model.config
    head = shape.hidden_size * shape.vocab_size
    body = sum(part.base_layer.weight.numel() for part in trainer.model.modules() if hasattr(part, "base_layer"))
    couples, trainer.args.max_steps = trainer.train_dataset, UPDATES
    useful = 0.0
    for aligned, unaligned in zip(couples.aligned, couples.unaligned, strict=True):
        responses = len(aligned.row.response_ids) + len(unaligned.row.response_ids)
        useful += 4 * (body * (len(aligned.row.prompt_ids) + responses) + head * responses)
    return trainer, useful * UPDATES * real.BATCH / len(couples)


def main() -> None:
    on_real, (method, *rest) = "real" in sys.argv[1:], [*(word for word in sys.argv[1:] if word != "real"), "kldo"]
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        trainer, useful = (real_job if on_real else own_job)(method, folder, rest[:-1])
        rate, found = matmul_rate(), profiled(trainer)
    print(f"{method}, {THREADS} threads; products of 1,024 x 1,024 run at {rate / 1e9:.0f} GFLOP/s")
    print("| operations | seconds | of the time |\n|---|---|---|")
    for name, seconds in sorted(found["seconds"].items(), key=lambda pair: -pair[1]):
        print(f"| {name} | {seconds:.2f} | {seconds / found['wall']:.0%} |")
    products = found["seconds"][PRODUCTS]
    print(
        f"\nMatrix products: {found['done'] / 1e9:.0f} GFLOP at {found['done'] / products / rate:.0%} of that rate; "
        f"useful operations: {useful / 1e9:.0f} GFLOP, "
        f"{useful / found['wall'] / rate:.0%} of that rate over the wall time of {found['wall']:.2f} s."
    )


if __name__ == "__main__":
    main()
