"""Refilling, memory trouble and sampling: what happens inside a batch must not show in the responses."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from scipy.stats import chisquare
from transformers import DynamicCache

from divalign.data.examples import user_says
from divalign.lm import decoding
from divalign.lm.generate import generate
from divalign.lm.kv_cache import ROOM, growing_cache
from tests.tiny import tiny_model, tiny_tokenizer

CONVERSATIONS = [user_says("Say " + "more and " * (index % 5) + str(index)) for index in range(14)]


@pytest.fixture(scope="module")
def ending() -> tuple[Any, Any]:
    """A model whose responses end anywhere between their first and last token."""
    model, tokenizer = tiny_model("Gemma3")
    model.generation_config.eos_token_id = list(range(7, 60))
    return model, tokenizer


def sizes_of_batches(
    model: Any, limit: int | None = None, error: type[Exception] = torch.OutOfMemoryError
) -> list[int]:
    """Note the rows of every forward, and run out of memory above `limit` rows."""
    seen: list[int] = []

    def hook(_module: Any, _arguments: Any, options: dict[str, Any]) -> None:
        seen.append(options["input_ids"].shape[0])
        if limit is not None and seen[-1] > limit:
            raise error("DefaultCPUAllocator: can't allocate memory")

    model.register_forward_pre_hook(hook, with_kwargs=True)
    return seen


def test_refilled_batches_write_what_single_conversations_write(ending: tuple[Any, Any]) -> None:
    slow = [generate(*ending, [conversation], temperature=1.0, max_new_tokens=24)[0] for conversation in CONVERSATIONS]
    assert len({len(text) for text in slow}) > 3
    for size in (1, 3, 4, 8, 64):
        assert generate(*ending, CONVERSATIONS, temperature=1.0, max_new_tokens=24, batch_size=size) == slow


def test_the_place_of_an_ended_response_is_taken_by_the_next_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("divalign.lm.prefix.FEWEST", 1000)  # a forward of a common prefix would count as a row
    model, tokenizer = tiny_model("Llama")
    model.generation_config.eos_token_id = None
    seen = sizes_of_batches(model)
    generate(model, tokenizer, [user_says("a", prefill="b" * 400), *CONVERSATIONS], batch_size=3, max_new_tokens=4)
    assert max(seen) == 3
    assert sum(seen) == 15 * 4  # each row costs one forward per token it writes, and no forward serves an ended row


def test_prefilling_in_parts_of_similar_length_changes_no_response(
    ending: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generate(*ending, CONVERSATIONS, max_new_tokens=8)
    monkeypatch.setattr(decoding, "PREFILL_TOKENS", 1)
    assert generate(*ending, CONVERSATIONS, max_new_tokens=8) == expected


def test_parts_of_similar_length_hold_every_row_once_and_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(20, 120, size=64)
    rows = [decoding.Row(index, [0] * length, 1) for index, length in enumerate(lengths)]
    parts = decoding._similar_lengths(rows)
    assert sorted(row.index for part in parts for row in part) == list(range(64))
    padded = sum(len(part) * max(len(row.tokens) for row in part) for part in parts)
    assert padded < 1.15 * lengths.sum() < 64 * lengths.max()
    assert all(len(part) * len(part[0].tokens) >= decoding.PREFILL_TOKENS for part in parts[:-1])
    assert decoding._similar_lengths([]) == []


def test_a_growing_cache_holds_what_a_dynamic_cache_holds() -> None:
    growing, dynamic = growing_cache(), DynamicCache()
    generator = torch.Generator().manual_seed(0)
    for tokens in [5, *[1] * (ROOM + 3), 70]:
        states = torch.randn(2, 2, 3, tokens, 4, generator=generator)
        for layer in (0, 1):
            grown, expected = (cache.update(states[0] + layer, states[1], layer) for cache in (growing, dynamic))
            assert all(torch.equal(a, b) for a, b in zip(grown, expected, strict=True))
    assert growing.get_seq_length() == dynamic.get_seq_length() == 5 + ROOM + 3 + 70


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_running_out_of_memory_halves_the_batch_and_changes_no_response(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "PREFILL_TOKENS", 1 << 30)  # all rows that join in one forward
    model, tokenizer = tiny_model("Llama")
    calm = generate(model, tokenizer, CONVERSATIONS, max_new_tokens=6)
    seen = sizes_of_batches(model, limit=3, error=error)
    finished: list[int] = []
    troubled = generate(
        model, tokenizer, CONVERSATIONS, max_new_tokens=6, on_response=lambda index, _text: finished.append(index)
    )
    assert troubled == calm
    assert sorted(finished) == list(range(len(CONVERSATIONS)))
    assert [size for size in seen if size > 1][:3] == [14, 7, 3]  # a common prefix is read by itself


def test_batches_grow_back_after_memory_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "PREFILL_TOKENS", 1 << 30)
    model, tokenizer = tiny_model("Llama")
    calm = generate(model, tokenizer, CONVERSATIONS * 3, max_new_tokens=2, batch_size=8)
    troubles = []

    def once(_module: Any, _arguments: Any, options: dict[str, Any]) -> None:
        if options["input_ids"].shape[0] == 8 and not troubles:
            troubles.append(1)
            raise torch.OutOfMemoryError

    model.register_forward_pre_hook(once, with_kwargs=True)
    seen = sizes_of_batches(model)
    assert generate(model, tokenizer, CONVERSATIONS * 3, max_new_tokens=2, batch_size=8) == calm
    assert next(size for size in seen if size > 1) == 4
    assert max(seen) == 8


def test_out_of_memory_with_a_single_conversation_is_an_error_and_what_has_ended_is_kept() -> None:
    model, tokenizer = tiny_model("Llama")
    reported: list[str] = []

    def too_long(_module: Any, _arguments: Any, options: dict[str, Any]) -> None:
        if options["attention_mask"].sum(dim=1).max() > 60:
            raise torch.OutOfMemoryError

    model.register_forward_pre_hook(too_long, with_kwargs=True)
    conversations = [user_says("a" * 90), *CONVERSATIONS[:1]]
    with pytest.raises(MemoryError, match="single conversation in the batch; what has ended is kept"):
        generate(model, tokenizer, conversations, max_new_tokens=4, on_response=lambda _, text: reported.append(text))
    assert not reported  # the longest comes first, so that memory trouble shows before hours of work


def test_an_error_that_is_not_about_memory_is_passed_on() -> None:
    model, tokenizer = tiny_model("Llama")
    sizes_of_batches(model, limit=0, error=KeyError)
    with pytest.raises(KeyError):
        generate(model, tokenizer, CONVERSATIONS)


def test_draws_follow_the_softmax_at_the_temperature() -> None:
    model, tokenizer = tiny_model("Llama")
    logits = torch.full((len(tokenizer),), -1e9)
    letters = torch.tensor([tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "abcd"])
    logits[letters] = torch.tensor([0.0, 1.0, 2.0, -1.0])
    with torch.no_grad():
        model.lm_head.weight.zero_()
    model.lm_head.bias = torch.nn.Parameter(logits)
    texts = generate(model, tokenizer, CONVERSATIONS[:1] * 400, temperature=2.0, max_new_tokens=5, seeds=range(400))
    counts = [sum(text.count(letter) for text in texts) for letter in "abcd"]
    expected = np.exp(np.array([0.0, 1.0, 2.0, -1.0]) / 2.0)
    assert sum(counts) == 2000
    assert chisquare(counts, 2000 * expected / expected.sum()).pvalue > 0.01


def test_equal_seeds_draw_equal_responses_and_different_seeds_different_ones(ending: tuple[Any, Any]) -> None:
    same = [CONVERSATIONS[0]] * 4
    texts = generate(*ending, same, temperature=1.0, max_new_tokens=16, seeds=[5, 6, 5, 7])
    assert texts[0] == texts[2]
    assert len(set(texts)) == 3


def test_a_vanishing_temperature_is_greedy(ending: tuple[Any, Any]) -> None:
    greedy = generate(*ending, CONVERSATIONS, max_new_tokens=8)
    assert generate(*ending, CONVERSATIONS, max_new_tokens=8, temperature=1e-6) == greedy


def test_another_number_of_seeds_than_conversations_is_an_error(ending: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="got 2 seeds for 14 conversations"):
        generate(*ending, CONVERSATIONS, temperature=1.0, seeds=[1, 2])


RECURRENT = {
    "Mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "FalconH1": {
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
    },
    "Lfm2": {
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},
    },
}


@pytest.mark.parametrize("architecture", RECURRENT)
def test_a_model_with_a_recurrent_state_is_never_padded(architecture: str) -> None:
    tokenizer = tiny_tokenizer()
    config = getattr(transformers, f"{architecture}Config")(
        **RECURRENT[architecture], vocab_size=len(tokenizer), initializer_range=0.5
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{architecture}ForCausalLM")(config).eval()
    model.generation_config.eos_token_id = list(range(7, 40))
    single = [generate(model, tokenizer, [conversation], max_new_tokens=10)[0] for conversation in CONVERSATIONS[:5]]
    assert len(set(single)) > 1
    assert generate(model, tokenizer, CONVERSATIONS[:5], max_new_tokens=10, batch_size=3) == single


def test_a_model_without_a_cache_is_an_error() -> None:
    tokenizer = tiny_tokenizer()
    config = transformers.OpenAIGPTConfig(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2)
    with pytest.raises(ValueError, match="OpenAIGPTLMHeadModel keeps no cache"):
        generate(transformers.OpenAIGPTLMHeadModel(config), tokenizer, CONVERSATIONS)
