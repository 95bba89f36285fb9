"""The trainer's benchmark job, one process a run: `python -m bench.job ours|trl METHOD` prints one JSON line.

Pairs of compliance-refusal shape (one long answer, one short refusal a prompt) and a Qwen2 of random weights: hidden
256, 4 layers, vocabulary 32,000. One epoch, 4 pairs an update, float32, reference log-probabilities computed before
the clock starts. `tokens` counts prompt and response of every row, the prompt of a pair twice, for both trainers.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

WORDS = [first + second for first in ("ka", "lo", "mi", "ne", "ru", "sa") for second in ("dar", "fel", "gon", "hin")]
TEMPLATE = (
    "{% for message in messages %}<bos>{{ message.role }} {{ message.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant {% endif %}"
)
SHAPES = {
    "small": {
        "vocab_size": 32_000,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
    },
    "qwen2-0.5b": {
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
    },
}


def tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=800, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([" ".join(WORDS)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", chat_template=TEMPLATE
    )


def pairs(count: int, *, prompt: float = 55.0, answer: float = 100.0, seed: int = 0) -> list[dict[str, str]]:
    """Return pairs whose answer is the aligned side every other time; lengths are log-normal around these medians."""
    draw = random.Random(seed)

    def text(words: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(max(8, words)))

    rows = []
    for number in range(count):
        question = text(round(prompt * draw.lognormvariate(0, 0.5)))
        sides = text(round(answer * draw.lognormvariate(0, 0.5))), text(draw.randint(8, 16))
        chosen, rejected = sides if number % 2 else sides[::-1]
        rows.append({"prompt": question, "chosen": chosen, "rejected": rejected})
    return rows


def model(options: argparse.Namespace) -> Any:
    torch.manual_seed(0)
    shape = SHAPES[options.shape] | ({"vocab_size": options.vocabulary} if options.vocabulary else {})
    made = Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True))
    return made.to(device=options.device, dtype=torch.bfloat16 if options.bf16 else torch.float32)


def adapter(options: argparse.Namespace) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM") if options.lora else None


def token_count(rows: list[dict[str, str]], tok: Any) -> int:
    sides = ((row["prompt"], row[side]) for row in rows for side in ("chosen", "rejected"))
    return sum(len(tok(prompt)["input_ids"]) + len(tok(response)["input_ids"]) for prompt, response in sides)


def useful_operations(rows: list[dict[str, str]], tok: Any, options: argparse.Namespace) -> float:
    """Count the multiplications and additions that training cannot do without: each prompt once, no padding.

    Forward and backward are 6 per weight and token, 4 where the weights are frozen under an adapter; the head meets
    response tokens alone; attention is causal.
    """
    shape, each = SHAPES[options.shape], 4 if options.lora else 6
    vocabulary = options.vocabulary or shape["vocab_size"]
    d, f, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    share = shape["num_key_value_heads"] / shape["num_attention_heads"]
    weights = layers * (d * d * (2 + 2 * share) + 3 * d * f)
    total = 0.0
    for row in rows:
        prompt, *sides = (len(tok(row[name])["input_ids"]) for name in ("prompt", "chosen", "rejected"))
        seen = prompt**2 / 2 + sum(side * (prompt + side / 2) for side in sides)
        total += each * (weights * (prompt + sum(sides)) + d * vocabulary * sum(sides))
        total += 3 * 4 * d * layers * seen
    return total


def settings(folder: str, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "num_train_epochs": 1,
        "logging_steps": 1000,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": options.device == "cpu",
        "bf16": options.bf16,
        "gradient_checkpointing": False,
        "learning_rate": 5e-5,
        "disable_tqdm": True,
        "max_length": 4096,
        "gradient_accumulation_steps": options.accumulation,
    }


def ours(rows: list[dict[str, str]], options: argparse.Namespace, folder: str) -> Any:
    from divalign import DivergenceConfig, DivergenceTrainer

    args = DivergenceConfig(
        method=options.method, per_device_train_batch_size=options.batch, **settings(folder, options)
    )
    return DivergenceTrainer(
        model(options), args=args, train_dataset=rows, processing_class=tokenizer(), peft_config=adapter(options)
    )


def trl(rows: list[dict[str, str]], options: argparse.Namespace, folder: str) -> Any:
    """TRL's trainer of that name. Its unpaired trainer counts rows where ours and its paired one count pairs."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

    unpaired = options.method == "kto"
    config, trainer = (KTOConfig, KTOTrainer) if unpaired else (DPOConfig, DPOTrainer)
    data = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in rows
        for side in ("chosen", "rejected")
    ]
    args = config(
        per_device_train_batch_size=options.batch * (2 if unpaired else 1),
        precompute_ref_log_probs=not options.reference,
        **settings(folder, options),
    )
    return trainer(
        model=model(options),
        ref_model=model(options) if options.reference else None,
        peft_config=adapter(options),
        args=args,
        train_dataset=Dataset.from_list(data if unpaired else rows),
        processing_class=tokenizer(),
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainer", choices=["ours", "trl"])
    parser.add_argument("method")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4, help="pairs per micro-batch")
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--prompt", type=float, default=55.0, help="median words")
    parser.add_argument("--answer", type=float, default=100.0, help="median words")
    parser.add_argument("--reference", action="store_true", help="trl: a reference model beside, nothing precomputed")
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--vocabulary", type=int, help="entries, instead of the shape's own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def _resident_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    rows, tok = pairs(options.pairs, prompt=options.prompt, answer=options.answer), tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        trainer = (ours if options.trainer == "ours" else trl)(rows, options, folder)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    tokens = token_count(rows, tok)
    on_gpu = options.device != "cpu"
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else _resident_mib()
    operations = useful_operations(rows, tok, options)
    found = {"seconds": seconds, "tokens": tokens, "rate": tokens / seconds, "peak_mib": peak, "operations": operations}
    print(json.dumps({**vars(options), **found}))


if __name__ == "__main__":
    main()
