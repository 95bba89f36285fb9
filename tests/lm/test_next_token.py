"""Next-token probabilities: batches against one full forward each, whatever the architecture."""

from typing import Any

import numpy as np
import pytest
import torch

from divalign.data.batching import encode_conversation
from divalign.data.examples import user_says
from divalign.lm import next_token
from divalign.lm.next_token import next_token_logprobs
from tests.tiny import ARCHITECTURES, tiny_model

CONVERSATIONS = [user_says("Tell me about " + "a very long bridge, " * count) for count in (3, 0, 1, 6, 2)]
OPTIONS = ("1", "2", "3", "4", "5")


@torch.no_grad()
def one_by_one(model: Any, tokenizer: Any) -> np.ndarray:
    """The definition: a full forward of each conversation alone, and the softmax over all tokens at its end."""
    ids = [tokenizer.get_vocab()[option] for option in OPTIONS]
    rows = []
    for conversation in CONVERSATIONS:
        logits = model(input_ids=torch.tensor([encode_conversation(tokenizer, conversation)])).logits[0, -1]
        rows.append(logits.double().softmax(dim=-1)[ids].numpy())
    return np.array(rows)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "Llama4"])
def test_padded_batches_give_what_a_full_forward_of_each_alone_gives(architecture: str) -> None:
    model, tokenizer = tiny_model(architecture)
    result = next_token_logprobs(model, tokenizer, CONVERSATIONS, OPTIONS, batch_size=3)
    # float32 sums in another order: the last bits of logits of size 10
    np.testing.assert_allclose(np.exp(result), one_by_one(model, tokenizer), rtol=2e-4)


def test_a_model_with_a_recurrent_state_is_never_padded() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    tokenizer = tiny_model("Llama")[1]
    config = MambaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=4, pad_token_id=0, bos_token_id=1
    )
    torch.manual_seed(0)
    model = MambaForCausalLM(config).eval()
    np.testing.assert_allclose(
        np.exp(next_token_logprobs(model, tokenizer, CONVERSATIONS, OPTIONS)), one_by_one(model, tokenizer), rtol=2e-4
    )


def test_every_row_is_told_once_as_it_comes() -> None:
    model, tokenizer = tiny_model()
    reported: dict[int, list[float]] = {}

    def note(index: int, row: list[float]) -> None:
        assert index not in reported
        reported[index] = row

    result = next_token_logprobs(model, tokenizer, CONVERSATIONS, OPTIONS, batch_size=2, on_response=note)
    assert [reported[index] for index in range(len(CONVERSATIONS))] == result.tolist()


def test_no_conversations_give_no_rows() -> None:
    assert next_token_logprobs(*tiny_model(), [], OPTIONS).shape == (0, 5)


def test_running_out_of_memory_halves_the_batch_and_changes_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny_model()
    expected, whole, sizes = next_token_logprobs(model, tokenizer, CONVERSATIONS, OPTIONS), next_token._log_probs, []

    def tight(net: Any, prompts: Any, ids: Any) -> np.ndarray:
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("no more")
        return whole(net, prompts, ids)

    monkeypatch.setattr(next_token, "_log_probs", tight)
    np.testing.assert_allclose(next_token_logprobs(model, tokenizer, CONVERSATIONS, OPTIONS), expected, rtol=1e-4)
    assert sizes == [5, 2, 2, 1]


def test_out_of_memory_with_a_single_conversation_and_other_errors_are_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for error, expected in ((torch.OutOfMemoryError("no"), MemoryError), (RuntimeError("a bug"), RuntimeError)):

        def fails(*_: Any, error: Exception = error) -> np.ndarray:
            raise error

        monkeypatch.setattr(next_token, "_log_probs", fails)
        with pytest.raises(expected, match="single conversation" if expected is MemoryError else "a bug"):
            next_token_logprobs(*tiny_model(), CONVERSATIONS, OPTIONS)


@pytest.mark.parametrize(
    ("options", "sizes", "sentence"),
    [
        ([], {}, "at least 1 of each"),
        (["1"], {"batch_size": 0}, "at least 1 of each"),
        (["1", "ten"], {}, "'ten' is 3 tokens"),
    ],
)
def test_what_cannot_be_read_is_refused(options: list[str], sizes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        next_token_logprobs(*tiny_model(), CONVERSATIONS, options, **sizes)


def test_a_conversation_over_the_context_is_named() -> None:
    with pytest.raises(ValueError, match=r"conversation 1 is \d+ tokens long and the model's context is 512"):
        next_token_logprobs(*tiny_model(), [user_says("a"), user_says("a" * 600)], OPTIONS)


def test_a_model_that_overflows_is_refused_and_not_journalled() -> None:
    model, tokenizer = tiny_model()
    torch.nn.init.constant_(model.get_input_embeddings().weight, torch.nan)
    with pytest.raises(ValueError, match=r"conversation \d are not finite; load the model in float32"):
        next_token_logprobs(model, tokenizer, CONVERSATIONS[:2], OPTIONS, batch_size=1)


def test_a_device_without_float64_gives_the_same_up_to_float32s_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny_model("Llama")
    expected = next_token_logprobs(model, tokenizer, [user_says("a")], ["a", "b"])
    monkeypatch.setattr("divalign.core.precision.WITHOUT_FLOAT64", ("cpu",))
    assert np.allclose(next_token_logprobs(model, tokenizer, [user_says("a")], ["a", "b"]), expected, atol=1e-5)
