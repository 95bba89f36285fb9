"""Generated tokens per second, ours against a loop over single prompts: `python -m bench.generate [--prompts 256]`.

The model is a Qwen2 of four layers with random weights (hidden 256, vocabulary 32,000), so no download. Both sides
write greedily, 32 tokens at most, for the same prompts of 20 to 60 tokens, on the machine's default threads; the loop
is transformers' own `generate`, one prompt at a time, and is timed on every eighth prompt. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from divalign.data.batching import encode_conversation
from divalign.data.examples import Conversation, user_says
from divalign.lm.generate import generate
from tests.tiny import tiny_tokenizer

MAX_NEW_TOKENS = 32


def bench_model() -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=32000,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).eval()
    model.generation_config.eos_token_id = None
    return model


def prompts(count: int) -> list[Conversation]:
    chance = random.Random(0)
    return [user_says("x" * chance.randint(2, 42)) for _ in range(count)]


def loop(model: Any, tokenizer: Any, conversations: list[Conversation]) -> None:
    """Write for one prompt after the other, as the paper's evaluation does."""
    with torch.no_grad():
        for conversation in conversations:
            ids = torch.tensor([encode_conversation(tokenizer, conversation)])
            mask = torch.ones_like(ids)
            model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=128)
    arguments = parser.parse_args()
    model, tokenizer, conversations = bench_model(), tiny_tokenizer(), prompts(arguments.prompts)
    tokenizer.eos_token = None  # so that both sides write every token
    few = conversations[::8]
    loop(model, tokenizer, few[:1])
    size = {"max_new_tokens": MAX_NEW_TOKENS, "batch_size": arguments.batch_size}
    single = len(few) * MAX_NEW_TOKENS / seconds(lambda: loop(model, tokenizer, few))
    ours = len(conversations) * MAX_NEW_TOKENS / seconds(lambda: generate(model, tokenizer, conversations, **size))
    print(
        json.dumps(
            {
                "loop_tokens_per_second": round(single),
                "tokens_per_second": round(ours),
                "times": round(ours / single, 1),
                "threads": torch.get_num_threads(),
                "batch_size": arguments.batch_size,
            }
        )
    )


if __name__ == "__main__":
    main()
