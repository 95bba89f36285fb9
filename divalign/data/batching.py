"""Text in, tensors out: the chat template, the line between prompt and response, padding.

The tokenizer is an argument everywhere; any object with the four members of `ChatTokenizer` serves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from jinja2 import TemplateError
from torch import Tensor

from divalign.data.columns import plain_content
from divalign.data.examples import Conversation, Message, as_messages

# What a template can raise. transformers renders it in jinja2's sandbox, whose SecurityError is a TemplateError.
TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)


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
    """Return the model's input as text: the turns, the generation prompt, the prefill.

    Raises ValueError where the tokenizer has no chat template.
    """
    return render_turns(tokenizer, list(conversation.messages), generation=True) + conversation.prefill


def encode_conversation(tokenizer: ChatTokenizer, conversation: Conversation) -> list[int]:
    """Return the token ids of `render`. The template writes its own BOS, so none is added: no double BOS."""
    return plain_ids(tokenizer, render(tokenizer, conversation))


def encode_row(
    tokenizer: ChatTokenizer,
    prompt: str | list[Message],
    response: str | list[Message],
    *,
    max_length: int,
    prefill: str = "",
    options: Mapping[str, Any] | None = None,
    beside: str | None = None,
) -> Encoded:
    """Split a training row into prompt and response tokens.

    Two strings are taken as they are and closed with the end-of-sequence token, if they do not end in it. As in TRL a
    response is tokenised where it stands, after its prompt; where that would change the prompt's last tokens TRL drops
    them, and here the response is tokenised apart, so that both responses keep one whole prompt. Where the prompt is
    what a pair of texts share, `beside` is the other response: then, as in TRL, the prompt ends at the last token that
    neither response changes. Messages go through the chat template twice, with its variables `options` (such as tools),
    as the prompt with its generation prompt and as the whole conversation, and are split where the two first differ
    (some templates rewrite the end of the prompt). A response's opening `prefill` counts as prompt: it is shown and not
    scored. An empty prompt becomes the token that begins a text, or else the one that ends the text before, since the
    response's first token is predicted from something. A response is cut at `max_length` tokens of both together.

    Raises ValueError where the prompt alone fills `max_length`, where it is empty and the tokenizer has neither of
    those tokens, where the response is empty, and where it does not open with `prefill`.
    """
    text = plain_content(as_messages(response, "assistant")[-1]["content"])
    if not text.startswith(prefill):
        raise ValueError(f"the response that begins {text[:40]!r} does not open with its prefill {prefill!r}")
    if isinstance(prompt, str) and isinstance(response, str):
        split = _split_text(tokenizer, prompt, text, prefill=prefill, beside=beside)
    else:
        turns, answer = as_messages(prompt, "user"), as_messages(response, "assistant")
        shown = render_turns(tokenizer, turns, generation=True, options=options) + prefill
        whole = render_turns(tokenizer, turns + answer, generation=False, options=options)
        split = _split_at(plain_ids(tokenizer, whole), plain_ids(tokenizer, shown))
    prompt_ids = split.prompt_ids or _first_token(tokenizer)
    if len(prompt_ids) >= max_length:
        raise ValueError(
            f"a prompt of {len(prompt_ids)} tokens leaves no room for a response within max_length {max_length}: "
            f"it begins {_beginning(prompt)!r}; shorten it, leave it out or raise max_length"
        )
    if not split.response_ids:
        raise ValueError(f"an empty response to the prompt that begins {_beginning(prompt)!r}; leave the row out")
    return Encoded(prompt_ids, split.response_ids[: max_length - len(prompt_ids)])


def _split_text(tokenizer: ChatTokenizer, prompt: str, response: str, *, prefill: str, beside: str | None) -> Encoded:
    shown = prompt + prefill
    if beside is not None:
        wholes = [_text_ids(tokenizer, prompt + closed(tokenizer, text)) for text in (response, beside)]
        shared = min(_common_prefix(_text_ids(tokenizer, shown), whole) for whole in wholes)
        return Encoded(wholes[0][:shared], wholes[0][shared:])
    prompt_ids = _continued(tokenizer, prompt, _text_ids(tokenizer, prompt), prefill)
    whole_ids = _continued(tokenizer, shown, prompt_ids, closed(tokenizer, response)[len(prefill) :])
    return Encoded(prompt_ids, whole_ids[len(prompt_ids) :])


def _split_at(whole: list[int], shown: list[int]) -> Encoded:
    shared = _common_prefix(shown, whole)
    return Encoded(whole[:shared], whole[shared:])


def closed(tokenizer: ChatTokenizer, text: str) -> str:
    """Return a text that ends in the end-of-sequence token, once; as it is where the tokenizer has none."""
    end = tokenizer.eos_token or ""
    return text if text.endswith(end) else text + end


def pad_right(rows: Sequence[Sequence[int]], value: int) -> Int[Tensor, "b t"]:
    """Return the rows as one tensor, padded on the right with `value`."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)


def pad_left(rows: Sequence[Sequence[int]], value: int) -> Int[Tensor, "b t"]:
    """Return the rows as one tensor, padded on the left with `value`, as generation needs it."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*[value] * (width - len(row)), *row] for row in rows], dtype=torch.long)


def by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield index batches of at most `size`, longest first: little padding, and memory trouble shows at once."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def render_turns(
    tokenizer: ChatTokenizer, messages: list[Message], *, generation: bool, options: Mapping[str, Any] | None = None
) -> str:
    """Return the rendered turns. Raises ValueError where there is no template and where it refuses the turns."""
    if not tokenizer.chat_template:
        raise ValueError(
            "the tokenizer has no chat template, which says how turns are written; "
            "set model.chat_template to a jinja file, or to 'plain' for the built-in one"
        )
    turns = [_as_text(message) for message in messages]
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation, **(options or {}))
    except TEMPLATE_ERRORS as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(
            f"the chat template refuses the turns {roles}: {error}; rewrite the row, or take another template "
            "(model.chat_template)"
        ) from error


def _as_text(message: Message) -> Message:
    """Return a message whose content is one text, without the keys that are null.

    Many templates would print content in parts as code, and take a key that is there for one that says something:
    `datasets` gives every message the keys of all, such as `tool_calls`.
    """
    content: Any = message["content"]
    turn: Any = {name: value for name, value in message.items() if value is not None or name == "content"}
    if content is not None and not isinstance(content, str):
        turn["content"] = plain_content(content)
    return turn


def plain_ids(tokenizer: ChatTokenizer, text: str) -> list[int]:
    """Return a text's tokens, without those that the tokenizer puts around texts, the same ones at every call.

    What a tokenizer was saved with is not asked: special tokens are never taken apart (`split_special_tokens`), and no
    merges of a BPE are left out at random (`dropout`).
    """
    whole = {"split_special_tokens": False} if getattr(tokenizer, "split_special_tokens", False) else {}
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    dropout = getattr(model, "dropout", None)
    if model is None or not dropout:
        return list(tokenizer(text, add_special_tokens=False, **whole)["input_ids"])
    model.dropout = None
    try:
        return list(tokenizer(text, add_special_tokens=False, **whole)["input_ids"])
    finally:
        model.dropout = dropout


def _text_ids(tokenizer: ChatTokenizer, text: str) -> list[int]:
    """Return the tokens of a text that begins a sequence: behind what the tokenizer puts before texts (BOS).

    What it puts behind them (`add_eos_token`) would end a prompt before its response.
    """
    bare, around = plain_ids(tokenizer, "a"), list(tokenizer("a")["input_ids"])
    before = next((n for n in range(len(around)) if around[n : n + len(bare)] == bare), 0)
    return [*around[:before], *plain_ids(tokenizer, text)]


def _first_token(tokenizer: ChatTokenizer) -> list[int]:
    ids = plain_ids(tokenizer, getattr(tokenizer, "bos_token", None) or tokenizer.eos_token or "")
    if not ids:
        raise ValueError(
            "an empty prompt, and the tokenizer has neither a token that begins a text nor one that ends it, "
            "so nothing predicts the response's first token; set bos_token, or leave the row out"
        )
    return ids


def _continued(tokenizer: ChatTokenizer, text: str, ids: list[int], continuation: str) -> list[int]:
    """Return the tokens of `text + continuation`, or of each where the joint tokens do not begin with `ids`."""
    whole = _text_ids(tokenizer, text + continuation)
    return whole if whole[: len(ids)] == ids else [*ids, *plain_ids(tokenizer, continuation)]


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _beginning(prompt: str | list[Message]) -> str:
    return plain_content(as_messages(prompt, "user")[-1]["content"])[:40]
