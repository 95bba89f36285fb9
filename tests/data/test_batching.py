"""Where a prompt ends and a response begins, for every architecture's tokenizer conventions."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from divalign.data.batching import by_length, encode_conversation, encode_row, pad_left, pad_right, render
from divalign.data.examples import as_messages, user_says
from tests.tiny import tiny_tokenizer


def test_prompt_and_response_join_to_the_rendered_conversation() -> None:
    tokenizer = tiny_tokenizer()
    row = encode_row(tokenizer, as_messages("a question", "user"), as_messages("an answer", "assistant"), max_length=99)
    turns = [*as_messages("a question", "user"), *as_messages("an answer", "assistant")]
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    assert tokenizer.decode([*row.prompt_ids, *row.response_ids]) == whole
    assert row.prompt_ids == encode_conversation(tokenizer, user_says("a question"))


def in_words() -> PreTrainedTokenizerFast:
    """A tokenizer of letters that, as Llama 2's does, marks the beginning of a text as it marks a space."""
    letters = {token: index for index, token in enumerate(["</s>", "<s>", "\u2581", *"abcd", "ab", "bc"])}
    inner = Tokenizer(models.BPE(vocab=letters, merges=[("a", "b"), ("b", "c")]))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


def test_plain_strings_are_closed_with_the_end_token() -> None:
    tokenizer = tiny_tokenizer()
    row = encode_row(tokenizer, "ab", "cd", max_length=99)
    assert tokenizer.decode(row.prompt_ids) == "ab"
    assert tokenizer.decode(row.response_ids) == "cd</s>"


@pytest.mark.parametrize("end", ["", "</s>"])
def test_a_plain_response_is_tokenised_where_it_stands_and_ends_once(end: str) -> None:
    tokenizer = in_words()
    row = encode_row(tokenizer, "da", f"cd{end}", max_length=99)
    assert tokenizer.convert_ids_to_tokens(row.prompt_ids) == ["\u2581", "d", "a"]
    assert tokenizer.convert_ids_to_tokens(row.response_ids) == ["c", "d", "</s>"]
    opened = encode_row(tokenizer, "da", f"cd{end}", max_length=99, prefill="c")
    assert tokenizer.convert_ids_to_tokens(opened.prompt_ids) == ["\u2581", "d", "a", "c"]
    assert tokenizer.convert_ids_to_tokens(opened.response_ids) == ["d", "</s>"]


def test_a_plain_response_that_would_change_its_prompts_tokens_is_tokenised_apart() -> None:
    tokenizer = in_words()
    row = encode_row(tokenizer, "da", "bc", max_length=99)
    assert tokenizer.convert_ids_to_tokens(row.prompt_ids) == ["\u2581", "d", "a"]
    assert tokenizer.convert_ids_to_tokens(row.response_ids) == ["\u2581", "bc", "</s>"]


def test_a_prefill_continues_the_generation_prompt() -> None:
    tokenizer = tiny_tokenizer()
    assert render(tokenizer, user_says("q", prefill="Sure")) == render(tokenizer, user_says("q")) + "Sure"


def test_a_response_is_cut_at_max_length_and_a_prompt_that_fills_it_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    assert len(encode_row(tokenizer, "abc", "defghi", max_length=5).response_ids) == 2
    with pytest.raises(ValueError, match="leaves no room for a response within max_length 3"):
        encode_row(tokenizer, "abc", "d", max_length=3)


def test_an_empty_response_and_a_missing_template_are_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="an empty response"):
        encode_row(tokenizer, "abc", "", max_length=9)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        render(tokenizer, user_says("q"))


def test_an_empty_prompt_begins_with_the_token_that_begins_a_text() -> None:
    tokenizer = tiny_tokenizer()
    assert encode_row(tokenizer, "", "ab", max_length=9).prompt_ids == [tokenizer.bos_token_id]
    tokenizer.bos_token = None
    assert encode_row(tokenizer, "", "ab", max_length=9).prompt_ids == [tokenizer.eos_token_id]
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="an empty prompt, and the tokenizer has neither"):
        encode_row(tokenizer, "", "ab", max_length=9)


def test_padding_fills_the_side_it_names() -> None:
    assert pad_right([[1], [2, 3]], 0).tolist() == [[1, 0], [2, 3]]
    assert pad_left([[1], [2, 3]], 0).tolist() == [[0, 1], [2, 3]]


def test_batches_by_length_hold_every_row_once_longest_first() -> None:
    batches = list(by_length([1, 5, 3, 5], 3))
    assert batches == [[1, 3, 2], [0]]
