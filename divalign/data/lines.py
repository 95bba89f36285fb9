"""Lines of text files, whatever they are encoded in and compressed with."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from io import BufferedIOBase
from pathlib import Path

# In order: UTF-32's mark begins with UTF-16's.
MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
UTF8_MARK = b"\xef\xbb\xbf"
LONE_RETURN = re.compile(r"(?<=\r)(?!\n)")


def lines_of(path: Path, encodings: Counter[str]) -> Iterator[str]:
    """Yield lines with their ends, split at line feeds alone: JSON strings may hold the other separators.

    Those that are not in UTF-8 are counted in `encodings`.
    """
    with _opened(path) as file:
        start = file.read(4096)
        file.seek(0)
        if encoding := _wide(start):
            text, name = _decoded(file.read(), encoding)
            lines = text.removesuffix("\n").split("\n")
            encodings[name] += len(lines)
            yield from (f"{line}\n" for line in lines)
            return
        for number, raw in enumerate(file):
            line = raw.removeprefix(UTF8_MARK) if number == 0 else raw
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError:
                text, name = _decoded(line, "windows-1252")
                encodings[name] += 1
                yield text


def _decoded(raw: bytes, encoding: str) -> tuple[str, str]:
    """Return the text and its encoding; where bytes are none of its characters, the name says so."""
    try:
        return raw.decode(encoding), encoding
    except UnicodeDecodeError:
        return raw.decode(encoding, errors="replace"), f"{encoding} with bytes that are no character"


def _wide(start: bytes) -> str | None:
    """Return the encoding of text of more than one byte a letter: by its mark, or by the zeros of its Latin letters."""
    marked = next((name for mark, name in MARKS.items() if start.startswith(mark)), None)
    if marked or len(start) < 4:
        return marked
    half = len(start) // 2
    odd, even = start[1::2].count(0) / half, start[::2].count(0) / half
    return "utf-16-le" if odd > 0.4 > even else "utf-16-be" if even > 0.4 > odd else None


def _opened(path: Path) -> BufferedIOBase:
    return gzip.GzipFile(path) if path.suffix.lower() == ".gz" else path.open("rb")


def ended_anyhow(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines that end with a line feed, a carriage return or both, as spreadsheets of all times wrote them."""
    for line in lines:
        yield from filter(None, LONE_RETURN.split(line)) if "\r" in line else (line,)
