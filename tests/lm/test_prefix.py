"""A common prefix that is computed once leaves what every row alone would give, on every architecture."""

from typing import Any

import numpy as np
import pytest
import torch

from divalign.data.batching import encode_conversation
from divalign.data.examples import user_says
from divalign.lm.generate import generate
from divalign.lm.hidden import hidden_states
from divalign.lm.prefix import Prefixes
from tests.tiny import ARCHITECTURES, tiny_model, tiny_tokenizer

LONG = "These are forty letters that all begin.. "
PROMPTS = [user_says(LONG + text) for text in ("a", "bc", "def and some more", "x", "what?", "and yet another one")]


def parts_read(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `prefilled` returns from now on."""
    returned: list[Any] = []
    plain = Prefixes.prefilled

    def spy(self: Prefixes, *args: Any, **kwargs: Any) -> Any:
        returned.append(plain(self, *args, **kwargs))
        return returned[-1]

    monkeypatch.setattr(Prefixes, "prefilled", spy)
    return returned


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "Llama4"])
def test_responses_and_states_are_those_of_every_prompt_alone(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny_model(architecture)
    alone = [generate(model, tokenizer, [prompt], max_new_tokens=12)[0] for prompt in PROMPTS]
    states = [hidden_states(model, tokenizer, [prompt]) for prompt in PROMPTS]
    returned = parts_read(monkeypatch)
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=12) == alone
    assert any(batch is not None for batch in returned)  # the prefix was shared
    returned.clear()
    together = hidden_states(model, tokenizer, PROMPTS)
    assert any(batch is not None for batch in returned)
    for position, array in together.items():
        expected = np.concatenate([each[position] for each in states], axis=1)
        np.testing.assert_allclose(array, expected, atol=2e-5)  # float32 products of other shapes


def test_a_row_shorter_than_the_rest_of_the_longest_is_whole_in_the_batch() -> None:
    model, tokenizer = tiny_model("Llama")
    prompts = [*PROMPTS, user_says(LONG + "q" * 60)]
    rows = [encode_conversation(tokenizer, prompt) for prompt in prompts]
    batch = Prefixes(model).prefilled(rows)
    assert batch is not None
    rest = batch.tokens.shape[1]
    assert rest > len(rows[0]) - len(LONG)  # so the short rows compute a part of the prefix again
    with torch.no_grad():
        for number, row in enumerate(rows):
            whole = model(input_ids=torch.tensor([row])).logits[0, -1]
            inputs = {"input_ids": batch.tokens, "attention_mask": batch.mask}
            cache = Prefixes(model).prefilled(rows)
            assert cache is not None
            positions = (batch.mask.cumsum(1) - 1).clamp(min=0)[:, -rest:]
            together = model(**inputs, position_ids=positions, past_key_values=cache.cache).logits[number, -1]
            torch.testing.assert_close(together, whole, atol=2e-5, rtol=1e-4)


def test_nothing_is_shared_where_little_would_be_saved() -> None:
    model, tokenizer = tiny_model("Llama")
    rows = [encode_conversation(tokenizer, prompt) for prompt in PROMPTS]
    assert Prefixes(model).prefilled(rows[:1]) is None  # one row has nothing to share
    assert Prefixes(model).prefilled([row[-12:] for row in rows]) is None  # a few tokens at most
    assert Prefixes(model).prefilled(rows, most=4) is None
    assert Prefixes(model).prefilled([rows[0], rows[0]]) is not None  # equal rows leave one token each
    assert Prefixes(model).prefilled([rows[0], rows[1], []]) is None


def test_a_prefix_is_computed_once_for_many_batches() -> None:
    model, tokenizer = tiny_model("Llama")
    calls: list[int] = []
    model.register_forward_pre_hook(lambda *args: calls.append(1))
    prefixes = Prefixes(model)
    rows = [encode_conversation(tokenizer, prompt) for prompt in PROMPTS]
    for start in range(3):
        assert prefixes.prefilled(rows[start : start + 3]) is not None
    assert len(calls) == 1


def test_a_model_without_cache_or_position_ids_has_the_states_of_every_prompt_alone() -> None:
    from transformers import BartConfig, BartForCausalLM, OpenAIGPTConfig, OpenAIGPTLMHeadModel

    tokenizer = tiny_tokenizer()
    bart = BartConfig(vocab_size=300, d_model=32, decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=32)
    gpt = OpenAIGPTConfig(vocab_size=300, n_embd=32, n_layer=2, n_head=2)
    for model in (BartForCausalLM(bart).eval(), OpenAIGPTLMHeadModel(gpt).eval()):
        together = hidden_states(model, tokenizer, PROMPTS)["generation"]
        for number, prompt in enumerate(PROMPTS):
            alone = hidden_states(model, tokenizer, [prompt])["generation"][:, 0]
            np.testing.assert_allclose(together[:, number], alone, atol=2e-5)
