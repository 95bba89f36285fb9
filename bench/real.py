"""SmolLM2-135M-Instruct with LoRA, ours against TRL: `python -m bench.real [FILE.gguf]`, interleaved; medians of three.

64 compliance-refusal pairs on prompts of `everyday`: the refusal that training would draw, and an answer without
content of 8 to 48 words. Rank 16 on all linear layers, 8 pairs an update, reference log-probabilities computed before
the clock starts, float32, the same pairs in the same order. `tokens` counts prompt and response of every row, the
prompt of a pair twice, for both trainers. The loss curves of dpo are compared update by update. Beside them, ours with
peft's own LoRA layers, and ours in bfloat16 where the processor computes in it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from bench.job import _resident_mib as resident_mib
from divalign.data.everyday import read_everyday
from divalign.data.refusing import refusal

GGUF = Path("runs/models/SmolLM2-135M-Instruct.Q4_1.gguf")
REPEATS, PAIRS, BATCH = 3, 64, 8
RUNS = (
    ("trl", "dpo", "float32"),
    ("ours", "dpo", "float32"),
    ("trl", "kto", "float32"),
    ("ours", "kto", "float32"),
    ("peft", "dpo", "float32"),
    ("ours", "dpo", "bfloat16"),
    ("peft", "dpo", "bfloat16"),
    ("trl", "dpo", "bfloat16"),
)


def pairs() -> list[dict[str, Any]]:
    """Return conversational pairs; on harmful prompts the refusal is chosen, on benign ones the answer."""
    draw = random.Random(0)
    rows = draw.sample(read_everyday("train"), PAIRS)
    made = []
    for row in rows:
        answer = " ".join(["Here is an answer, word by word."] * 8)[: draw.randint(40, 240)]
        sides = refusal(draw), answer
        chosen, rejected = sides if row.harmful else sides[::-1]
        says = {"prompt": ("user", row.prompt), "chosen": ("assistant", chosen), "rejected": ("assistant", rejected)}
        made.append({name: [{"role": role, "content": text}] for name, (role, text) in says.items()})
    return made


def trainer_of(kind: str, method: str, dtype: str, gguf: str, folder: str) -> Any:
    """Return the trainer of one run."""
    from peft import LoraConfig

    from divalign.stages.models import ModelSpec, open_model
    from divalign.train.couples import CoupleSampler

    lm = open_model(ModelSpec(source=gguf, name="SmolLM2", dtype=dtype, device="cpu")).lm()  # type: ignore[arg-type]
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    common: dict[str, Any] = {
        "output_dir": folder, "num_train_epochs": 1, "logging_steps": 1.0, "save_strategy": "no", "report_to": "none",
        "use_cpu": True, "gradient_checkpointing": False, "learning_rate": 1e-4, "lr_scheduler_type": "constant",
        "disable_tqdm": True, "max_length": 1024, "beta": 0.1, "seed": 0,
    }  # fmt: skip
    rows, made = pairs(), {"model": lm.model, "processing_class": lm.tokenizer, "peft_config": lora}
    if kind != "trl":
        from divalign import DivergenceConfig, DivergenceTrainer

        args = DivergenceConfig(method=method, per_device_train_batch_size=BATCH, **common)
        return DivergenceTrainer(args=args, train_dataset=rows, **made)
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

    if method == "dpo":
        args = DPOConfig(per_device_train_batch_size=BATCH, precompute_ref_log_probs=True, bf16=False, **common)
        trainer = DPOTrainer(args=args, train_dataset=Dataset.from_list(rows), **made)
    else:
        unpaired = [
            {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
            for row in rows
            for side in ("chosen", "rejected")
        ]
        args = KTOConfig(per_device_train_batch_size=2 * BATCH, precompute_ref_log_probs=True, bf16=False, **common)
        trainer = KTOTrainer(args=args, train_dataset=Dataset.from_list(unpaired), **made)
    if method == "dpo":

        class Pairs:  # what CoupleSampler reads of a paired data set: it then draws the order of our trainer
            aligned = unaligned = rows
            paired = True
            length = staticmethod(lambda index: 0)
            __len__ = lambda self: len(rows)  # noqa: E731

        order = [index[0] for index in CoupleSampler(Pairs(), 0)]  # type: ignore[arg-type]
        trainer._get_train_sampler = lambda *_: order
    return trainer


def child(options: argparse.Namespace) -> None:
    """Train once; print the speed, the peak memory and the losses."""
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(options.kind, options.method, options.dtype, options.gguf, folder)
        by_peft = mock.patch("divalign.train.trainer.lora_by_products", return_value=nullcontext())
        with by_peft if options.kind == "peft" else nullcontext():
            start = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - start
    tokenizer = trainer.processing_class
    texts = [row["prompt"] + row[side] for row in pairs() for side in ("chosen", "rejected")]
    tokens = sum(len(tokenizer.apply_chat_template(text, return_dict=True)["input_ids"]) for text in texts)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    print(json.dumps({"rate": tokens / seconds, "seconds": seconds, "peak_mib": resident_mib(), "losses": losses}))


def once(run: tuple[str, str, str], gguf: str) -> dict[str, Any]:
    """Run one training in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.real", gguf, "--run", *run]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(run)} failed: {done.stderr[-1500:]}")
    print(*run, f"{json.loads(done.stdout.splitlines()[-1])['rate']:.0f} tokens/s", file=sys.stderr, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", nargs="?", default=str(GGUF))
    parser.add_argument("--run", nargs=3, metavar=("KIND", "METHOD", "DTYPE"), help="one training, in this process")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options, _ = parser.parse_known_args()
    if options.run:
        options.kind, options.method, options.dtype = options.run
        return child(options)
    if not Path(options.gguf).is_file():
        print(f"skipped: {options.gguf} is not there; `make real` fetches it")
        return None
    found = {run: [] for run in RUNS}
    for _ in range(options.repeats):
        for run in RUNS:
            found[run].append(once(run, options.gguf))
    print("| trainer | method | precision | tokens/s | times TRL | peak MiB | of TRL's |\n" + "|---" * 7 + "|")
    middle = {
        run: {name: statistics.median(one[name] for one in ones) for name in ("rate", "peak_mib")}
        for run, ones in found.items()
    }
    for run, values in middle.items():
        peer = middle["trl", run[1], run[2]]
        print(
            f"| {' | '.join(run)} | {values['rate']:.0f} | {values['rate'] / peer['rate']:.1f} "
            f"| {values['peak_mib']:.0f} | {values['peak_mib'] / peer['peak_mib']:.2f} |"
        )
    ours, theirs = (found[kind, "dpo", "float32"][0]["losses"] for kind in ("ours", "trl"))
    apart = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    print(f"\nLosses of dpo, {len(ours)} updates: {ours[0]:.4f} to {ours[-1]:.4f}; TRL's differ by at most {apart:.1e}")
    return None


if __name__ == "__main__":
    main()
