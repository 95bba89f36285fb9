"""The pipeline on large files with the embedded model, each stage in its own process:
`python -m bench.large [SHARE] [STAGE...]`.

SHARE 1 is 100,000 pairs and 10,000 prompts under three attacks; the default is a hundredth. Pairs are those of
bench.data. Stages that are named are done alone; estimate needs train, judge needs attack. Each row of the table is one
command of `divalign`, with its seconds and its peak of resident memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.data import PAIRS, PROMPTS, pairs
from divalign.data.writing import write_file
from divalign.toy.world import requests

ATTACKS = "direct,prefill,refusal_suppression"
MOST_MIB = 4096


class Measured(NamedTuple):
    """One command: the rows that it worked on, and what that took."""

    stage: str
    rows: int
    seconds: float
    peak_mib: float


def prompts(count: int) -> Iterator[dict]:
    """Yield the embedded world's test prompts, each told apart by its number in a clause of its own."""
    known = requests("test", held_out=False)
    for number in range(count):
        request = known[number % len(known)]
        text = f"{request.prompt} ({number})" if number >= len(known) else request.prompt
        yield {"id": f"{number:05d}", "prompt": text, "harmful": request.harmful, "cluster": request.cluster}


def measure(stage: str, rows: int, arguments: list[str]) -> Measured:
    """Run a command of `divalign`. Raises RuntimeError where it fails."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "divalign", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{stage} ended with status {status}")
    return Measured(stage, rows, time.perf_counter() - start, usage.ru_maxrss / 1024)


def stages(share: float, folder: Path, names: Sequence[str]) -> Iterator[Measured]:
    """Yield each stage as it is done: audit, train, estimate; attack, judge, separate; or those of `names`."""
    n_pairs, n_prompts = round(share * PAIRS), round(share * PROMPTS)
    rows, asked = folder / "pairs.jsonl", folder / "prompts.jsonl"
    write_file(rows, list(pairs(n_pairs)))
    write_file(asked, list(prompts(n_prompts)))
    harmful = sum(row["harmful"] for row in prompts(n_prompts))
    model, attack = folder / "model", folder / "attack"
    settings = ("train.updates=20", "train.updates_on={}", "train.max_length=512", "train.too_long=skip")
    sets = [part for setting in settings for part in ("--set", setting)]
    policy = ["--policy", str(model), "--reference", "toy"]
    place = ["--layers", "-1", "--out", str(folder / "separation"), "--quiet"]
    attacked = 3 * harmful + n_prompts - harmful
    commands = {
        "data audit": (n_pairs, ["data", "audit", str(rows)]),
        "train": (n_pairs, ["train", "--rows", str(rows), "--out", str(model), "--quiet", *sets]),
        "estimate": (n_pairs, ["estimate", str(rows), *policy, "--out", str(folder / "estimate.json")]),
        "attack": (
            attacked,
            ["attack", "toy", "--prompts", str(asked), "--out", str(attack), "--attacks", ATTACKS, "--quiet"],
        ),
        "judge": (attacked, ["judge", str(attack), "--quiet"]),
        "separate": (n_prompts, ["separate", "toy", "--prompts", str(asked), *place]),
    }
    if unknown := [name for name in names if name not in commands]:
        raise SystemExit(f"no stage {unknown[0]!r}; expected {', '.join(commands)}")
    for stage, (count, arguments) in commands.items():
        if not names or stage in names:
            yield measure(stage, count, arguments)


def table(measured: list[Measured]) -> str:
    lines = ["| stage | rows | seconds | rows/s | peak MiB |", "|---" * 5 + "|"]
    lines += [
        f"| {row.stage} | {row.rows:,} | {row.seconds:,.0f} | {row.rows / row.seconds:,.0f} | {row.peak_mib:,.0f} |"
        for row in measured
    ]
    return "\n".join(lines)


def main() -> None:
    share, *names = sys.argv[1:] or ["0.01"]
    with tempfile.TemporaryDirectory() as folder:
        measured = []
        for row in stages(float(share), Path(folder), names):
            measured.append(row)
            print(f"{row.stage}: {row.seconds:.0f} s, {row.peak_mib:,.0f} MiB", file=sys.stderr, flush=True)
    print(table(measured))
    most = max(row.peak_mib for row in measured)
    print(f"the largest peak is {most:,.0f} MiB, {'under' if most < MOST_MIB else 'OVER'} {MOST_MIB:,} MiB")


if __name__ == "__main__":
    main()
