"""Prompts per second into hidden states of all layers, ours against the paper's way: `python -m bench.hidden`.

The paper's way is one prompt at a time through the full model, head included, all states kept and one row of the last
taken. Ours runs the backbone alone, in batches by length, and reads every layer at two positions. Same Qwen2 of random
weights, same prompts of 20 to 60 tokens, interleaved rounds in one process, medians. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import numpy as np
import torch

from bench.generate import bench_model, prompts, seconds
from divalign.data.batching import encode_conversation
from divalign.data.examples import Conversation
from divalign.lm.hidden import hidden_states
from tests.tiny import tiny_tokenizer


@torch.no_grad()
def the_papers_way(model: Any, tokenizer: Any, conversations: list[Conversation]) -> np.ndarray:
    rows = []
    for conversation in conversations:
        ids = torch.tensor([encode_conversation(tokenizer, conversation)])
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        rows.append(found.hidden_states[-1][0, -1].numpy())
    return np.stack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    model, tokenizer, conversations = bench_model(), tiny_tokenizer(), prompts(arguments.prompts)
    few = conversations[::4]
    apart = hidden_states(model, tokenizer, few)["generation"][-1] - the_papers_way(model, tokenizer, few)
    size, single, ours = arguments.batch_size, [], []

    def batches() -> None:
        hidden_states(model, tokenizer, conversations, batch_size=size)

    for _ in range(arguments.rounds):
        single.append(len(few) / seconds(lambda: the_papers_way(model, tokenizer, few)))
        ours.append(len(conversations) / seconds(batches))
    one, batched = statistics.median(single), statistics.median(ours)
    found = {
        "papers_way_per_second": round(one),
        "prompts_per_second": round(batched),
        "times": round(batched / one, 1),
    }
    print(json.dumps({**found, "threads": torch.get_num_threads(), "largest_difference": float(np.abs(apart).max())}))


if __name__ == "__main__":
    main()
