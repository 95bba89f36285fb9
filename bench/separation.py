"""Held-out separation of 2 x 1,000 states of width 4,096 with 1,000 bootstrap draws, in seconds; the target is 20."""

from __future__ import annotations

import statistics
import time

import numpy as np

from divalign.core.separation import separation

PROMPTS, WIDTH, REPEATS = 1000, 4096, 3


def main() -> None:
    generator = np.random.default_rng(0)
    safe, harmful = generator.normal(size=(2, PROMPTS, WIDTH)) / np.sqrt(1.0 + np.arange(WIDTH))
    harmful[:, :4] += 1.0
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        found = separation(safe, harmful, draws=1000)
        seconds.append(time.perf_counter() - start)
    value, low, high, _ = found.bhattacharyya
    size = f"2 x {PROMPTS:,} x {WIDTH:,}"
    print(f"{size}: median {statistics.median(seconds):.1f} s   D {value:.2f} [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()
