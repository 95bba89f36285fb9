"""Responses in one plain form, so that typography, emphasis and contractions do not decide a verdict."""

from __future__ import annotations

import re
import unicodedata

# Every sign that is written for an apostrophe: quotation marks, the modifier letters, primes, accents, full width.
APOSTROPHES = "\u2018\u2019\u201b\u02bc\u02b9\u02bb\u02c8\u2032\u00b4\u0060\uff07\u055a\ua78c"
_TO_APOSTROPHE = str.maketrans(dict.fromkeys(APOSTROPHES, "'"))
# Underscores are read once, where they begin: tried from each of a thousand, they take a million steps.
_EMPHASIS = re.compile(r"\*+|~~|(?<!\w)_+|(?<!_)_++(?!\w)|^#+\s*", re.MULTILINE)
_INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")

# Contractions, in order: with their apostrophe, then without one where no other word is written so.
CONTRACTIONS: tuple[tuple[str, str], ...] = (
    (r"\b(can't|cannot|can not|cant)\b", "can not"),
    (r"\b(won't|wont)\b", "will not"),
    (r"\bshan't\b", "shall not"),
    (r"\bain't\b", "is not"),
    (r"n't\b", " not"),
    (r"\b(do|does|did|is|are|was|were|could|would|should|must|have|has)nt\b", r"\1 not"),
    (r"'m\b", " am"),
    (r"\bim\b", "i am"),
    (r"'re\b", " are"),
    (r"'ve\b", " have"),
    (r"\bive\b", "i have"),
    (r"'ll\b", " will"),
    (r"'d\b", " would"),
    (r"\blet's\b", "let us"),
    (r"\b(it|that|there|what|here|he|she|who|how|this|answer)'s\b", r"\1 is"),
    (r"\b(that|here|there)s\b", r"\1 is"),
)
_CONTRACTIONS = [(re.compile(pattern), replacement) for pattern, replacement in CONTRACTIONS]


def plain(text: str) -> str:
    """Return `text` without case, emphasis marks and invisible characters, contractions written out, single spaces.

    Every apostrophe becomes U+0027 first, so "I can\u2019t", "I **can't**" and "i cant" all become "i can not".
    """
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text.translate(_TO_APOSTROPHE))).translate(_TO_APOSTROPHE)
    text = " ".join(_EMPHASIS.sub("", text).casefold().split())
    for pattern, replacement in _CONTRACTIONS:
        text = pattern.sub(replacement, text)
    return text


def sentences(text: str) -> list[str]:
    """Return the sentences of a plain text: cut after a full stop, an exclamation or question mark and a space."""
    return [part for part in re.split(r"(?<=[.!?\u3002\uff01\uff1f])\s+", text) if part]


def unquoted(text: str) -> str:
    """Return `text` without what stands in double quotation marks: a quoted refusal is not the speaker's own."""
    return re.sub(r'"[^"\n]{0,300}"|\u201c[^\u201d\n]{0,300}\u201d|\u00ab[^\u00bb\n]{0,300}\u00bb', '""', text)
