"""Make the embedded language model from a seed: `python -m divalign.toy.pretrain` (or `make toy`).

A Llama of under a million parameters with a byte-level BPE of its own, trained on the documents of `grammar` alone.
It knows what every topic is and answers every request: a base model that alignment has something to do with.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from divalign.data.batching import pad_right
from divalign.store import file_digest, write_json
from divalign.toy.grammar import document, topics
from divalign.toy.world import ASSETS

SPECIAL = {"pad": "<|pad|>", "eos": "<|end|>", "system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def documents(seed: int) -> Iterator[str]:
    """Yield the world's documents for ever, each as the text the model is shown."""
    rng, all_topics = random.Random(seed), topics()
    while True:
        turns = document(rng, all_topics)
        if len(turns) == 1:
            yield f"{turns[0]}<|end|>"
        else:
            yield f"<|user|>{turns[0]}<|end|><|assistant|>{turns[1]}<|end|>"


def make_tokenizer(seed: int, vocabulary: int = 1024, n_documents: int = 20_000) -> Any:
    """Train a byte-level BPE on the world's own text."""
    stream = documents(seed)
    texts = [next(stream) for _ in range(n_documents)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = list(SPECIAL.values())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=SPECIAL["pad"],
        eos_token=SPECIAL["eos"],
        additional_special_tokens=special[2:],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


def negative_log_likelihood(model: Any, tokenizer: Any, texts: list[str]) -> Tensor:
    """Return the mean over all tokens but each text's first, in nats."""
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    labels = pad_right(rows, -100)
    ids = labels.clamp(min=0)
    return model(input_ids=ids, attention_mask=(labels >= 0).long(), labels=labels).loss


def pretrain(
    out: Path, *, seed: int = 0, steps: int = 1500, batch: int = 64, learning_rate: float = 3e-3
) -> dict[str, Any]:
    """Train, save and measure; return the card (hash, cost, held-out perplexity) that is written beside the model."""
    tokenizer = make_tokenizer(seed)
    model = make_model(tokenizer, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=steps // 30, num_training_steps=steps)
    stream, start = documents(seed + 1), time.perf_counter()
    for step in range(steps):
        loss = negative_log_likelihood(model, tokenizer, [next(stream) for _ in range(batch)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step:5d}  loss {loss.item():.3f}  {time.perf_counter() - start:.0f} s", flush=True)  # noqa: T201
    model.eval().to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    card = {
        "seed": seed,
        "steps": steps,
        "documents": steps * batch,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(time.perf_counter() - start),
        "held_out_perplexity": held_out_perplexity(model.float(), tokenizer, seed + 2),
        "sha256": file_digest(out / "model.safetensors"),
    }
    write_json(out / "card.json", card)
    return card


@torch.no_grad()
def held_out_perplexity(model: Any, tokenizer: Any, seed: int, n: int = 2000) -> float:
    """Return exp of the mean loss per token on documents that training did not draw.

    The world's own choices (topic, phrasing, answer) bound it from below: a perfect model does not reach 1.
    """
    stream = documents(seed)
    texts = [next(stream) for _ in range(n)]
    return round(math.exp(negative_log_likelihood(model, tokenizer, texts).item()), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ASSETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    print(json.dumps(pretrain(options.out, seed=options.seed, steps=options.steps)))  # noqa: T201


if __name__ == "__main__":
    main()
