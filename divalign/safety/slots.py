"""Texts with slots that a user hands in, or names the file of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from divalign.limits import read_text


def text_with_slots(text_or_path: str, slots: Sequence[str], *, kind: str) -> str:
    """Return a text that holds every slot: the one given, or the content of the file of that name.

    The newline that ends a text file is no part of the text: a judge trained on a text that ends with "answer: " reads
    another token after a newline.

    Raises ValueError where a slot is missing.
    """
    text = text_or_path
    if not any(slot in text for slot in slots) and os.path.isfile(text):  # noqa: PTH113  False for what is no path
        text = read_text(Path(text)).removesuffix("\n")
    missing = [slot for slot in slots if slot not in text]
    if missing:
        lost = " and no ".join(missing)
        raise ValueError(
            f"the {kind} {text_or_path[:60]!r} has no {lost}; write each where it goes, in the text or file"
        )
    return text
