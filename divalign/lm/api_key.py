"""A server's API key: what it may be, and how it is crossed out of whatever the server sends back."""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape

REPLACEMENT = "[api key]"
SHORTEST = 8  # characters; "EMPTY", which local servers take, is no secret, and "token" is a word


def valid_key(key: str | None) -> str | None:
    """Return a key without the white space around it: files and mounted secrets end with a line feed. None for no key.

    Raises ValueError, without repeating the key, for a character that no HTTP header holds.
    """
    stripped = (key or "").strip()
    if bad := re.search(r"[^ -~]", stripped):
        raise ValueError(
            f"the server's key holds U+{ord(bad[0]):04X} at character {bad.start() + 1}; expected printable ASCII: "
            "copy the key again, by itself"
        )
    return stripped or None


def is_secret(key: str | None) -> bool:
    return key is not None and len(key) >= SHORTEST


def without_key(text: str, key: str | None) -> str:
    """Return text in which the key is crossed out, however JSON (also within JSON), a URL or HTML would spell it."""
    return _spellings(key).sub(REPLACEMENT, text) if key is not None and is_secret(key) else text


@lru_cache(maxsize=8)
def _spellings(key: str) -> re.Pattern[str]:
    """Return a pattern of the key, each character with up to 7 backslashes before it or as an escape.

    JSON within JSON within JSON has 7. Zeros may stand there as well: UTF-16, of which `json` knows, has them.
    """
    return re.compile("".join(map(_spelling, key.replace("\\", ""))), re.IGNORECASE)


def _spelling(letter: str) -> str:
    number, names = ord(letter), {re.escape(letter), re.escape(escape(letter))}
    numeric = rf"%{number:02x}|&(?:amp;)?#(?:0*{number}|x0*{number:x});"
    return rf"(?:[\\\0]{{0,7}}(?:{'|'.join(sorted(names))}|u00{number:02x})|{numeric})"
