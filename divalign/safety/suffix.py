"""Where a suffix stands in a chat's tokens, and which token changes survive being written out.

The optimised input must be what a user would send: the chat with the suffix, template and all, as text. So token
ids count only if that text, tokenised again, gives them back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from divalign.data.batching import encode_conversation
from divalign.data.examples import Conversation, user_says

MARK, OTHER = " !", " ?"
CONTEXT = 8  # tokens before the suffix that it is decoded with: a tokenizer may drop a space at the start of a text


class SuffixLayout(NamedTuple):
    """A chat as before + suffix + after + target, in token ids. `lead` is text of the suffix that lies in `before`."""

    prompt: str
    target_text: str
    before: list[int]
    start: list[int]
    after: list[int]
    target: list[int]
    lead: str


def lay_out(tokenizer: Any, prompt: str, target: str, *, marks: int) -> SuffixLayout:
    """Return where a suffix of `marks` exclamation marks stands, found as what changes with question marks instead.

    Raises ValueError where the two tokenise alike, where the answer's opening cannot be told from the chat before it,
    and where the start does not survive being written out.
    """
    ids, alternative = (encode_conversation(tokenizer, user_says(prompt + mark * marks)) for mark in (MARK, OTHER))
    opened = encode_conversation(tokenizer, user_says(prompt + MARK * marks, prefill=target))
    first, last = _shared(ids, alternative), _shared(ids[::-1], alternative[::-1])
    start, after = ids[first : len(ids) - last], ids[len(ids) - last :]
    if not start or opened[: len(ids)] != ids or len(opened) == len(ids):
        raise ValueError(
            f"cannot find the suffix and the opening {target!r} in the chat that begins {prompt[:40]!r}: the template "
            "rewrites them or the tokenizer joins them with their neighbours; choose another opening"
        )
    layout = SuffixLayout(prompt, target, ids[:first], start, after, opened[len(ids) :], "")
    layout = layout._replace(lead=(MARK * marks).removesuffix(suffix_text(tokenizer, layout, start)))
    if not survivors(tokenizer, layout, [start]):
        raise ValueError(f"the start {MARK * marks!r} does not survive the chat template; choose another tokenizer")
    return layout


def suffix_text(tokenizer: Any, layout: SuffixLayout, ids: Sequence[int]) -> str:
    """Return the text that, put after the prompt, should give the suffix `ids`; `survivors` tells whether it does."""
    context = layout.before[-CONTEXT:]
    before, whole = tokenizer.decode(context), tokenizer.decode([*context, *ids])
    return layout.lead + (whole[len(before) :] if whole.startswith(before) else tokenizer.decode(list(ids)))


def with_suffix(tokenizer: Any, layout: SuffixLayout, ids: Sequence[int], *, prefill: str = "") -> Conversation:
    """Return the conversation that a user with this suffix would send."""
    return user_says(layout.prompt + suffix_text(tokenizer, layout, ids), prefill=prefill)


def survivors(tokenizer: Any, layout: SuffixLayout, candidates: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the candidates whose chat, as text and tokenised again, has exactly the tokens that are to be scored."""
    return [
        list(ids)
        for ids in candidates
        if encode_conversation(tokenizer, with_suffix(tokenizer, layout, ids, prefill=layout.target_text))
        == [*layout.before, *ids, *layout.after, *layout.target]
    ]


def unwritable(tokenizer: Any, size: int, *, ascii_only: bool) -> list[int]:
    """Return the ids that no suffix may hold: special, unused, and those that do not write printable text."""
    special = set(tokenizer.all_special_ids)
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    bad = {
        i for i, text in enumerate(texts) if not text.isprintable() or not text or (ascii_only and not text.isascii())
    }
    return sorted(special | bad | set(range(len(tokenizer), size)))


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
