"""Where our trainer's time goes: `python -m bench.profile [METHOD]`, the job of bench.trainer under the profiler."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench import job
from bench.trainer import matmul_rate

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


def profiled(options: Any) -> dict[str, Any]:
    """Return seconds by kind of operation, the wall time, and the matrix products' operations, done and useful."""
    rows, tok = job.pairs(options.pairs), job.tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        trainer = job.ours(rows, options, folder)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True, with_flops=True) as found:
            start = time.perf_counter()
            trainer.train()
            wall = time.perf_counter() - start
    seconds, done = defaultdict(float), 0.0
    for event in found.key_averages():
        seconds[kind(event.key)] += event.self_cpu_time_total / 1e6
        done += event.flops if kind(event.key) == PRODUCTS else 0
    return {"seconds": seconds, "wall": wall, "done": done, "useful": job.useful_operations(rows, tok, options)}


def main() -> None:
    method, *rest = [*sys.argv[1:], "kldo"]
    sys.argv = [sys.argv[0], "ours", method, *rest[:-1]]
    options = job.arguments()
    torch.set_num_threads(options.threads)
    rate, found = matmul_rate(), profiled(options)
    print(f"{method}, {options.threads} threads; products of 1,024 x 1,024 run at {rate / 1e9:.0f} GFLOP/s")
    print("| operations | seconds | of the time |\n|---|---|---|")
    for name, seconds in sorted(found["seconds"].items(), key=lambda pair: -pair[1]):
        print(f"| {name} | {seconds:.2f} | {seconds / found['wall']:.0%} |")
    products = found["seconds"][PRODUCTS]
    print(
        f"\nMatrix products: {found['done'] / 1e9:.0f} GFLOP at {found['done'] / products / rate:.0%} of that rate; "
        f"useful operations, attention with them: {found['useful'] / 1e9:.0f} GFLOP, "
        f"{found['useful'] / found['wall'] / rate:.0%} of that rate over the wall time of {found['wall']:.2f} s."
    )


if __name__ == "__main__":
    main()
