"""Audit of 100,000 pairs and overlap of 100,000 with 10,000 prompts, each in its own process: `python -m bench.data`.

The pairs are the embedded world's with noise words, so that prompts have 18 words on average, answers 100 and refusals
20. `python -m bench.data bad FILE` writes a deliberately bad set: one refusal for all, short of words, and prompts of
the evaluation in it; `python -m bench.data world FILE` writes the embedded world's compliance-refusal set.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from divalign.data.recipes import RECIPES
from divalign.data.writing import write_file
from divalign.toy.world import requests

SYLLABLES = ("ka", "lo", "mi", "ne", "ru", "sa", "dar", "fel", "gon", "hin", "tor", "vex")
PAIRS, PROMPTS = 100_000, 10_000
CONSTANT = "I'm sorry, I cannot help with that."


def noise(draw: random.Random, count: int = 20_000) -> list[str]:
    return ["".join(draw.choices(SYLLABLES, k=draw.randint(2, 4))) for _ in range(count)]


def pairs(count: int, seed: int = 0) -> Iterator[dict]:
    draw = random.Random(seed)
    words, known = noise(draw), world_rows()
    for number in range(count):
        row = known[number % len(known)]
        said = {
            "prompt": f"{row['prompt'][0]['content']} {' '.join(draw.choices(words, k=10))}",
            "chosen": row["chosen"][0]["content"],
            "rejected": row["rejected"][0]["content"],
        }
        long, short = ("rejected", "chosen") if row["harmful"] else ("chosen", "rejected")
        said[long] += " " + " ".join(draw.choices(words, k=draw.randint(20, 120)))
        said[short] += " " + " ".join(draw.choices(words, k=draw.randint(2, 8)))
        yield {**row, **said, "source": "bench", "licence": "Apache-2.0"}


def world_rows() -> list[dict]:
    return [RECIPES["cr"](request) for request in requests("train", held_out=False)]


def bad_rows() -> list[dict]:
    """Return the world's set with one refusal for all, and with the prompts of its evaluation among its own."""
    asked = [*requests("train", held_out=False), *requests("test", held_out=False)[::4]]
    rows = [RECIPES["cr"](request) for request in asked]
    for row in rows:
        side = "chosen" if row["harmful"] else "rejected"
        row[side] = [{"role": "assistant", "content": CONSTANT}]
    return rows


def evaluation_rows() -> list[dict]:
    return [{"prompt": request.prompt} for request in requests("test", held_out=False)]


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def audit_job(path: Path) -> dict:
    from divalign.data.audit.checks import audit
    from divalign.data.audit.facts import gather
    from divalign.data.convert import read_rows
    from divalign.data.files import stream_file

    seconds: dict[str, float] = {}
    start = time.perf_counter()
    with timed(seconds, "reading"):
        facts = gather(read_rows(stream_file(path)))
    found = audit(facts, progress=lambda name: timed(seconds, name))
    return {"seconds": time.perf_counter() - start, "verdict": found.verdict, "parts": seconds, "rows": len(facts)}


def overlap_job(path: Path) -> dict:
    from divalign.data.files import read_file
    from divalign.data.overlap import find_overlap

    train = [row["prompt"] for row in read_file(path).rows]
    draw = random.Random(1)
    evaluation = [row["prompt"] for row in pairs(PROMPTS * 9 // 10, seed=1)] + draw.sample(train, PROMPTS // 10)
    start = time.perf_counter()
    found = find_overlap(train, evaluation)
    return {"seconds": time.perf_counter() - start, "counts": found.counts, "sizes": [len(train), len(evaluation)]}


JOBS = {"audit": audit_job, "overlap": overlap_job}
FILES = {"bad": bad_rows, "world": world_rows, "evaluation": evaluation_rows}


def run(job: str, path: Path) -> dict:
    """Return what a job of its own process says, with that process's peak memory."""
    command = [sys.executable, "-m", "bench.data", job, str(path)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", nargs="?", choices=[*JOBS, *FILES])
    parser.add_argument("path", nargs="?", type=Path)
    options, _ = parser.parse_known_args()
    if options.job in FILES:
        print(write_file(options.path, FILES[options.job]()), "rows")
    elif options.job:
        found = JOBS[options.job](options.path)
        print(json.dumps({**found, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.jsonl"
            write_file(path, pairs(PAIRS))
            for job in JOBS:
                found = run(job, path)
                print(f"{job}: {found.pop('seconds'):.1f} s, peak {found.pop('peak_mib'):,.0f} MiB")
                for name, part in sorted(found.pop("parts", {}).items(), key=lambda item: -item[1]):
                    print(f"  {name}: {part:.1f} s")
                print(f"  {found}")


if __name__ == "__main__":
    main()
