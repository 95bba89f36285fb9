"""Training rows as tokens: what the chat template reads of a row is rendered, and what it would drop is refused."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from divalign.data.batching import ChatTokenizer, Encoded, encode_row
from divalign.data.columns import SIDES
from divalign.data.examples import Message, as_messages
from divalign.data.training_rows import SHARED_TEXT
from divalign.limits import parse_json

logger = logging.getLogger(__name__)
PICTURES = ("images", "image", "videos", "video", "audios", "audio")
# What a message may hold beside role and content that a model must see.
SPOKEN = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking", "refusal", *PICTURES)
# Arguments of apply_chat_template itself, which a row cannot set: a template of its own among them.
OURS = (
    *("conversation", "chat_template", "tokenize", "add_generation_prompt", "continue_final_message", "return_dict"),
    *("return_tensors", "padding", "truncation", "max_length", "tokenizer_kwargs", "return_assistant_tokens_mask"),
    "sanitize_control_tokens",
)


def encode_training_row(tokenizer: ChatTokenizer, row: Mapping[str, Any], side: str, *, max_length: int) -> Encoded:
    """Split a row of `training_row` into the tokens of its prompt and those of its response `side`.

    The columns `tools`, `documents` and `chat_template_kwargs` are given to the chat template, as in TRL, and `prefill`
    is an opening of the response that is shown and not scored. Of a plain pair without a prompt of its own the
    boundary is TRL's: prompt and response are tokenised in one, and the prompt ends where either response begins to
    change its tokens.

    Raises ValueError where the template does not read such a column, or a part of a message such as
    `reasoning_content`, where plain text has any, and what `encode_row` raises.
    """
    options = template_options(row)
    prompt, response = row["prompt"], row[side]
    refuse_empty(response)
    if not isinstance(prefill := row.get("prefill") or "", str):
        raise ValueError(f"its prefill is {type(prefill).__name__}, expected text")
    if isinstance(prompt, str) and isinstance(response, str):
        if options:
            raise ValueError(
                f"plain text is not rendered by the chat template, so its {', '.join(options)} would not be seen; "
                "write the row as messages, or drop the column"
            )
    else:
        _refuse_unseen(tokenizer, options, [*_turns(prompt), *_turns(response)])
    beside = row[SIDES[1 - SIDES.index(side)]] if row.get(SHARED_TEXT) and side in SIDES else None
    return encode_row(
        tokenizer,
        prompt,
        response,
        max_length=max_length,
        prefill=prefill,
        options=options,
        beside=beside,
    )


def encode_response(tokenizer: ChatTokenizer, row: Mapping[str, Any], response: str, *, max_length: int) -> Encoded:
    """Split the prompt of a row of `training_row` and another response than the row's into their tokens.

    As `encode_training_row` does, so that a response which was sampled after the row's prompt and prefill stands as the
    row's own would. It may be empty. Raises what `encode_training_row` raises of the prompt.
    """
    options, prefill = template_options(row), row.get("prefill") or ""
    _refuse_unseen(tokenizer, options, _turns(row["prompt"]))
    return encode_row(
        tokenizer, row["prompt"], prefill + response, max_length=max_length, prefill=prefill, options=options
    )


def refuse_empty(response: str | list[Message]) -> None:
    """Raise ValueError for a response that only ends: a missing text, which would teach the model to say nothing."""
    turns = as_messages(response, "assistant")
    if not any(turn.get("tool_calls") or not _is_blank(turn["content"]) for turn in turns):
        raise ValueError("an empty response, which would teach the model to say nothing; leave the row out")


def _is_blank(content: Any) -> bool:
    return not (content.strip() if isinstance(content, str) else content)


def template_options(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a row tells the chat template beside its turns; columns that are empty tell nothing.

    Raises ValueError for a value that is no JSON, of another kind, or an argument that decides what is scored, and for
    pictures and sound, which a language model of text cannot see.
    """
    if media := [name for name in PICTURES if row.get(name) not in (None, [], "")]:
        raise ValueError(f"it holds {', '.join(media)}, which a model of text cannot see; leave the row out")
    parsed = {name: _parsed(row.get(name), name, list) for name in ("tools", "documents")}
    options = {name: value for name, value in parsed.items() if value}
    for name, value in (_parsed(row.get("chat_template_kwargs"), "chat_template_kwargs", dict) or {}).items():
        if name in OURS or name in options:
            raise ValueError(f"chat_template_kwargs holds {name!r}, which is not a row's to decide; take it out")
        options[name] = value
    return options


def renders_alike(tokenizer: ChatTokenizer, row: Mapping[str, Any], *, max_length: int) -> bool:
    """Tell whether both responses of a pair are the same tokens. Raises ValueError as `encode_training_row` does."""
    sides = [encode_training_row(tokenizer, row, side, max_length=max_length) for side in SIDES]
    return bool(alike(sides[:1], sides[1:]))


def alike(aligned: Sequence[Encoded], unaligned: Sequence[Encoded]) -> list[int]:
    """Return the numbers of the pairs whose two responses are the same tokens, from which nothing can be learnt."""
    return [
        number for number, (chosen, rejected) in enumerate(zip(aligned, unaligned, strict=True)) if chosen == rejected
    ]


def warn_of_alike(aligned: Sequence[Encoded], unaligned: Sequence[Encoded]) -> int:
    """Log how many pairs render alike, and return their number."""
    if pairs := alike(aligned, unaligned):
        logger.warning(
            "%d of %d pairs render alike, the first is row %d: their texts are the same, or differ only in what the "
            "chat template drops or max_length cuts; nothing is learnt from them",
            len(pairs),
            len(aligned),
            pairs[0],
        )
    return len(pairs)


def _parsed(value: Any, name: str, kind: type) -> Any:
    try:
        if isinstance(value, str) and value.strip():
            value = parse_json(value)
        plain = _without_null(value)
    except RecursionError as error:
        raise ValueError(f"its {name} is nested too deeply; flatten it, or leave the row out") from error
    except ValueError as error:
        raise ValueError(f"its {name} is no JSON ({error}); expected a {kind.__name__}") from error
    if value in (None, "", [], {}):
        return None
    if not isinstance(value, kind):
        raise ValueError(f"its {name} is a {type(value).__name__}, expected a {kind.__name__}")
    return plain


def _without_null(value: Any) -> Any:
    """Return plain values without the keys that are null: `datasets` gives every mapping the keys of all."""
    if isinstance(value, Mapping):
        return {name: _without_null(item) for name, item in value.items() if item is not None}
    return [_without_null(item) for item in value] if isinstance(value, list) else value


def _refuse_unseen(tokenizer: ChatTokenizer, options: Mapping[str, Any], turns: Sequence[Message]) -> None:
    parts = {name for turn in turns for name in SPOKEN if turn.get(name) not in (None, "", [])}
    if not (options or parts):
        return
    template = tokenizer.chat_template
    text = template if isinstance(template, str) else json.dumps(template)
    for name in (*options, *sorted(parts)):
        if not re.search(rf"\b{re.escape(name)}\b", text):
            raise ValueError(
                f"the chat template does not read {name!r}, so the model would not see it; take another template "
                "(model.chat_template), or drop it from the rows"
            )


def _turns(value: str | list[Message]) -> list[Message]:
    return [] if isinstance(value, str) else value
