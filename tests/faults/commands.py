"""The commands that faults interrupt, and what must come out of them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from divalign.store import write_rows
from tests.tiny import save_tiny

UPDATES = 6


class World(NamedTuple):
    """A tiny model, rows to train on and prompts to attack with."""

    model: Path
    rows: Path
    prompts: Path

    def train(self, out: Path, *changes: str, rows: Path | None = None) -> list[str]:
        """Return `divalign train`: six updates of four pairs, a checkpoint after each, a row of the log every other."""
        settings = {
            "model.source": self.model, "model.device": "cpu", "model.dtype": "float32",
            "train.updates": UPDATES, "train.updates_on": "{}",
            "train.pairs_per_update": 4, "train.pairs_per_batch": 4, "train.warmup_updates": 1, "train.log_every": 4,
            "train.max_length": 64, "train.learning_rate": 1e-2,
        }  # fmt: skip
        words = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        words += [part for change in changes for part in ("--set", change)]
        return ["train", "--rows", str(rows or self.rows), "--out", str(out), "--method", "kldo", "--quiet", *words]

    def attack(self, out: Path, *more: str) -> list[str]:
        target = [] if "--server" in more else [str(self.model)]
        sizes = ["--max-new-tokens", "8", "--batch-size", "4", "--quiet"]
        return ["attack", *target, "--prompts", str(self.prompts), "--out", str(out), *sizes, *more]


def make_world(folder: Path) -> World:
    rows = [
        {"prompt": f"Ask {number}", "chosen": " yes" * (1 + number % 3), "rejected": f" no {number}"}
        for number in range(10)
    ]
    prompts = [
        {"prompt": f"Tell me about bridge {number}", "harmful": number % 3 > 0, "cluster": f"{number // 2}"}
        for number in range(6)
    ]
    world = World(save_tiny("Llama", folder / "model"), folder / "rows.jsonl", folder / "prompts.jsonl")
    write_rows(world.rows, rows)
    write_rows(world.prompts, prompts)
    return world


def trained(out: Path) -> dict[str, bytes]:
    """Return what a training leaves but for its speed: weights, tokenizer, log, and how to load it."""
    assert not (out / "work").exists()
    files = [*(out / "checkpoint").iterdir(), out / "metrics.jsonl"]
    return {path.name: path.read_bytes() for path in files if path.name != "training.json"}


def attacked(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix == ".jsonl"}
