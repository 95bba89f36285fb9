from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import divalign.safety.gcg as module
from divalign.data.batching import encode_conversation
from divalign.data.examples import Conversation, user_says
from divalign.lm.load import LM
from divalign.safety.adaptive import AttackContext, AttackOptions
from divalign.safety.gcg import Checkpoint, GcgOptions, GcgResult, gcg, suffixes
from divalign.safety.judges import JUDGES
from divalign.safety.suffix import lay_out, suffix_text, survivors, unwritable
from divalign.safety.suffix_search import GCG
from divalign.stages.folder import silent
from tests.tiny import ARCHITECTURES, SPECIAL, tiny_model, tiny_tokenizer

PROMPT = "Tell me about bridges"
FEW = GcgOptions(steps=9, width=16, top_k=16, marks=5, batch_size=10, check_every=3)


def naive_loss(model: Any, tokenizer: Any, suffix: str, target: str) -> float:
    """The definition: the mean loss of the opening's tokens in the chat that a user with this suffix would send."""
    asked = encode_conversation(tokenizer, user_says(PROMPT + suffix))
    opened = encode_conversation(tokenizer, user_says(PROMPT + suffix, prefill=target))
    with torch.no_grad():
        log_probs = model(torch.tensor([opened])).logits[0].log_softmax(dim=-1)
    return -sum(float(log_probs[at - 1, opened[at]]) for at in range(len(asked), len(opened))) / (
        len(opened) - len(asked)
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loss_falls_and_is_that_of_the_chat_a_user_would_send(architecture: str) -> None:
    model, tokenizer = tiny_model(architecture)
    result = gcg(model, tokenizer, PROMPT, options=FEW)
    assert len(result.losses) == FEW.steps + 1
    assert list(result.losses) == sorted(result.losses, reverse=True)
    assert result.losses[-1] < result.losses[0]
    assert result.losses[0] == pytest.approx(naive_loss(model, tokenizer, " !" * 5, "Sure, here is"), rel=1e-4)
    assert result.losses[-1] == pytest.approx(naive_loss(model, tokenizer, result.suffix, "Sure, here is"), rel=1e-4)


@pytest.mark.parametrize("architecture", ["Llama", "Gemma2", "Gemma3"])  # Gemma scales its embeddings
def test_slopes_are_the_gradient_by_the_one_hot_tokens(architecture: str) -> None:
    model, tokenizer = tiny_model(architecture)
    layout = lay_out(tokenizer, PROMPT, "Sure", marks=4)
    search = module._Search.begin(model, tokenizer, layout, FEW)
    ids = torch.tensor([*layout.before, *layout.start, *layout.after, *layout.target])
    one_hot = torch.nn.functional.one_hot(ids, len(tokenizer)).float().requires_grad_()
    with torch.no_grad():
        table = model.get_input_embeddings()(torch.arange(len(tokenizer)))
    logits = model(inputs_embeds=(one_hot @ table)[None]).logits[0]
    opening = range(len(ids) - len(layout.target), len(ids))
    loss = -sum(logits[at - 1].log_softmax(dim=-1)[ids[at]] for at in opening) / len(layout.target)
    loss.backward()
    begin = len(layout.before)
    expected = one_hot.grad[begin : begin + len(layout.start)]
    assert torch.allclose(search.slopes(layout.start), expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scoring_in_batches_behind_a_cached_prompt_is_scoring_one_whole_chat_at_a_time(architecture: str) -> None:
    model, tokenizer = tiny_model(architecture)
    layout = lay_out(tokenizer, PROMPT, "Sure", marks=4)
    search = module._Search.begin(model, tokenizer, layout, FEW)
    assert search.prefix is not None
    batch = [[*layout.start[:-1], token] for token in range(40, 63)]
    whole = [float(search._replace(prefix=None).losses_of([ids])[0]) for ids in batch]
    assert search.losses(batch) == pytest.approx(whole, rel=1e-4)


def test_a_model_whose_cache_cannot_be_repeated_is_scored_whole() -> None:
    import transformers

    tokenizer = tiny_tokenizer()
    config = transformers.MambaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.MambaForCausalLM(config).eval()
    result = gcg(model, tokenizer, PROMPT, options=GcgOptions(steps=2, width=8, marks=3))
    assert result.losses[0] == pytest.approx(naive_loss(model, tokenizer, " !" * 3, "Sure, here is"), rel=1e-4)


def test_the_parameters_get_no_gradient_and_the_mode_stays() -> None:
    model, tokenizer = tiny_model("Llama")
    model.train()
    gcg(model, tokenizer, PROMPT, options=GcgOptions(steps=1, width=4, marks=3))
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def interrupted(after: int) -> Callable[[int, float], None]:
    def on_step(step: int, _loss: float) -> None:
        if step == after:
            raise KeyboardInterrupt

    return on_step


def resumed(checkpoint: Path) -> tuple[GcgResult, list[int]]:
    """Return the search's result and the steps that it did after its checkpoint."""
    steps: list[int] = []
    result = gcg(
        *tiny_model("Llama"),
        PROMPT,
        options=FEW,
        checkpoint=Checkpoint(checkpoint, "m"),
        on_step=lambda step, _: steps.append(step),
    )
    return result, steps


@pytest.mark.parametrize("after", [1, 8])
def test_an_interrupted_search_goes_on_to_the_same_result(tmp_path: Path, after: int) -> None:
    model, tokenizer = tiny_model("Llama")
    calm = gcg(model, tokenizer, PROMPT, options=FEW)
    checkpoint = tmp_path / "search.json"
    with pytest.raises(KeyboardInterrupt):
        gcg(model, tokenizer, PROMPT, options=FEW, checkpoint=Checkpoint(checkpoint, "m"), on_step=interrupted(after))
    result, steps = resumed(checkpoint)
    assert result == calm
    assert steps == list(range(after + 1, FEW.steps + 1))


@pytest.mark.parametrize("damage", ["another prompt", "an edited state", "half a file", "no JSON"])
def test_a_checkpoint_of_another_search_or_a_damaged_one_is_begun_anew(tmp_path: Path, damage: str) -> None:
    model, tokenizer = tiny_model("Llama")
    checkpoint = tmp_path / "search.json"
    first = "Another question" if damage == "another prompt" else PROMPT
    gcg(model, tokenizer, first, options=FEW, checkpoint=Checkpoint(checkpoint, "m"))
    text = checkpoint.read_text()
    if damage == "an edited state":
        checkpoint.write_text(text.replace('"fruitless": 0', '"fruitless": 1'))
    elif damage != "another prompt":
        checkpoint.write_text(text[: len(text) // 2] if damage == "half a file" else "[]")
    _, steps = resumed(checkpoint)
    assert steps[0] == 1


def test_the_search_ends_when_a_judge_says_it_succeeded_and_not_before() -> None:
    model, tokenizer = tiny_model("Llama")
    asked: list[Conversation] = []
    answers = iter([None, True])

    def judged(conversation: Conversation) -> bool | None:
        asked.append(conversation)
        return next(answers)

    result = gcg(model, tokenizer, PROMPT, options=FEW, judged=judged)
    assert result.succeeded is True
    assert len(result.losses) - 1 == 6
    assert asked[-1] == user_says(PROMPT + result.suffix)


@pytest.mark.parametrize("opened", [True, False])
def test_a_thought_that_never_ends_ends_no_search(tmp_path: Path, opened: bool) -> None:
    lm = LM(*tiny_model("Llama"), "tiny", "digest")
    context = AttackContext(
        target=lambda talks: ["The user asks about bridges. Sure, I think that"] * len(talks),
        attacker=None,
        weights=lambda: lm,
        stop_judge=JUDGES["refusal_strings"],
        options=AttackOptions(gcg=FEW),
        folder=tmp_path,
        progress=silent,
        thinking_opened=opened,
    )
    rows = GCG(context, [{"id": "a", "prompt": PROMPT, "harmful": True}])
    assert rows[-1]["attack"] == "gcg"
    assert (rows[-1]["steps"] == FEW.steps) == opened


def test_a_suffix_that_has_not_changed_is_not_judged_again() -> None:
    model, tokenizer = tiny_model("Llama")
    asked: list[Conversation] = []
    still = GcgOptions(steps=9, width=1, top_k=1, marks=2, check_every=1)
    result = gcg(model, tokenizer, PROMPT, options=still, judged=lambda talk: bool(asked.append(talk)))
    assert result.succeeded is False
    assert len(asked) == len(set(result.losses[1:]))


def test_memory_trouble_halves_the_batch_and_changes_nothing() -> None:
    calm = gcg(*tiny_model("Llama"), PROMPT, options=FEW)
    model, tokenizer = tiny_model("Llama")
    sizes: list[int] = []

    def hook(_module: Any, _arguments: Any, options: dict[str, Any]) -> None:
        if "input_ids" in options:
            sizes.append(len(options["input_ids"]))
            if sizes[-1] > 3:
                raise torch.OutOfMemoryError

    model.register_forward_pre_hook(hook, with_kwargs=True)
    troubled = gcg(model, tokenizer, PROMPT, options=FEW)
    assert troubled.suffix == calm.suffix
    assert troubled.losses == pytest.approx(calm.losses, rel=1e-4)
    assert {10, 5, 2} <= set(sizes)


@pytest.mark.parametrize(("raised", "expected"), [(torch.OutOfMemoryError, MemoryError), (RuntimeError, RuntimeError)])
def test_trouble_with_a_single_candidate_is_an_error(raised: type[Exception], expected: type[Exception]) -> None:
    model, tokenizer = tiny_model("Llama")
    layout = lay_out(tokenizer, PROMPT, "Sure", marks=4)
    search = module._Search.begin(model, tokenizer, layout, FEW)

    def hook(*_: Any) -> None:
        raise raised("something")

    model.register_forward_pre_hook(hook)
    with pytest.raises(expected):
        search.losses([layout.start, layout.start])


def merging_tokenizer() -> Any:
    """The byte-level tokenizer, with "a" and "b" merged wherever they meet, and "!" with the tag after it."""
    tokenizer = tiny_tokenizer()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *letters, "ab"])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(SPECIAL))
    tokenizer._tokenizer = inner
    return tokenizer


def test_a_candidate_that_tokenises_otherwise_when_written_out_is_rejected() -> None:
    tokenizer = merging_tokenizer()
    layout = lay_out(tokenizer, PROMPT, "Sure", marks=2)
    a, b, mark, merged = (tokenizer.convert_tokens_to_ids(token) for token in ("a", "b", "!", "ab"))
    written = [[mark, a, mark], [mark, a, b], [mark, merged, a], [b, a, mark]]
    assert survivors(tokenizer, layout, written) == [written[0], written[2], written[3]]
    assert suffix_text(tokenizer, layout, [mark, merged, a]) == " !aba"


def test_no_suffix_holds_special_unused_unprintable_or_foreign_tokens() -> None:
    tokenizer = tiny_tokenizer()
    bad = set(unwritable(tokenizer, len(tokenizer) + 3, ascii_only=True))
    good = {tokenizer.decode([token]) for token in range(len(tokenizer) + 3) if token not in bad}
    assert good == {chr(code) for code in range(32, 127)}
    assert set(unwritable(tokenizer, len(tokenizer) + 3, ascii_only=False)) < bad


def test_a_template_that_changes_what_the_user_wrote_is_an_error() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | replace('?', '!') }}{% endfor %}"
    with pytest.raises(ValueError, match="cannot find the suffix"):
        lay_out(tokenizer, PROMPT, "Sure", marks=3)


def test_a_search_in_which_nothing_survives_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "survivors", lambda *_: [])
    options = GcgOptions(steps=99, width=2, marks=2)
    with pytest.raises(ValueError, match=r"no candidate survived .* for 50 steps"):
        gcg(*tiny_model("Llama"), PROMPT, options=options)


def test_every_prompt_gets_its_own_suffix_and_a_prompt_without_one_is_an_error() -> None:
    attack = suffixes({"a": " !x", "b": " !y"})
    assert attack("b") == user_says("b !y")
    with pytest.raises(ValueError, match="no suffix was searched for the prompt that begins 'c'"):
        attack("c")


@pytest.mark.parametrize("name", ["width", "top_k", "marks", "batch_size", "check_every"])
def test_a_search_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"gcg's {name} is 0, expected at least 1"):
        GcgOptions(**{name: 0})
    with pytest.raises(ValueError, match="gcg's steps is -1, expected at least 0"):
        GcgOptions(steps=-1)
