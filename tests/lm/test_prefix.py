"""A common prefix that is computed once leaves what every row alone would give, on every architecture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from divalign.data.batching import encode_conversation
from divalign.data.examples import user_says
from divalign.lm.decoding import network
from divalign.lm.generate import generate
from divalign.lm.hidden import hidden_states
from divalign.lm.prefix import Prefixes
from tests.tiny import ARCHITECTURES, tiny_model

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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_responses_and_states_are_those_of_every_prompt_alone(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny_model(architecture)
    alone = [generate(model, tokenizer, [prompt], max_new_tokens=12)[0] for prompt in PROMPTS]
    states = [hidden_states(model, tokenizer, [prompt]) for prompt in PROMPTS]
    returned = parts_read(monkeypatch)
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=12) == alone
    together = hidden_states(model, tokenizer, PROMPTS)
    assert all(batch is not None for batch in returned[:1] + returned[-1:])  # the prefix was shared
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


def test_a_prefix_is_computed_once_for_many_batches() -> None:
    model, tokenizer = tiny_model("Llama")
    calls: list[int] = []
    model.register_forward_pre_hook(lambda *args: calls.append(1))
    prefixes = Prefixes(model)
    rows = [encode_conversation(tokenizer, prompt) for prompt in PROMPTS]
    for start in range(3):
        assert prefixes.prefilled(rows[start : start + 3]) is not None
    assert len(calls) == 1


def test_a_recurrent_state_shares_nothing(tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=2, state_size=4))
    assert not network(model).mergeable
