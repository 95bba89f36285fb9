"""Draws follow the model's own distribution, token by token; states are those of the tokens they are said to be of."""

import itertools

import numpy as np
import pytest
import torch

from divalign.data.batching import Encoded
from divalign.data.examples import user_says
from divalign.lm.decoding import Batch, Row, _choose
from divalign.lm.generate import sample
from divalign.lm.hidden import hidden_states, response_states
from divalign.lm.load import LM
from divalign.lm.score import sequence_log_probs
from divalign.stages.models import OpenModel
from divalign.stages.sampled_kl import SamplingPlan, kl_by_sampling
from tests.tiny import tiny_model


def lm(seed: int) -> LM:
    model, tokenizer = tiny_model(seed=seed)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(8.0)  # far from uniform, so that draws have something to follow
    return LM(model.eval(), tokenizer, f"tiny {seed}", str(seed))


def test_draws_are_the_tokens_that_are_scored_and_their_frequencies_are_the_law() -> None:
    one, conversation = lm(0), user_says("a")
    drawn = sample(one.model, one.tokenizer, [conversation] * 600, max_new_tokens=1, seeds=range(600))
    logits = one.model(torch.tensor([drawn[0].prompt_ids])).logits[0, -1].double()
    distribution = logits.softmax(-1).detach().numpy()
    seen = np.bincount([row.response_ids[0] for row in drawn], minlength=len(distribution)) / 600
    assert np.abs(seen - distribution).max() < 5 * np.sqrt(0.25 / 600)
    log_prob = sequence_log_probs(one.model, drawn[:1], one.tokenizer.pad_token_id)[0]
    assert log_prob == pytest.approx(np.log(distribution[drawn[0].response_ids[0]]), abs=1e-4)


def test_the_token_that_ends_a_response_is_part_of_the_draw() -> None:
    one = lm(1)
    drawn = sample(one.model, one.tokenizer, [user_says("b")] * 64, max_new_tokens=3, seeds=range(64))
    ends = one.tokenizer.eos_token_id
    assert all(len(row.response_ids) == 3 or row.response_ids[-1] == ends for row in drawn)
    assert all(ends not in row.response_ids[:-1] for row in drawn)


def test_sampled_kl_covers_the_enumerated_one() -> None:
    policy, reference, prompts = lm(0), lm(2), ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"]
    exact = np.mean([enumerated_kl(policy, reference, prompt) for prompt in prompts])
    plan = SamplingPlan(samples=60, max_new_tokens=2)
    result = kl_by_sampling(prompts, opened(policy), opened(reference), plan)
    assert result.low <= exact <= result.high
    assert result.n == len(prompts)


def opened(model: LM) -> OpenModel:
    return OpenModel(model.name, model.digest, lambda *_, **__: [], lambda: model)


def enumerated_kl(policy: LM, reference: LM, prompt: str) -> float:
    """KL over responses of at most two tokens: the first token's, and the second's after each first that goes on."""
    from divalign.data.batching import encode_conversation

    ids = encode_conversation(policy.tokenizer, user_says(prompt))
    first = [next_distribution(model, [ids]) for model in (policy, reference)]
    total = kl(first[0], first[1])[0]
    going = [token for token in range(first[0].shape[1]) if token != policy.tokenizer.eos_token_id]
    second = [next_distribution(model, [[*ids, token] for token in going]) for model in (policy, reference)]
    return float(total + (first[0][0, going].exp() * kl(second[0], second[1])).sum())


@torch.no_grad()
def next_distribution(one: LM, rows: list[list[int]]) -> torch.Tensor:
    return one.model(torch.tensor(rows)).logits[:, -1].double().log_softmax(-1)


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p.exp() * (p - q)).sum(-1)


def test_states_of_a_row_are_those_of_its_own_tokens_whatever_the_batch() -> None:
    one = lm(3)
    rows = [Encoded([5, 6, 7], [8, 9]), Encoded([5, 6], [7, 8, 9, 10, 11]), Encoded([4], [3])]
    result = response_states(one.model, rows, one.tokenizer.pad_token_id, batch_size=2)
    for place, row in enumerate(rows):
        ids = torch.tensor([[*row.prompt_ids, *row.response_ids]])
        states = one.model.base_model(ids).last_hidden_state[0].detach().numpy()
        split = len(row.prompt_ids)
        np.testing.assert_allclose(result["prompt"][place], states[split - 1], atol=1e-5)
        np.testing.assert_allclose(result["response"][place], states[split:].mean(0), atol=1e-5)


def test_every_row_is_scored_once_in_any_order() -> None:
    one = lm(4)
    rows = [Encoded([a], [b]) for a, b in itertools.product((3, 4), (5, 6))]
    whole = response_states(one.model, rows, one.tokenizer.pad_token_id, batch_size=4)["response"]
    back = response_states(one.model, rows[::-1], one.tokenizer.pad_token_id, batch_size=3)["response"][::-1]
    np.testing.assert_allclose(whole, back, atol=1e-5)


def test_a_tokenizer_without_padding_has_the_same_states() -> None:
    model, tokenizer = tiny_model()
    conversations = [user_says(text) for text in ("one", "two words", "three words here")]
    expected = hidden_states(model, tokenizer, conversations)
    tokenizer.pad_token = None
    found = hidden_states(model, tokenizer, conversations)
    assert all(np.allclose(found[name], expected[name], atol=1e-6) for name in expected)


def test_a_device_without_float64_draws_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny_model()
    in_float64 = sample(model, tokenizer, [user_says("a")] * 16, max_new_tokens=4, seeds=range(16))
    monkeypatch.setattr("divalign.core.precision.WITHOUT_FLOAT64", ("cpu",))
    assert sample(model, tokenizer, [user_says("a")] * 16, max_new_tokens=4, seeds=range(16)) == in_float64


@pytest.mark.parametrize("without", [("mps",), ("cpu",)])
def test_a_number_next_to_1_never_draws_what_has_no_probability(
    without: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 the largest number below 1 rounds to 1."""
    monkeypatch.setattr("divalign.core.precision.WITHOUT_FLOAT64", without)
    logits = torch.zeros(1, 8).index_fill(1, torch.tensor([5, 6, 7]), -torch.inf)
    row = Row(0, [1], 4, uniforms=np.array([1 - 2**-53]))
    ((token, log_prob),) = _choose(Batch([row], None, torch.ones(1, 1, dtype=torch.long), logits), 1.0)
    assert (token, log_prob) == (4, pytest.approx(np.log(1 / 5)))
