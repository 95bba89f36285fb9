"""Lines of text files, whatever they are encoded in and compressed with."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from io import BufferedIOBase
from pathlib import Path

from divalign.limits import LINE, ROWS, counted, refuse_larger, unpacked_limit

# In order: UTF-32's mark begins with UTF-16's.
MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
UTF8_MARK = b"\xef\xbb\xbf"
LONE_RETURN = re.compile(r"(?<=\r)(?!\n)")


def lines_of(path: Path, encodings: Counter[str]) -> Iterator[str]:
    """Yield lines with their ends, split at line feeds alone: JSON strings may hold the other separators.

    Those that are not in UTF-8 are counted in `encodings`. Raises ValueError for a line over `limits.LINE`, text of
    more than one byte a letter over `limits.ROWS`, and a compressed file that unpacks to more than text does.
    """
    with _opened(path) as file:
        start = file.read(4096)
        file.seek(0)
        if encoding := _wide(start):
            content = file.read(ROWS.bytes + 1)
            refuse_larger(len(content), ROWS, path)
            text, name = _decoded(content, encoding)
            lines = text.removesuffix("\n").split("\n")
            encodings[name] += len(lines)
            yield from (f"{line}\n" for line in lines)
            return
        for number, raw in enumerate(_raw_lines(file, path)):
            line = raw.removeprefix(UTF8_MARK) if number == 0 else raw
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError:
                text, name = _decoded(line, "windows-1252")
                encodings[name] += 1
                yield text


def _raw_lines(file: BufferedIOBase, path: Path) -> Iterator[bytes]:
    lines = iter(lambda: file.readline(LINE.bytes + 1), b"")
    for line in counted(lines, unpacked_limit(path), path) if is_compressed(path) else lines:
        refuse_larger(len(line), LINE, path)
        yield line


def whole_text(path: Path, encodings: Counter[str]) -> str:
    """Return all lines of a file that is read as one value. Raises ValueError where it is over `limits.ROWS`."""
    lines, size = [], 0
    for line in lines_of(path, encodings):
        size += len(line)
        refuse_larger(size, ROWS, path)
        lines.append(line)
    return "".join(lines)


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
    return gzip.GzipFile(path) if is_compressed(path) else path.open("rb")


def is_compressed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def ended_anyhow(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines that end with a line feed, a carriage return or both, as spreadsheets of all times wrote them."""
    for line in lines:
        yield from filter(None, LONE_RETURN.split(line)) if "\r" in line else (line,)
