"""How our trainer's cost grows: tokens/s and peak memory by method, sequence length, micro-batch and accumulation.

`python -m bench.scaling docs/figures` writes the figures of docs/benchmarks.md as well.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from bench.trainer import once
from divalign.draw.chart import Chart, chart_svg

METHODS = ("kldo", "bco", "kto", "hdo", "dpo")
# (prompt words, answer words): medians that make pairs of about so many tokens.
LENGTHS = {128: (28, 28), 256: (55, 75), 512: (110, 180), 1024: (220, 380), 2048: (440, 780)}
BATCHES = (1, 2, 4, 8, 16, 32)
ACCUMULATIONS = (1, 4, 16, 64)
VOCABULARIES = (32_000, 128_000)


def run(method: str, **options: Any) -> dict[str, Any]:
    words = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    found = once("ours", method, *words)
    return {**found, "batch_tokens": found["tokens"] / found["pairs"] * found["batch"]}


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


def memory() -> list[dict[str, Any]]:
    """Return runs of two updates each: tokens of a micro-batch by vocabulary, for their peak memory."""
    return [
        {"what": f"vocabulary {size:,}", "at": n, **run("kldo", pairs=2 * n, batch=n, vocabulary=size)}
        for size in VOCABULARIES
        for n in BATCHES[2:]
    ]


def speed_figure(found: list[dict[str, Any]]) -> str:
    kinds = "length", "micro-batch", "accumulation"
    series = {what: _points(found, what, "at", "rate") for what in kinds}
    chart = Chart("tokens of a pair (length), or how many", "tokens/s", series, log_x=True, lines=True)
    return chart_svg(chart, "Tokens a second")


def memory_figure(found: list[dict[str, Any]]) -> str:
    series = {
        what: _points(found, what, "batch_tokens", "peak_mib") for what in dict.fromkeys(r["what"] for r in found)
    }
    return chart_svg(Chart("tokens in a micro-batch", "MiB", series, lines=True), "Peak memory of the process")


def _points(found: list[dict[str, Any]], what: str, x: str, y: str) -> tuple[list[float], list[float]]:
    mine = sorted((row for row in found if row["what"] == what), key=lambda row: row[x])
    return [row[x] for row in mine], [row[y] for row in mine]


def table(found: list[dict[str, Any]]) -> str:
    lines = ["| varied | at | tokens in a micro-batch | tokens/s | peak MiB |", "|---" * 5 + "|"]
    lines += [
        f"| {row['what']} | {row['at']} | {row['batch_tokens']:,.0f} | {row['rate']:,.0f} | {row['peak_mib']:,.0f} |"
        for row in found
    ]
    return "\n".join(lines)


def main() -> None:
    speeds, peaks = rows(), memory()
    print(f"{table(speeds)}\n\n{table(peaks)}")
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        (folder / "scaling-speed.svg").write_text(speed_figure(speeds), encoding="utf-8")
        (folder / "scaling-memory.svg").write_text(memory_figure(peaks), encoding="utf-8")


if __name__ == "__main__":
    main()
