"""What a whole model in bfloat16 learns at small learning rates: `python -m bench.half_precision`.

The embedded model on compliance-refusal rows with kldo, 16 pairs an update, the rate falling on a cosine: in bfloat16
alone, on float32 weights with products in bfloat16 (what `divalign train` does), and in float32. The margin is mean r
of held-out aligned rows less that of unaligned ones, in nats, under what is saved.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from transformers.trainer_callback import PrinterCallback

from divalign import DivergenceConfig, DivergenceTrainer
from divalign.data.examples import Row
from divalign.data.recipes import RECIPES
from divalign.lm.load import LM, quietly
from divalign.stages.models import LoadOptions, find_model
from divalign.toy.world import requests
from divalign.train.run import train_and_save

PLANS = ((1e-6, 60), (1e-6, 600), (1e-5, 60), (1e-5, 600), (1e-4, 60))  # learning rate, updates
KINDS = ("bfloat16 alone", "float32 weights, bfloat16 products", "float32")


class Outcome(NamedTuple):
    """The share of the weights that are not what they were, and the margin, both of the saved model."""

    changed: float
    margin: float


def train(lm: LM, kind: str, rate: float, updates: int) -> Outcome:
    """Train a model, which is changed; return what is left of it in its own dtype."""
    rows, held_out = (
        [RECIPES["cr"](each) for each in requests(part, held_out=False)[::every]]
        for part, every in (("train", 4), ("test", 2))
    )
    start = {name: weight.detach().clone() for name, weight in lm.model.named_parameters()}
    settings: dict[str, Any] = {
        "method": "kldo", "learning_rate": rate, "max_steps": updates, "per_device_train_batch_size": 16,
        "use_cpu": True, "logging_steps": 50.0,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, quietly():
        if kind == KINDS[0]:
            measured = alone(lm, rows, held_out, folder, settings)
        else:
            measured = train_and_save(lm, rows, Path(folder) / "model", held_out=held_out, **settings).held_out or {}
    moved = sum(int((weight != start[name]).sum()) for name, weight in lm.model.named_parameters())
    total = sum(weight.numel() for weight in start.values())
    return Outcome(moved / total, float(measured["eval_rewards/margins"]))


def alone(lm: LM, rows: list[Row], held_out: list[Row], folder: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train the weights in the dtype that they have; return the held-out figures."""
    args = DivergenceConfig(
        folder, lr_scheduler_type="cosine", report_to="none", save_strategy="no", disable_tqdm=True,
        gradient_checkpointing=False, **settings,
    )  # fmt: skip
    trainer = DivergenceTrainer(
        lm.model, args=args, train_dataset=rows, eval_dataset=held_out, processing_class=lm.tokenizer
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer.evaluate()


def main() -> None:
    print("| learning rate, updates | " + " | ".join(KINDS) + " |\n|---|" + "---|" * len(KINDS))
    for rate, updates in PLANS:
        cells = []
        for kind in KINDS:
            lm = find_model("toy", LoadOptions(dtype="float32" if kind == "float32" else "bfloat16")).lm()
            outcome = train(lm, kind, rate, updates)
            cells.append(f"{outcome.margin:.4f} ({outcome.changed:.1%} changed)")
        print(f"| {rate:g}, {updates} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
