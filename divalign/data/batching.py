"""Text in, tensors out: the chat template, the line between prompt and response, padding.

The tokenizer is an argument everywhere; any object with the four members of `ChatTokenizer` serves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from divalign.data.examples import Conversation, Message, as_messages


@runtime_checkable
class ChatTokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    chat_template: Any
    eos_token: Any

    def __call__(self, text: Any, **options: Any) -> Any: ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...


class Encoded(NamedTuple):
    """Token ids of a prompt and of the response that follows it."""

    prompt_ids: list[int]
    response_ids: list[int]


def render(tokenizer: ChatTokenizer, conversation: Conversation) -> str:
    """Return the text a model is shown: the turns, the generation prompt, the prefilled opening.

    Raises ValueError where the tokenizer has no chat template.
    """
    return _template(tokenizer, list(conversation.messages), generation=True) + conversation.prefill


def encode_conversation(tokenizer: ChatTokenizer, conversation: Conversation) -> list[int]:
    """Return the token ids of `render`. The template writes its own BOS, so none is added: no double BOS."""
    return _ids(tokenizer, render(tokenizer, conversation))


def encode_row(
    tokenizer: ChatTokenizer,
    prompt: str | list[Message],
    response: str | list[Message],
    *,
    max_length: int,
    prefill: str = "",
) -> Encoded:
    """Split a training row into prompt and response tokens.

    Two strings are taken as they are and closed with the end-of-sequence token, if they do not end in it. As in TRL a
    response is tokenised where it stands, after its prompt; where that would change the prompt's last tokens TRL drops
    them, and here the response is tokenised apart, so that both responses keep one whole prompt. Messages go through
    the chat template twice, as the prompt with its generation prompt and as the whole conversation, and are split
    where the two first differ (some templates rewrite the end of the prompt). A response's opening `prefill` counts as
    prompt: it is shown and not scored. An empty prompt becomes the token that begins a text, or else the one that ends
    the text before, since the response's first token is predicted from something. A response is cut at `max_length`
    tokens of both together.

    Raises ValueError where the prompt alone fills `max_length`, where it is empty and the tokenizer has neither of
    those tokens, where the response is empty, and where it does not open with `prefill`.
    """
    said = as_messages(response, "assistant")[-1]["content"]
    if not said.startswith(prefill):
        raise ValueError(f"the response that begins {said[:40]!r} does not open with its prefill {prefill!r}")
    if isinstance(prompt, str) and isinstance(response, str):
        prompt_ids = _continued(tokenizer, prompt, list(tokenizer(prompt)["input_ids"]), prefill)
        whole_ids = _continued(tokenizer, prompt + prefill, prompt_ids, closed(tokenizer, said)[len(prefill) :])
        response_ids = whole_ids[len(prompt_ids) :]
    else:
        turns = as_messages(prompt, "user")
        prompt_ids = _ids(tokenizer, _template(tokenizer, turns, generation=True) + prefill)
        whole_ids = _ids(tokenizer, _template(tokenizer, turns + as_messages(response, "assistant"), generation=False))
        shared = _common_prefix(prompt_ids, whole_ids)
        prompt_ids, response_ids = whole_ids[:shared], whole_ids[shared:]
    prompt_ids = prompt_ids or _first_token(tokenizer)
    if len(prompt_ids) >= max_length:
        raise ValueError(
            f"a prompt of {len(prompt_ids)} tokens leaves no room for a response within max_length {max_length}: "
            f"it begins {_beginning(prompt)!r}; shorten it, leave it out or raise max_length"
        )
    if not response_ids:
        raise ValueError(f"an empty response to the prompt that begins {_beginning(prompt)!r}; leave the row out")
    return Encoded(prompt_ids, response_ids[: max_length - len(prompt_ids)])


def closed(tokenizer: ChatTokenizer, text: str) -> str:
    """Return a text that ends in the end-of-sequence token, once; as it is where the tokenizer has none."""
    end = tokenizer.eos_token or ""
    return text if text.endswith(end) else text + end


def pad_right(rows: Sequence[Sequence[int]], value: int) -> Int[Tensor, "b t"]:
    """Return the rows as one tensor, filled up on the right with `value`."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)


def pad_left(rows: Sequence[Sequence[int]], value: int) -> Int[Tensor, "b t"]:
    """Return the rows as one tensor, filled up on the left with `value`: the side from which a model can go on."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*[value] * (width - len(row)), *row] for row in rows], dtype=torch.long)


def by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield index batches of at most `size`, longest first: little padding, and memory trouble shows at once."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _template(tokenizer: ChatTokenizer, messages: list[Message], *, generation: bool) -> str:
    if not tokenizer.chat_template:
        raise ValueError(
            "the tokenizer has no chat template, which says how turns are written; "
            "set model.chat_template to a jinja file, or to 'plain' for the built-in one"
        )
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)


def _ids(tokenizer: ChatTokenizer, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _first_token(tokenizer: ChatTokenizer) -> list[int]:
    ids = _ids(tokenizer, getattr(tokenizer, "bos_token", None) or tokenizer.eos_token or "")
    if not ids:
        raise ValueError(
            "an empty prompt, and the tokenizer has neither a token that begins a text nor one that ends it, "
            "so nothing predicts the response's first token; set bos_token, or leave the row out"
        )
    return ids


def _continued(tokenizer: ChatTokenizer, text: str, ids: list[int], more: str) -> list[int]:
    """Return the tokens of `text` and `more` in one, or, where these do not begin with the text's `ids`, of each."""
    whole = list(tokenizer(text + more)["input_ids"])
    return whole if whole[: len(ids)] == ids else [*ids, *_ids(tokenizer, more)]


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _beginning(prompt: str | list[Message]) -> str:
    return as_messages(prompt, "user")[-1]["content"][:40]
