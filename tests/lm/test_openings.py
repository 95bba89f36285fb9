"""Refusal log-odds are sums of probabilities of what a response may begin with, and leave the model as it was."""

from typing import Any

import numpy as np
import pytest
import torch

from divalign.data.examples import user_says
from divalign.data.refusals import refusal_kind
from divalign.lm.next_token import next_token_distributions, next_token_logprobs
from divalign.lm.openings import COMPLIANCE_OPENINGS, REFUSAL_OPENINGS, attached, opening_log_odds
from tests.tiny import tiny_model

PROMPTS = [user_says(text) for text in ("break the glass", "paint it", "a")]


def test_single_tokens_give_the_log_odds_of_the_next_token() -> None:
    model, tokenizer = tiny_model()
    odds = opening_log_odds(model, tokenizer, PROMPTS, (["n", "x"], ["y"]))
    n, x, y = next_token_logprobs(model, tokenizer, PROMPTS, ["n", "x", "y"]).T
    np.testing.assert_allclose(odds, np.logaddexp(n, x) - y, atol=1e-5)


def test_an_opening_of_several_tokens_has_the_product_of_their_probabilities() -> None:
    model, tokenizer = tiny_model()
    odds = opening_log_odds(model, tokenizer, PROMPTS[:1], (["no"], ["y"]))
    n, y = next_token_logprobs(model, tokenizer, PROMPTS[:1], ["n", "y"])[0]
    (o,) = next_token_logprobs(model, tokenizer, [PROMPTS[0]._replace(prefill="n")], ["o"])[0]
    assert odds[0] == pytest.approx(n + o - y, abs=1e-5)


def test_scoring_leaves_the_models_forward_as_it_was() -> None:
    model, tokenizer = tiny_model()
    before = dict(vars(model))
    opening_log_odds(model, tokenizer, PROMPTS, (["n"], ["y"]))
    assert vars(model) == before

    def patched(*args: Any, **kwargs: Any) -> Any:
        return type(model).forward(model, *args, **kwargs)

    model.forward = patched
    with attached(model):
        assert model.forward is not patched
    assert model.forward is patched
    assert model(input_ids=torch.arange(4)[None]).logits.shape[:2] == (1, 4)


def test_openings_that_would_count_twice_are_refused() -> None:
    model, tokenizer = tiny_model()
    with pytest.raises(ValueError, match="'no' begins 'no way'"):
        opening_log_odds(model, tokenizer, PROMPTS, (["no", "no way"], ["y"]))


def test_the_default_openings_are_disjoint_and_refusals_are_refusals() -> None:
    texts = [*REFUSAL_OPENINGS, *COMPLIANCE_OPENINGS]
    assert not [(a, b) for a in texts for b in texts if a != b and b.startswith(a)]
    goes_on = {"No,": "I won't help", "As an AI": "model", "Unfortunately": "I can't help", "I cannot": "help",
               "I can't": "help", "I can not": "help", "I won't": "help"}  # fmt: skip
    assert all(refusal_kind(f"{opening} {goes_on.get(opening, 'to')}") for opening in REFUSAL_OPENINGS)
    assert not any(refusal_kind(opening) for opening in COMPLIANCE_OPENINGS)


def test_the_distribution_of_the_next_token_is_whole() -> None:
    model, tokenizer = tiny_model()
    rows = next_token_distributions(model, tokenizer, PROMPTS, batch_size=2)
    np.testing.assert_allclose(np.exp(rows.astype(float)).sum(axis=1), 1, atol=1e-5)
    column = tokenizer.get_vocab()["n"]
    np.testing.assert_allclose(rows[:, column], next_token_logprobs(model, tokenizer, PROMPTS, ["n"])[:, 0], atol=1e-5)
