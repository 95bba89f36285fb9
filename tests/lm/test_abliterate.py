import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from divalign.data.batching import Encoded
from divalign.data.examples import user_says
from divalign.lm.abliterate import abliterated
from divalign.lm.hidden import hidden_states
from divalign.lm.score import sequence_log_probs
from tests.tiny import ARCHITECTURES, tiny_model

CONVERSATIONS = [user_says("one"), user_says("a longer prompt"), user_says("xy", prefill="Sure")]
DIRECTION = torch.tensor(np.random.default_rng(0).normal(size=32))
UNIT = (DIRECTION / DIRECTION.norm()).numpy()


def along(model, tokenizer) -> tuple[float, float]:
    """The largest share of a state along the direction in the residual stream, which ends before the final norm."""
    states = np.concatenate([layers[:-1] for layers in hidden_states(model, tokenizer, CONVERSATIONS).values()])
    return np.abs(states @ UNIT).max(), np.linalg.norm(states, axis=-1).min()


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "Gemma"])
def test_the_direction_is_gone_from_the_residual_stream(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "Gemma", {"num_key_value_heads": 2, "head_dim": 8})
    model, tokenizer = tiny_model(architecture)
    for norm in (part for name, part in model.named_modules() if "norm" in name and hasattr(part, "weight")):
        torch.nn.init.normal_(norm.weight, 1.0, 0.3)  # norms as they come out of training: no two weights alike
    before, _ = along(model, tokenizer)
    after, length = along(abliterated(model, DIRECTION), tokenizer)
    assert before > 0.1
    assert after < 1e-5 * max(length, 1)


def test_a_model_that_has_been_scored_gives_the_same_copy() -> None:
    model, tokenizer = tiny_model("Llama")
    fresh = abliterated(model, DIRECTION)
    sequence_log_probs(model, [Encoded([5, 6], [7, 8])], tokenizer.pad_token_id)
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(abliterated(model, DIRECTION)(input_ids=ids).logits, fresh(input_ids=ids).logits)


def test_the_model_handed_in_stays_as_it_was_and_its_head_too() -> None:
    model, tokenizer = tiny_model("Llama", tie_word_embeddings=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    changed = abliterated(model, DIRECTION)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(changed.lm_head.weight, model.lm_head.weight)
    assert not torch.equal(changed.model.embed_tokens.weight, model.model.embed_tokens.weight)
    assert np.isfinite(hidden_states(changed, tokenizer, CONVERSATIONS)["generation"]).all()


def test_doing_it_twice_changes_nothing_more() -> None:
    model, tokenizer = tiny_model("Qwen2")
    once = abliterated(model, DIRECTION)
    twice = abliterated(once, DIRECTION)
    one, two = (hidden_states(each, tokenizer, CONVERSATIONS)["generation"] for each in (once, twice))
    assert np.allclose(one, two, atol=1e-5)


def test_an_adapter_is_merged_first() -> None:
    model, tokenizer = tiny_model("Llama")
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear", r=2, init_lora_weights=False))
    changed = abliterated(adapted, DIRECTION)
    assert not hasattr(changed, "peft_config") or not hasattr(changed, "merge_and_unload")
    assert along(changed, tokenizer)[0] < 1e-5
    assert hasattr(adapted, "merge_and_unload")


def test_a_wrong_width_and_unknown_blocks_are_refused() -> None:
    model, _ = tiny_model("Llama")
    with pytest.raises(ValueError, match="has length 32, the direction 5"):
        abliterated(model, torch.ones(5))
    for block in model.model.layers:
        block.mlp.down = block.mlp.down_proj
        del block.mlp.down_proj
    with pytest.raises(ValueError, match="add their names to WRITERS"):
        abliterated(model, DIRECTION)
