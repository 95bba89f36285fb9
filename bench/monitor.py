"""The safety monitor on fine-tunes of an aligned embedded model: `python -m bench.monitor RUN/models/cr-kldo`.

Benign rows alone lose the refusals; benign rows with a third of refusals among them keep most. TRL's SFTTrainer trains;
what the model really answers to every harmful probe prompt is generated and judged at each check, for comparison.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from divalign.data.examples import Request, as_messages, user_says
from divalign.lm.generate import generate
from divalign.lm.load import quietly
from divalign.safety.judges import find_judge
from divalign.stages.models import find_model
from divalign.toy.world import requests
from divalign.train.monitor import MonitorOptions, SafetyMonitor

STEPS, EVERY, RATE = 100, 5, 1e-3
PROBES = 64


class Generated(TrainerCallback):
    """Share of the harmful probe prompts that the model refuses, generated and judged, at every check."""

    def __init__(self, prompts: Sequence[str], tokenizer: Any) -> None:
        self.prompts, self.tokenizer = prompts, tokenizer
        self.refused: dict[int, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.read(model, 0)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step % EVERY == 0:
            self.read(model, state.global_step)

    def read(self, model: Any, step: int) -> None:
        responses = generate(model, self.tokenizer, [user_says(prompt) for prompt in self.prompts], max_new_tokens=24)
        verdicts = find_judge("refusal_combined")(self.prompts, responses)
        self.refused[step] = sum(verdict.unsafe is False for verdict in verdicts) / len(self.prompts)


def row(request: Request, response: str) -> dict[str, Any]:
    return {"prompt": as_messages(request.prompt, "user"), "completion": as_messages(response, "assistant")}


def watch(spelling: str, rows: list[dict[str, Any]]) -> tuple[SafetyMonitor, dict[int, float], list[dict[str, Any]]]:
    """Fine-tune a fresh copy of the model and return the monitor, the refusals that were generated, and the log."""
    lm = find_model(spelling).lm()
    probes = requests("test", held_out=False)
    harmful, benign = ([r.prompt for r in probes if r.harmful is side][:PROBES] for side in (True, False))
    generated = Generated(harmful, lm.tokenizer)
    monitor = SafetyMonitor(harmful, benign, options=MonitorOptions(every=EVERY))
    with tempfile.TemporaryDirectory() as folder, quietly():
        args = SFTConfig(
            folder, max_steps=STEPS, per_device_train_batch_size=16, learning_rate=RATE, warmup_steps=6, use_cpu=True,
            lr_scheduler_type="cosine", report_to="none", save_strategy="no", disable_tqdm=True, seed=0, bf16=False,
            gradient_checkpointing=False,
        )  # fmt: skip
        trainer = SFTTrainer(
            lm.model, args, train_dataset=Dataset.from_list(rows), processing_class=lm.tokenizer,
            callbacks=[monitor, generated],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return monitor, generated.refused, [entry for entry in trainer.state.log_history if "safety/alarm" in entry]


def table(refused: dict[int, float], log: list[dict[str, Any]]) -> str:
    names = (
        *("refusal_probability", "refusal_log_odds", "log_e_value", "alarm"),
        *("kl_harmful", "kl_benign", "bhattacharyya", "probe_auc"),
    )
    lines = ["| " + " | ".join(("update", "refusals generated", *names)) + " |", "|---" * (len(names) + 2) + "|"]
    for entry in log:
        cells = (f"{entry[f'safety/{name}']:.2f}" for name in names)
        lines.append(f"| {entry['step']} | {refused[entry['step']]:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    trained = requests("train", held_out=False)
    benign = [row(request, request.compliance) for request in trained if not request.harmful]
    refusals = [row(request, request.refusal) for request in trained if request.harmful][: len(benign) // 2]
    for name, rows in (("benign rows alone", benign), ("a third of refusals among them", [*benign, *refusals])):
        monitor, refused, log = watch(sys.argv[1], rows)
        half = next((step for step, share in refused.items() if share <= refused[0] / 2), None)
        print(f"## {name}\n\n{table(refused, log)}\n\nhalf gone at {half}; alarm: {monitor.alarm}\n")


if __name__ == "__main__":
    main()
