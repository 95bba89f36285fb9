from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AddedToken, AutoModelForCausalLM, AutoTokenizer

from divalign.data.batching import Encoded, encode_conversation
from divalign.data.examples import Conversation, user_says
from divalign.lm.generate import Sample, generate, generate_responses, sample, sample_text
from divalign.lm.responses import Response
from tests.tiny import ARCHITECTURES, SPARSE, save_tiny, tiny_model, tiny_tokenizer

# Of very different lengths, all longer than the tiny models' sliding window, some with a prefill.
CONVERSATIONS = [
    user_says("Tell me about bridges, please. " * times, prefill="Sure, here is" if times % 2 else "")
    for times in (1, 3, 2, 1, 4)
] + [user_says("hi")]


def one_at_a_time(model: Any, tokenizer: Any, conversation: Conversation, max_new_tokens: int) -> str:
    """The slow definition: the library's own greedy decoding of one prompt without padding."""
    ids = torch.tensor([encode_conversation(tokenizer, conversation)])
    mask = torch.ones_like(ids)
    whole = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=max_new_tokens)
    return tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *SPARSE])
def test_batches_write_what_the_library_writes_one_prompt_at_a_time(architecture: str) -> None:
    model, tokenizer = tiny_model(architecture)
    slow = [one_at_a_time(model, tokenizer, conversation, 16) for conversation in CONVERSATIONS]
    assert generate(model, tokenizer, CONVERSATIONS, max_new_tokens=16, batch_size=4) == slow


def test_the_batch_size_changes_no_response() -> None:
    model, tokenizer = tiny_model("Llama")
    results = [generate(model, tokenizer, CONVERSATIONS, max_new_tokens=12, batch_size=size) for size in (1, 2, 3, 64)]
    assert all(result == results[0] for result in results)


def test_no_conversations_give_no_responses() -> None:
    assert generate(*tiny_model("Llama"), []) == []


def ending_model() -> tuple[Any, Any, list[str]]:
    """A model, and what it writes when nothing ends a response."""
    model, tokenizer = tiny_model("Llama")
    model.generation_config.eos_token_id = None
    return model, tokenizer, generate(model, tokenizer, CONVERSATIONS, max_new_tokens=16)


def test_a_response_stops_before_any_end_token_of_the_configuration() -> None:
    model, tokenizer, full = ending_model()
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("n", "E")]
    model.generation_config.eos_token_id = [result for (result,) in ids]
    shorter = generate(model, tokenizer, CONVERSATIONS, max_new_tokens=16)
    assert shorter == [text.split("n")[0].split("E")[0] for text in full]
    assert shorter != full


def test_a_checkpoint_that_asks_for_sampling_and_penalties_is_decoded_greedily_all_the_same() -> None:
    model, tokenizer = tiny_model("Llama")
    greedy = generate(model, tokenizer, CONVERSATIONS, max_new_tokens=12)
    model.generation_config.update(do_sample=True, temperature=2.0, repetition_penalty=3.0)
    assert generate(model, tokenizer, CONVERSATIONS, max_new_tokens=12) == greedy


def test_every_module_keeps_its_own_mode_and_the_random_state_stays() -> None:
    model, tokenizer = tiny_model("Llama")
    model.train()
    model.lm_head.eval()
    before = torch.get_rng_state()
    generate(model, tokenizer, CONVERSATIONS[:1], max_new_tokens=2)
    assert model.training
    assert not model.lm_head.training
    assert torch.equal(torch.get_rng_state(), before)


def test_a_response_ends_with_the_models_context() -> None:
    model, tokenizer = tiny_model("Llama", max_position_embeddings=40)
    prompt = user_says("0123456789")
    length = len(encode_conversation(tokenizer, prompt))
    model.generation_config.eos_token_id = None
    tokens: list[int] = []
    model.register_forward_hook(lambda *_: tokens.append(1))
    generate(model, tokenizer, [prompt], max_new_tokens=100)
    assert len(tokens) == 40 - length


def test_a_prompt_over_the_context_is_an_error_that_names_it() -> None:
    model, tokenizer = tiny_model("Llama", max_position_embeddings=40)
    with pytest.raises(
        ValueError,
        match=r"conversation 1: no response \(too_long\): it is \d+ tokens long and the model's context is 40",
    ):
        generate(model, tokenizer, [user_says("a"), user_says("a" * 60)])


@pytest.mark.parametrize("sizes", [{"max_new_tokens": 0}, {"batch_size": 0}])
def test_sizes_under_one_are_an_error(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        generate(*tiny_model("Llama"), [user_says("a")], **sizes)


def test_progress_ends_at_all_of_all() -> None:
    seen: list[tuple[int, int]] = []
    generate(
        *tiny_model("Llama"),
        CONVERSATIONS,
        max_new_tokens=2,
        batch_size=2,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert [total for _, total in seen] == [6] * len(seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (6, 6)


def test_an_adapter_is_decoded_like_the_model_it_becomes_when_merged() -> None:
    from peft import LoraConfig, get_peft_model

    model, tokenizer = tiny_model("Llama")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapted = get_peft_model(model, LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj", "v_proj"]))
    with_adapter = generate(adapted, tokenizer, CONVERSATIONS, max_new_tokens=12)
    with adapted.disable_adapter():
        without = generate(adapted, tokenizer, CONVERSATIONS, max_new_tokens=12)
    assert with_adapter != without
    assert generate(adapted.merge_and_unload(), tokenizer, CONVERSATIONS, max_new_tokens=12) == with_adapter


def test_a_saved_tiny_model_writes_the_same_when_loaded(tmp_path: Path) -> None:
    folder = save_tiny("Qwen2", tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert generate(*loaded, CONVERSATIONS, max_new_tokens=8) == generate(
        *tiny_model("Qwen2"), CONVERSATIONS, max_new_tokens=8
    )


class SpaceEater:
    """A tokenizer that drops the space before the first decoded word, as SentencePiece does."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.chat_template, self.eos_token, self.eos_token_id = inner.chat_template, inner.eos_token, None

    def __call__(self, text: Any, **options: Any) -> Any:
        return self.inner(text, **options)

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        return self.inner.apply_chat_template(conversation, **options)

    def decode(self, ids: list[int], **options: Any) -> str:
        return self.inner.decode(ids, **options).removeprefix(" ")


def test_the_space_after_a_prefill_survives_a_tokenizer_that_eats_leading_spaces() -> None:
    model, tokenizer = tiny_model("Llama")
    space = tokenizer(" ", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        model.lm_head.weight[space] = 0
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(tokenizer)).index_fill(0, torch.tensor([space]), 1e4))
    assert generate(model, SpaceEater(tokenizer), [user_says("a", prefill="Sure")], max_new_tokens=3) == ["   "]


def with_special_tokens(tokenizer: Any, *tokens: str) -> Any:
    tokenizer.add_tokens([AddedToken(token, special=True) for token in tokens], special_tokens=True)
    return tokenizer


def decoded(tokenizer: Any, prompt: str, response: str) -> str:
    """What `generate` makes of the tokens of a response."""
    ids = Encoded(*(tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, response)))
    return sample_text(tokenizer, Sample(ids, 0.0, ended=True))


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("[THINK]", "[/THINK]"),
        ("<|channel>", "<channel|>"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<think>", "</think>"),
        ("<seed:think>", "</seed:think>"),
        ("◁think▷", "◁/think▷"),
    ],
)
def test_special_tokens_that_mark_thoughts_stay_and_all_others_go(begin: str, end: str) -> None:
    tokenizer = with_special_tokens(tiny_tokenizer(), begin, end, "<|START_RESPONSE|>", "<turn|>")
    text = f"{begin}thought\nI must not.{end}<|START_RESPONSE|> No.<turn|></s>"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == "thought\nI must not. No."
    assert decoded(tokenizer, "<s><user>a<end>", text) == f"{begin}thought\nI must not.{end} No."
    assert decoded(tokenizer, "<s><user>a<end>", f"Yes.{begin}{end}{end}") == f"Yes.{begin}{end}{end}"


def test_marks_of_thoughts_that_are_no_special_tokens_are_text_as_ever() -> None:
    tokenizer = tiny_tokenizer()
    assert decoded(tokenizer, "a", " <think> b</think> c</s>") == " <think> b</think> c"
    tokenizer.add_tokens(["<think>", "</think>"])
    ids = tokenizer(" <think> b</think> c")["input_ids"]
    assert decoded(tokenizer, "a", " <think> b</think> c") == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_model_that_writes_such_a_token_is_read_with_it() -> None:
    model, tokenizer = tiny_model("Llama")
    with_special_tokens(tokenizer, "[THINK]")
    model.resize_token_embeddings(len(tokenizer))
    bias = torch.zeros(len(tokenizer)).index_fill(0, torch.tensor([len(tokenizer) - 1]), 1e4)
    model.lm_head.bias = torch.nn.Parameter(bias)
    assert generate(model, tokenizer, [user_says("a")], max_new_tokens=3) == ["[THINK][THINK][THINK]"]


def test_a_conversation_that_cannot_be_answered_is_recorded_and_the_others_are_answered() -> None:
    model, tokenizer = tiny_model("Llama", max_position_embeddings=40)
    conversations = [user_says("a"), user_says("a" * 60), user_says("b\udc80"), user_says("c", prefill="\ud800")]
    reported: dict[int, Response] = {}
    progress: list[int] = []
    responses = generate_responses(
        model,
        tokenizer,
        conversations,
        on_response=reported.__setitem__,
        on_progress=lambda done, _total: progress.append(done),
    )
    assert [response.answered for response in responses] == [True, False, False, False]
    assert [response.finish_reason for response in responses[1:]] == ["too_long", "unreadable", "unreadable"]
    assert "tokens long and the model's context is 40" in responses[1].error
    assert "lone surrogate (U+DC80)" in responses[2].error
    assert [reported[index] for index in range(4)] == responses
    assert progress == [1, 2, 3, 4]
    assert responses[0].text == generate(model, tokenizer, conversations[:1])[0]


def test_a_response_cut_by_the_limit_is_marked_and_one_that_ended_is_not() -> None:
    model, tokenizer, full = ending_model()
    cut = generate_responses(model, tokenizer, CONVERSATIONS, max_new_tokens=16)
    assert {response.finish_reason for response in cut} == {"length"}
    model.generation_config.eos_token_id = tokenizer("n", add_special_tokens=False)["input_ids"]
    responses = generate_responses(model, tokenizer, CONVERSATIONS, max_new_tokens=16)
    expected = ["stop" if "n" in text else "length" for text in full]
    assert [response.finish_reason for response in responses] == expected
    assert set(expected) == {"stop", "length"}


def test_a_response_cut_by_the_context_is_marked_too() -> None:
    model, tokenizer = tiny_model("Llama", max_position_embeddings=40)
    model.generation_config.eos_token_id = None
    assert generate_responses(model, tokenizer, [user_says("0123456789")])[0].finish_reason == "length"


def test_a_sample_of_an_unreadable_prompt_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="character 1 of turn 1 is a lone surrogate"):
        sample(*tiny_model("Llama"), [user_says("a"), user_says("\ud800")])


@pytest.mark.parametrize("seeds", [None, [1, 2, 3]])
def test_logits_that_are_no_numbers_are_an_error_and_no_response(seeds: list[int] | None) -> None:
    model, tokenizer = tiny_model("Llama")
    with torch.no_grad():
        model.get_output_embeddings().weight[3] = float("nan")
    conversations = [user_says(text) for text in ("one", "two", "three")]
    options: dict[str, Any] = {"seeds": seeds} if seeds else {}
    with pytest.raises(ValueError, match=r"conversation \d: the model's logits are not finite"):
        generate(model, tokenizer, conversations, max_new_tokens=3, **options)
