"""What computing a common prefix once saves on SmolLM2: `python -m bench.prefix [FILE.gguf]`; interleaved, medians.

Prompts of `everyday` under direct, wrapper and many_shot attacks: seconds of greedy generation of all, and of the
hidden states of each attack's prompts, with the prefix shared and without. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from bench.generate import seconds
from bench.real import GGUF
from divalign.data.everyday import read_everyday
from divalign.lm.generate import generate
from divalign.lm.hidden import hidden_states
from divalign.safety.attacks import find_single_shot
from divalign.stages.models import LoadOptions, find_model

ATTACKS = ("direct", "wrapper", "many_shot")
NEVER = 1 << 30  # tokens that a prefix would need to be shared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", nargs="?", default=str(GGUF))
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    if not Path(arguments.gguf).is_file():
        print(f"skipped: {arguments.gguf} is not there; `make real` fetches it")
        return
    lm = find_model(arguments.gguf, LoadOptions(dtype=arguments.dtype)).lm()
    texts = [row.prompt for row in read_everyday("test")[: arguments.prompts]]
    asked = {name: [find_single_shot(name)(text) for text in texts] for name in ATTACKS}
    everything = [conversation for conversations in asked.values() for conversation in conversations]
    responses: dict[str, list[str]] = {}
    times: dict[str, dict[str, list[float]]] = {}

    def measure(way: str) -> None:
        def answer() -> None:
            responses[way] = generate(lm.model, lm.tokenizer, everything, max_new_tokens=32, batch_size=32)

        times.setdefault("generate", {}).setdefault(way, []).append(seconds(answer))
        for name, conversations in asked.items():
            spent = seconds(lambda: hidden_states(lm.model, lm.tokenizer, conversations, batch_size=32))  # noqa: B023
            times.setdefault(f"states {name}", {}).setdefault(way, []).append(spent)

    for _ in range(arguments.rounds):
        measure("shared")
        with mock.patch("divalign.lm.prefix.FEWEST", NEVER):
            measure("plain")
    found: dict[str, Any] = {
        name: {way: statistics.median(t) for way, t in ways.items()} for name, ways in times.items()
    }
    summary = {
        name: {**{way: round(t, 1) for way, t in ways.items()}, "times": round(ways["plain"] / ways["shared"], 1)}
        for name, ways in found.items()
    }
    alike = sum(a == b for a, b in zip(responses["shared"], responses["plain"], strict=True))
    print(json.dumps({**summary, "equal_responses": alike, "of": len(everything), "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
