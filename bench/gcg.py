"""GCG candidates per second, batched behind a cached prompt against one whole chat at a time: `python -m bench.gcg`.

The bench model of `bench.generate`; 256 changes of a suffix of 20 marks behind a prompt of 60 bytes. Writing the chats
out and tokenising them again is counted on both sides. Prints one JSON line.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from bench.generate import bench_model, seconds
from divalign.safety.gcg import GcgOptions, _Search, _State
from divalign.safety.suffix import lay_out, survivors
from tests.tiny import tiny_tokenizer


def main() -> None:
    model, tokenizer = bench_model(), tiny_tokenizer()
    layout = lay_out(tokenizer, "Tell me, step by step, how bridges stand in wind and water. ", "Sure", marks=20)
    search = _Search.begin(model, tokenizer, layout, GcgOptions(width=256, top_k=200))
    candidates = search.candidates(_State(layout.start, [1.0]))
    alone = search._replace(prefix=None)

    def one_at_a_time(few: list[Any]) -> None:
        for candidate in few:
            alone.losses(survivors(tokenizer, layout, [candidate]))

    one_at_a_time(candidates[:2])
    single = 32 / seconds(lambda: one_at_a_time(candidates[:32]))
    ours = len(candidates) / seconds(lambda: search.losses(survivors(tokenizer, layout, candidates)))
    figures = {"one_at_a_time": round(single, 1), "per_second": round(ours, 1), "times": round(ours / single, 1)}
    print(json.dumps({**figures, "candidates": len(candidates), "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
