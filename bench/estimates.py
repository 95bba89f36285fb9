"""estimate_divergence on 100,000 log-ratios with 2,000 bootstrap draws: seconds and memory."""

from __future__ import annotations

import resource
import statistics
import time

import numpy as np

from divalign.core.estimate import estimate_divergence

ROWS, DRAWS, REPEATS = 100_000, 2000, 5


def main() -> None:
    random = np.random.default_rng(0)
    aligned, unaligned = random.normal(0.5, 1, ROWS // 2), random.normal(-0.5, 1, ROWS // 2)
    ids = np.arange(ROWS // 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, clusters in (("rows", None), ("prompts as clusters", (ids, ids))):
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            found = estimate_divergence(aligned, unaligned, "js", clusters, draws=DRAWS)
            seconds.append(time.perf_counter() - start)
        print(f"{name:<20} median {statistics.median(seconds):.2f} s   js {found.value:.4f} n {found.n:,}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"memory above the libraries' own: {grown:.0f} MiB")


if __name__ == "__main__":
    main()
