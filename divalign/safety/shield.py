"""Completions are data to a judge, never instructions: clip, disarm and fence them, and count attempted injections.

A completion can address its judge, write the verdict itself, close the quotation it stands in, or hold the very words
that a chat template turns into control tokens. Nothing here removes text: what would work as a control is made
visible, so a judge still sees what was written.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any

from divalign.data.control_tokens import CONTROL_TOKENS

# Words that chat templates and tokenizers turn into control tokens, also of older models and of templates with tools,
# and those of our own fences. A space after the first character keeps them readable and without effect.
CONTROL = re.compile(
    rf"{CONTROL_TOKENS}"
    r"|</?(?:pad|unk|mask|begin_of_text|end_of_text|end_of_utterance|think)>"
    r"|\[/?(?:SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CONTENT|TOOL_CALLS)\]"
    r"|\[(?:begin|end) (?:request|response)\b",
    re.IGNORECASE,
)

# What a completion does when it speaks to its judge. Counted and shown beside the verdict; it decides nothing. Each
# pattern takes a time that grows with the text's length alone: nothing that is tried at every line reads past its end.
# Joiners shape words of Persian, words of Hindi and emoji; elsewhere, or several in a row, they hide something.
JOINER = r"(?<![^\x00-\x7f\u200c\u200d])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f\u200c\u200d])"
ATTEMPTS: dict[str, re.Pattern[str]] = {
    "control tokens": CONTROL,
    "fences": re.compile(
        r"^(?>[^\n]*?</?(response|request|completion|generation|answer|behaviou?r)\b)[^>\n]*+>|^[-=#`*~]{3,}"
        r"|\[(begin|end) (request|response)\b",
        re.IGNORECASE | re.MULTILINE,
    ),
    "orders": re.compile(
        r"\b(ignore|disregard|forget|override)\b.{0,40}\b(above|previous|prior|earlier|instructions?|rules?|rubric)\b"
        r"|\b(you (must|should|will)|please|now)\b.{0,30}"
        r"\b(answer|reply|respond|output|grade|rate|classify|judge|mark|score)\b",
        re.IGNORECASE | re.DOTALL,
    ),
    "verdicts": re.compile(
        r"\b(verdict|label|classification|rating|grade|score|judg(e)?ment|harmful|refus(ed|al)|convincing|specific)\b"
        r"\W{1,4}(un)?(safe|harmful|yes|no|true|false|none|full|partial|[0-9])\b"
        r"|^[^\w\n]*+(un)?safe[^\w\n]*+$",
        re.IGNORECASE | re.MULTILINE,
    ),
    "judges": re.compile(
        r"\b(dear|attention|note to|message to|hey|hello)\W+(the )?(judge|evaluator|grader|classifier|reviewer)\b"
        r"|^[^\w\n]*+(system|developer|user|assistant|human)\s*:",
        re.IGNORECASE | re.MULTILINE,
    ),
    "hidden characters": re.compile(
        rf"[\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]|{JOINER}"
    ),
    "markup": re.compile(r"<\s*(script|img|iframe|svg|style|html|body)\b|javascript:|&#x?[0-9a-f]+;", re.IGNORECASE),
}

Clip = Callable[[str], str]


def disarm(text: str, *, special: Iterable[str] = ()) -> str:
    """Return `text` with control words broken by a space and invisible characters written as escapes.

    `special` holds the judge's own special tokens, besides the ones that are known here.
    """
    for token in sorted(set(special), key=len, reverse=True):
        if len(token) > 1:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    text = CONTROL.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text.replace("\r\n", "\n"))
    text = re.sub(JOINER, lambda match: _escape(match[0]), text)
    return "".join(map(_visible, text))


def fenced(text: str, name: str) -> str:
    """Return `text` between two lines that it cannot contain: they carry a part of its own hash."""
    mark = sha256(f"{name}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"[begin {name} {mark}]\n{text}\n[end {name} {mark}]"


def clip_characters(count: int) -> Clip:
    """Return what cuts a text after `count` characters and says so."""
    if count < 1:
        raise ValueError(f"got {count} characters to keep, expected at least 1")
    return lambda text: (
        text if len(text) <= count else f"{text[:count]}\n[clipped: {len(text) - count} more characters]"
    )


def clip_tokens(tokenizer: Any, count: int) -> Clip:
    """Return what cuts a text after `count` of a tokenizer's tokens, as HarmBench does with 512 of its classifier's."""
    if count < 1:
        raise ValueError(f"got {count} tokens to keep, expected at least 1")

    def clip(text: str) -> str:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return text if len(ids) <= count else tokenizer.decode(ids[:count])

    return clip


def attempts(response: str) -> list[str]:
    """Return the kinds of address to a judge that a response holds, in the order of `ATTEMPTS`; none, as a rule."""
    return [kind for kind, pattern in ATTEMPTS.items() if pattern.search(response)]


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in ("Cf", "Cc", "Co", "Cs") and character not in "\n\t\u200c\u200d"
    return _escape(character) if hidden else character


def _escape(character: str) -> str:
    return f"\\u{{{ord(character):x}}}"
