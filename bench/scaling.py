"""How our trainer's cost grows: tokens/s and peak memory by method, sequence length, micro-batch and accumulation."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.trainer import once

METHODS = ("kldo", "bco", "kto", "hdo", "dpo")
# (prompt words, answer words): medians that make pairs of about so many tokens.
LENGTHS = {128: (28, 28), 256: (55, 75), 512: (110, 180), 1024: (220, 380), 2048: (440, 780)}
BATCHES = (1, 2, 4, 8, 16, 32)
ACCUMULATIONS = (1, 4, 16, 64)


def run(method: str, **options: Any) -> dict[str, Any]:
    words = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return once("ours", method, *words)


def rows() -> list[dict[str, Any]]:
    found = [{"what": "method", "at": method, **run(method, pairs=32)} for method in METHODS]
    for length, (prompt, answer) in LENGTHS.items():
        options = {"pairs": 16, "batch": 4, "prompt": prompt, "answer": answer}
        found.append({"what": "length", "at": length, **run("kldo", **options)})
    found += [{"what": "micro-batch", "at": n, **run("kldo", pairs=64, batch=n)} for n in BATCHES]
    found += [
        {"what": "accumulation", "at": n, **run("kldo", pairs=64, batch=1, accumulation=n)} for n in ACCUMULATIONS
    ]
    return found


def main() -> None:
    found = rows()
    print("| varied | at | tokens/s | peak MiB | seconds |\n|---|---|---|---|---|")
    for row in found:
        print(f"| {row['what']} | {row['at']} | {row['rate']:.0f} | {row['peak_mib']:.0f} | {row['seconds']:.1f} |")
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
