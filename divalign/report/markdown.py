"""Markdown from records, which may come from strangers: text stays text, whatever marks it holds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

LINE_BREAK = re.compile(r"[^\S\xa0\u202f]+")  # and other white space, except spaces that hold a number and its unit
# Control characters, lone surrogates, and what turns the direction of text.
INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# An underscore within a word, as in D_B, marks nothing; some marks do at the start of a paragraph alone.
MARK = re.compile(r"[\\`*{}\[\]<>|&~]|(?<![^\W_])_|_(?![^\W_])|^[#=]|^[-+](?=[ -]|$)|^\d(?=\d*[.)](?: |$))")


class Markdown(str):
    """Text that is Markdown: its marks are meant. Plain strings beside it are escaped."""

    __slots__ = ()


def line(text: str) -> str:
    """Return text as one line without invisible characters, as code blocks and front matter need it."""
    return INVISIBLE.sub("\ufffd", LINE_BREAK.sub(" ", text))


def plain(text: str) -> Markdown:
    """Return one line of Markdown that shows `text` as it is; what is Markdown already stays so."""
    if isinstance(text, Markdown):
        return text
    return Markdown(MARK.sub(lambda match: r"\|" if match[0] == "|" else f"&#{ord(match[0])};", line(text)))


def code(text: str) -> Markdown:
    """Return text as a code span. Between backticks no mark can be escaped, so with marks it is the HTML element."""
    flat = line(text)
    if not flat:
        return Markdown()
    return Markdown(f"<code>{plain(flat)}</code>" if re.search(r"[\\`<>|&{}]", flat) else f"`{flat}`")


def strong(text: str) -> Markdown:
    """Return text in bold."""
    return Markdown(f"**{plain(text)}**")


def fill(template: str, **values: Any) -> Markdown:
    """Return a template of ours with values in its places, strings as `plain` shows them."""
    return Markdown(template.format(**{k: plain(v) if isinstance(v, str) else v for k, v in values.items()}))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Markdown:
    """Return a table; cells are shown as `plain` shows them."""
    lines = [head, [Markdown("---")] * len(head), *rows]
    return Markdown("".join("| " + " | ".join(map(plain, cells)) + " |\n" for cells in lines))
