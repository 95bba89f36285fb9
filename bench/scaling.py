"""How our trainer's cost grows: tokens/s and peak memory by method, sequence length, micro-batch and accumulation.

`python -m bench.scaling docs/figures` writes the figures of docs/benchmarks.md as well.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from bench.trainer import once
from divalign.lab.findings import Chart
from divalign.lab.svg import svg

METHODS = ("kldo", "bco", "kto", "hdo", "dpo")
# (prompt words, answer words): medians that make pairs of about so many tokens.
LENGTHS = {128: (28, 28), 256: (55, 75), 512: (110, 180), 1024: (220, 380), 2048: (440, 780)}
BATCHES = (1, 2, 4, 8, 16, 32)
ACCUMULATIONS = (1, 4, 16, 64)
LOGITS_MIB = 32_000 * 4 / 2**20  # of one token


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


def figures(found: list[dict[str, Any]]) -> dict[str, str]:
    """Return SVG files by name: speed over what was varied, peak memory over the tokens of a micro-batch."""
    speed = {what: _points(found, what, lambda row: row["rate"]) for what in ("length", "micro-batch", "accumulation")}
    memory = {
        f"varied {what}": _points(found, what, lambda row: row["peak_mib"], x=batch_tokens)
        for what in ("length", "micro-batch")
    }
    tokens = sorted(x for xs, _ in memory.values() for x in xs)
    least = min(y for _, ys in memory.values() for y in ys)
    memory["if every token's logits were kept"] = (tokens, [least + LOGITS_MIB * x for x in tokens])
    titles = {
        "scaling-speed": (
            "Tokens a second",
            Chart("tokens of a pair, or count", "tokens/s", speed, log_x=True, lines=True),
        ),
        "scaling-memory": ("Peak memory of the process", Chart("tokens in a micro-batch", "MiB", memory, lines=True)),
    }
    return {name: svg(chart, title) for name, (title, chart) in titles.items()}


def batch_tokens(row: dict[str, Any]) -> float:
    return row["tokens"] / row["pairs"] * row["batch"]


def _points(found: list[dict[str, Any]], what: str, y: Any, x: Any = None) -> tuple[list[float], list[float]]:
    mine = sorted((row for row in found if row["what"] == what), key=lambda row: row["at"])
    return [x(row) if x else row["at"] for row in mine], [y(row) for row in mine]


def main() -> None:
    found = rows()
    print("| varied | at | tokens in a micro-batch | tokens/s | peak MiB | seconds |\n" + "|---" * 6 + "|")
    for row in found:
        print(
            f"| {row['what']} | {row['at']} | {batch_tokens(row):,.0f} | {row['rate']:,.0f} | {row['peak_mib']:,.0f} "
            f"| {row['seconds']:.1f} |"
        )
    for name, text in figures(found).items() if len(sys.argv) > 1 else ():
        (Path(sys.argv[1]) / f"{name}.svg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
