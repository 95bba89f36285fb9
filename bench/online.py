"""Samples a second of rlhf's update, ours against TRL's RLOOTrainer on the same job: `python -m bench.online`.

Both start from the embedded model in float32 on one thread and take 32 prompts an update with 8 responses each, at most
64 new tokens, the verifier of the embedded world as reward, a KL penalty of .5 and one update a batch, in micro-batches
of 8 prompts. Both sample for the whole update at once. The clock runs
over `train()`: sampling, rewards, reference, update. Each run is a process of its own, `python -m bench.online ours 4`;
the two alternate, and the medians are printed. `python -m bench.online behaviour MODEL ...` measures trained models.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch

from divalign.core.stats import clustered_rate
from divalign.data.batching import encode_conversation
from divalign.data.examples import user_says
from divalign.data.recipes import RECIPES
from divalign.lm.generate import sample_prompts, sample_text
from divalign.stages.models import find_model
from divalign.toy.verifier import right_behaviour
from divalign.toy.world import requests

PROMPTS, BATCH, RESPONSES, TOKENS, KL, UPDATES, REPEATS = 32, 8, 8, 64, 0.5, 4, 3


def settings(folder: str, updates: int) -> dict[str, Any]:
    return {
        "output_dir": folder, "max_steps": updates, "learning_rate": 1e-4, "beta": KL, "report_to": "none",
        "save_strategy": "no", "use_cpu": True, "gradient_checkpointing": False, "disable_tqdm": True, "bf16": False,
        "logging_steps": 1, "gradient_accumulation_steps": PROMPTS // BATCH,
    }  # fmt: skip


def ours(rows: list[dict[str, Any]], folder: str, updates: int) -> Any:
    from divalign import DivergenceConfig, DivergenceTrainer
    from divalign.train.policy_gradient import Reward, Rollouts

    def score(completions: Any) -> list[float]:
        prompts, responses, sources = zip(
            *((each.prompt, each.response, each.row) for each in completions), strict=True
        )
        return right_behaviour(prompts, responses, sources)

    lm = find_model("toy").lm()
    return DivergenceTrainer(
        lm.model,
        args=DivergenceConfig(method="rlhf", per_device_train_batch_size=BATCH, **settings(folder, updates)),
        train_dataset=rows,
        processing_class=lm.tokenizer,
        rollouts=Rollouts(reward=Reward("verifier", "verifier", score), responses=RESPONSES, max_new_tokens=TOKENS),
    )


def trl(rows: list[dict[str, Any]], folder: str, updates: int) -> Any:
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    def score(prompts: Any, completions: Any, harmful: list[bool], **_: Any) -> list[float]:
        texts = ([turns[-1]["content"] for turns in side] for side in (prompts, completions))
        return right_behaviour(*texts, [{"harmful": value} for value in harmful])

    lm = find_model("toy").lm()
    args = RLOOConfig(
        per_device_train_batch_size=BATCH * RESPONSES,
        num_generations=RESPONSES,
        max_completion_length=TOKENS,
        **settings(folder, updates),
    )
    data = Dataset.from_list([{"prompt": row["prompt"], "harmful": row["harmful"]} for row in rows])
    return RLOOTrainer(model=lm.model, reward_funcs=score, args=args, train_dataset=data, processing_class=lm.tokenizer)


def once(library: str, updates: int) -> dict[str, float | str]:
    """Train in this process and return how long it took."""
    torch.set_num_threads(1)
    rows = [RECIPES["cr"](request) for request in requests("train", held_out=False)[::8]]
    with tempfile.TemporaryDirectory() as folder:
        trainer = (ours if library == "ours" else trl)(rows, folder, updates)
        start, cpu = time.perf_counter(), time.process_time()
        trainer.train()
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    log = [row for row in trainer.state.log_history if "reward" in row]
    samples = PROMPTS * RESPONSES * updates
    return {
        "library": library, "samples": samples, "seconds": seconds, "cpu_seconds": cpu_seconds,
        "rate": samples / seconds, "cpu_rate": samples / cpu_seconds, "reward": log[0]["reward"],
        "mean_length": log[0]["completions/mean_length"],
    }  # fmt: skip


def apart(library: str) -> dict[str, Any]:
    """Do the same in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.online", library, str(UPDATES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-1500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def behaviour(model: str) -> None:
    """Print the share of right behaviour over a sampled response to each test prompt, of known and held-out topics."""
    lm = find_model(model).lm()
    for held_out in (False, True):
        asked = requests("test", held_out=held_out)
        prompts = [encode_conversation(lm.tokenizer, user_says(request.prompt)) for request in asked]
        samples = sample_prompts(lm.model, lm.tokenizer, prompts, max_new_tokens=TOKENS, seeds=[1] * len(asked))
        texts = [sample_text(lm.tokenizer, sample) for sample in samples]
        rows = [{"harmful": request.harmful} for request in asked]
        right = right_behaviour([request.prompt for request in asked], texts, rows)
        share = clustered_rate([bool(value) for value in right], [request.cluster for request in asked])
        print(f"| {model} | {'held-out' if held_out else 'in-distribution'} | {share} |", flush=True)


def main() -> None:
    runs: dict[str, list[dict[str, Any]]] = {"trl": [], "ours": []}
    for _ in range(REPEATS):
        for library, results in runs.items():
            results.append(apart(library))
    print("| trainer | samples/s | of one CPU second | times TRL | mean length | first reward |\n" + "|---" * 6 + "|")
    median = {
        library: {name: statistics.median(run[name] for run in results) for name in results[0] if name != "library"}
        for library, results in runs.items()
    }
    for library, values in median.items():
        print(
            f"| {library} | {values['rate']:.1f} | {values['cpu_rate']:.1f} "
            f"| {values['cpu_rate'] / median['trl']['cpu_rate']:.1f} | {values['mean_length']:.1f} "
            f"| {values['reward']:.3f} |"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["behaviour"]:
        for name in sys.argv[2:]:
            behaviour(name)
    elif len(sys.argv) > 1:
        print(json.dumps(once(sys.argv[1], int(sys.argv[2]))))
    else:
        main()
