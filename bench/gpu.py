"""The trainer's benchmark on one NVIDIA card: Qwen2 0.5B shape, random weights, bfloat16, full and LoRA; medians of 3.

Not part of `make bench`: `python -m bench.gpu` says so where there is no card.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

from bench.trainer import REPEATS, once
from divalign.train.speed import matmul_rate

RUNS = [("trl", "dpo"), ("ours", "dpo"), ("trl", "kto"), ("ours", "kto"), ("ours", "kldo")]
# Words of five letters or so, about one token each: prompts of 20 and answers of 150 to 250, as in safety data.
JOB = ("--shape", "qwen2-0.5b", "--device", "cuda", "--bf16", "--pairs", "256", "--batch", "8")
LENGTHS = ("--prompt", "20", "--answer", "200")


def main() -> None:
    if not torch.cuda.is_available():
        print("no NVIDIA card here: not measured")
        return
    rate = matmul_rate("cuda", torch.bfloat16)
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}; products {rate / 1e12:.0f} TFLOP/s in bfloat16\n"
    )
    print("| weights | trainer | tokens/s | times TRL | peak MiB | of matmul rate |\n" + "|---" * 6 + "|")
    for kind, lora in (("full", ()), ("LoRA", ("--lora",))):
        found: dict[Any, list] = {run: [] for run in RUNS}
        for _ in range(REPEATS):
            for run in RUNS:
                found[run].append(once(*run, *JOB, *LENGTHS, *lora))
        _show(kind, found, rate)


def _show(kind: str, found: dict[Any, list], rate: float) -> None:
    median = {
        run: {name: statistics.median(one[name] for one in ones) for name in ("rate", "peak_mib", "seconds")}
        for run, ones in found.items()
    }
    for run, values in median.items():
        peer = median["trl", "kto" if run[1] == "kto" else "dpo"]
        share = found[run][0]["operations"] / values["seconds"] / rate
        cells = kind, " ".join(run), f"{values['rate']:.0f}", f"{values['rate'] / peer['rate']:.1f}"
        print(f"| {' | '.join(cells)} | {values['peak_mib']:.0f} | {share:.0%} |")


if __name__ == "__main__":
    main()
