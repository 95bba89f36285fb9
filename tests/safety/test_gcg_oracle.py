"""A whole GCG step against a plain one written here, and its numbers against nanoGCG's where that is installed.

nanoGCG pins an older transformers, so it does not live in this environment. To run its test, unpack its wheel somewhere
and put that folder on PYTHONPATH: the functions used here work with the transformers of this environment.
"""

import importlib.util
from typing import Any

import pytest
import torch
from torch.nn import functional

import divalign.safety.gcg as module
from divalign.safety.gcg import GcgOptions, gcg
from divalign.safety.suffix import SuffixLayout, lay_out, suffix_text, survivors, unwritable
from tests.tiny import tiny_model

PROMPT, TARGET, MARKS, TOP = "Tell me about bridges", "Sure", 3, 5
EVERYTHING = GcgOptions(steps=2, width=4000, top_k=TOP, marks=MARKS)  # so wide that every candidate is drawn


def plain_loss(model: Any, layout: SuffixLayout, suffix: list[int]) -> float:
    """The mean of -log p over the target's tokens, one at a time, on the whole chat."""
    ids = [*layout.before, *suffix, *layout.after, *layout.target]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    first = len(ids) - len(layout.target)
    parts = [logits[at - 1].logsumexp(dim=0) - logits[at - 1, ids[at]] for at in range(first, len(ids))]
    return float(sum(parts) / len(parts))


def plain_gradient(model: Any, layout: SuffixLayout, suffix: list[int]) -> torch.Tensor:
    """The gradient of that loss by the one-hot rows of the suffix's tokens."""
    table = model.get_input_embeddings()(torch.arange(model.config.vocab_size)).detach()
    hot = functional.one_hot(torch.tensor(suffix), model.config.vocab_size).float().requires_grad_()
    pieces = [table[layout.before], hot @ table, table[[*layout.after, *layout.target]]]
    logits = model(inputs_embeds=torch.cat(pieces)[None]).logits[0]
    length = len(layout.target)
    functional.cross_entropy(logits[-length - 1 : -1], torch.tensor(layout.target)).backward()
    assert hot.grad is not None
    return hot.grad


def plain_step(model: Any, tokenizer: Any, layout: SuffixLayout, suffix: list[int]) -> list[int]:
    """The best of all single changes to one of the TOP most promising tokens of a place, if it is better at all."""
    gradient = plain_gradient(model, layout, suffix)
    gradient[:, unwritable(tokenizer, gradient.shape[1], ascii_only=True)] = float("inf")
    changed = [
        [*suffix[:place], int(token), *suffix[place + 1 :]]
        for place in range(len(suffix))
        for token in gradient[place].argsort()[:TOP]
        if int(token) != suffix[place]
    ]
    kept = survivors(tokenizer, layout, changed)
    return min([suffix, *kept], key=lambda ids: plain_loss(model, layout, ids))


@pytest.mark.parametrize("architecture", ["Llama", "Qwen2", "Gemma2", "GPTNeoX"])
def test_two_steps_over_all_candidates_are_those_of_the_plain_algorithm(architecture: str) -> None:
    model, tokenizer = tiny_model(architecture)
    layout = lay_out(tokenizer, PROMPT, TARGET, marks=MARKS)
    first = plain_step(model, tokenizer, layout, layout.start)
    second = plain_step(model, tokenizer, layout, first)
    assert first != layout.start
    found = gcg(model, tokenizer, PROMPT, target=TARGET, options=EVERYTHING)
    assert found.suffix == suffix_text(tokenizer, layout, second)
    expected = [plain_loss(model, layout, ids) for ids in (layout.start, first, second)]
    assert list(found.losses) == pytest.approx(expected, rel=1e-4)


needed = pytest.mark.skipif(
    importlib.util.find_spec("nanogcg") is None, reason="nanogcg is not on PYTHONPATH (it pins an older transformers)"
)


@needed
@pytest.mark.parametrize("architecture", ["Llama", "Qwen2", "GPTNeoX"])  # nanoGCG does not scale Gemma's embeddings
def test_gradient_candidates_and_losses_are_nanogcgs(architecture: str) -> None:
    from nanogcg.gcg import GCG, GCGConfig, sample_ids_from_grad  # pyright: ignore

    model, tokenizer = tiny_model(architecture)
    layout = lay_out(tokenizer, PROMPT, TARGET, marks=MARKS)
    search = module._Search.begin(model, tokenizer, layout, EVERYTHING)
    theirs = GCG(model, tokenizer, GCGConfig(use_prefix_cache=False, filter_ids=False))
    theirs.target_ids = torch.tensor([layout.target])
    embed = model.get_input_embeddings()
    theirs.before_embeds, theirs.after_embeds, theirs.target_embeds = (
        embed(torch.tensor([ids])).detach() for ids in (layout.before, layout.after, layout.target)
    )
    gradient = theirs.compute_token_gradient(torch.tensor([layout.start]))[0]
    assert torch.allclose(search.slopes(layout.start), gradient, atol=1e-5, rtol=1e-3)

    state = module._State(layout.start, search.losses([layout.start]))
    ours = {tuple(ids) for ids in search.candidates(state)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = torch.tensor(layout.start)
        sampled = sample_ids_from_grad(start, gradient.clone(), 4000, TOP, 1, not_allowed_ids=search.forbidden)
    assert ours == {tuple(ids) for ids in sampled.tolist()} - {tuple(layout.start)}

    batch = [list(ids) for ids in sorted(ours)]
    whole = [[*layout.before, *ids, *layout.after, *layout.target] for ids in batch]
    losses = theirs._compute_candidates_loss_original(len(batch), embed(torch.tensor(whole)).detach())
    assert search.losses(batch) == pytest.approx(losses.tolist(), rel=1e-4)
    assert int(torch.tensor(search.losses(batch)).argmin()) == int(losses.argmin())
