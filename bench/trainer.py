"""Our trainer and TRL's on the same job, interleaved, three times; medians. `FULL=1` for all 128 pairs, else 32."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import torch

REPEATS = 3
RUNS = [
    ("trl", "dpo", ()),
    ("ours", "dpo", ()),
    ("trl", "kto", ()),
    ("ours", "kto", ()),
    ("ours", "kldo", ()),
    ("trl", "dpo", ("--reference",)),
    ("trl", "kto", ("--reference",)),
]


def once(trainer: str, method: str, *options: str) -> dict[str, Any]:
    """Run the job in a process of its own and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "bench.job", trainer, method, *options],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"bench.job {trainer} {method} failed: {done.stderr[-1500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def matmul_rate(size: int = 1024, repeats: int = 20) -> float:
    """Return the machine's float32 matrix product rate in operations per second, the best of `repeats`."""
    one = torch.randn(size, size)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        one @ one
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def main() -> None:
    torch.set_num_threads(2)
    pairs = "128" if os.environ.get("FULL") else "32"
    rates, found = [], {run: [] for run in RUNS}
    for _ in range(REPEATS):
        rates.append(matmul_rate())
        for run in RUNS:
            found[run].append(once(run[0], run[1], "--pairs", pairs, *run[2]))
            print(*run, f"{found[run][-1]['rate']:.0f} tokens/s", file=sys.stderr, flush=True)
    rate = statistics.median(rates)
    print(f"{pairs} pairs, 4 an update; matrix products {rate / 1e9:.0f} GFLOP/s\n")
    print("| trainer | reference | tokens/s | times TRL | peak MiB | of TRL's | of matmul rate |\n" + "|---" * 7 + "|")
    median = {
        run: {name: statistics.median(one[name] for one in ones) for name in ("rate", "peak_mib", "seconds")}
        for run, ones in found.items()
    }
    for run, values in median.items():
        peer = median["trl", run[1] if run[1] == "kto" else "dpo", ()]
        operations = found[run][0]["operations"]
        print(
            f"| {run[0]} {run[1]} | {'a second model' if run[2] else 'precomputed'} | {values['rate']:.0f} "
            f"| {values['rate'] / peer['rate']:.1f} | {values['peak_mib']:.0f} "
            f"| {values['peak_mib'] / peer['peak_mib']:.2f} | {operations / values['seconds'] / rate:.0%} |"
        )


if __name__ == "__main__":
    main()
