"""Limits on what is read: how large a file may be, how deep its JSON, and that its path stays in its folder.

Model folders, run folders, data sets and replies of servers come from strangers. Whatever is in memory at once has
its limit here, and here alone. Weights have none: safetensors and GGUF files are mapped, and their headers checked.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterable, Iterator
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, NamedTuple

MIB = 2**20
NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # Windows has none, and no named pipes in folders


class Limit(NamedTuple):
    """The most bytes that something may have, what it is, and what to do where it has more."""

    bytes: int
    what: str
    advice: str


TEXT = Limit(2 * MIB, "a configuration, a chat template or a question", "give the file that was meant")
SETTINGS = Limit(256 * MIB, "a model folder's configuration, vocabulary or template", "fetch the model again")
RECORD = Limit(512 * MIB, "a result file", "run the stage that writes it again")
ROWS = Limit(4096 * MIB, "a file that is read whole", "write the rows as JSON lines in UTF-8, which are streamed")
LINE = Limit(64 * MIB, "a line", "write one row a line")
# A completion of 2**18 tokens, each of four letters written as \uXXXX, has 6 MiB. No request asks for logprobs. Empty
# lists take 25 times their text once they are parsed, and each of `concurrency` requests may get such a reply.
REPLY = Limit(8 * MIB, "a server's reply", "ask for fewer tokens, or another server")
DEPTH = 100  # levels of lists and objects in JSON: what is read may be walked by recursion
HEADER_TEXT = Limit(16 * MIB, "a text in a file's header", "fetch the file again")
HEADER_ENTRIES = 2**24  # tensors, metadata entries, or entries of a list, in a file's header
# Compressed text of this size or this many times its file's size is no text: gzip reaches 1000 with zeros alone.
UNPACKED = Limit(1024 * MIB, "what a compressed file unpacks to", "unpack it, and look at what it holds")
RATIO = 100


def open_to_read(path: Path) -> BufferedReader:
    """Open a file to read. Raises ValueError for what is no regular file; a named pipe is not waited for."""
    return os.fdopen(_regular(path, os.O_RDONLY), "rb")


def open_to_append(path: Path) -> FileIO:
    """Open a file, or make it, to append to without a buffer. Raises as `open_to_read`."""
    return os.fdopen(_regular(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab", buffering=0)


def _regular(path: Path, flags: int) -> int:
    """Return the descriptor of a regular file: without O_NONBLOCK, opening a pipe waits for a process at its end."""
    refusal = ValueError(f"{path} is no regular file; give a file")
    try:
        handle = os.open(path, flags | NONBLOCK, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a pipe to append to that nobody reads
            raise refusal from None
        raise
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path)) if stat.S_ISDIR(mode) else refusal
    return handle


def read_bytes(path: Path, limit: Limit = RECORD) -> bytes:
    """Return a file's content. Raises ValueError for what is no regular file, and for one over the limit."""
    with open_to_read(path) as file:
        size = os.fstat(file.fileno()).st_size
        refuse_larger(size, limit, path)
        content = file.read(size + 1)  # a file that grows while it is read cannot be endless
    refuse_larger(len(content), limit, path)
    return content


def read_text(path: Path, limit: Limit = TEXT) -> str:
    """Return a UTF-8 file's text without a byte order mark, lines ended by line feeds.

    Raises ValueError as `read_bytes`, and for other bytes.
    """
    try:
        text = read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no text in UTF-8 ({error.reason} at byte {error.start:,}); save it as such"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(text: str | bytes, where: object = "it") -> Any:
    """Return what JSON holds. Raises ValueError for what is no JSON in UTF-8, and for more than `DEPTH` levels."""
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig", "surrogatepass")
    refusal = ValueError(f"{where} is nested too deeply; expected {DEPTH} levels of lists and objects at most")
    try:
        value = json.loads(text)
    except RecursionError:
        raise refusal from None
    # The brackets, of which there are at least as many as levels, are counted faster.
    if text.count("[") + text.count("{") > DEPTH and _is_deep(value):
        raise refusal
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEPTH):
        parts = (part.values() if isinstance(part, dict) else part for part in level if isinstance(part, (dict, list)))
        level = [part for inner in parts for part in inner if isinstance(part, (dict, list))]
    return bool(level)


def refuse_larger(size: int, limit: Limit, where: object) -> None:
    """Raise ValueError where `size` is over the limit."""
    if size > limit.bytes:
        raise ValueError(
            f"{where} has {size:,} bytes or more, and {limit.what} may have {limit.bytes:,}; {limit.advice}"
        )


def refuse_large_settings(folder: Path) -> None:
    """Raise ValueError where a file of a model's folder that is read into memory, not mapped, is over the limit.

    And where another library, which opens the files, would wait for a named pipe or read a device.
    """
    for path in (*folder.iterdir(), *further_templates(folder)):
        refuse_pipe(path)
        if path.suffix in (".json", ".jinja", ".txt", ".model", ".spm", ".tiktoken") and path.is_file():
            refuse_larger(path.stat().st_size, TEXT if path.suffix == ".jinja" else SETTINGS, path)


def further_templates(folder: Path) -> list[Path]:
    """Return the chat templates that transformers reads from a folder within a model's."""
    return sorted((folder / "additional_chat_templates").glob("*.jinja"))


def unpacked_limit(path: Path) -> Limit:
    """Return the most that a compressed file may unpack to: `RATIO` times its size, or `UNPACKED` if that is more."""
    return UNPACKED._replace(bytes=max(UNPACKED.bytes, RATIO * path.stat().st_size))


def counted(chunks: Iterable[bytes], limit: Limit, where: object) -> Iterator[bytes]:
    """Yield the chunks. Raises ValueError as soon as they are over the limit together."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        refuse_larger(size, limit, where)
        yield chunk


def inside(folder: Path, name: str) -> Path:
    """Return `folder`/`name`. Raises ValueError where that leads out of the folder, by dots or by a link."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{folder} names {name!r}, which leads out of it; expected a path inside the folder")
    return path


def refuse_pipe(path: Path) -> None:
    """Raise ValueError for a named pipe or a device: who opens a pipe waits, and a device can be endless."""
    try:
        mode = path.stat().st_mode
    except OSError:  # a link that leads nowhere, or what was deleted meanwhile
        return
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise ValueError(f"{path} is a named pipe or a device, and no file; delete it")


def refuse_links(folder: Path) -> None:
    """Raise ValueError where a link in `folder` leads out of it: reading or writing there would touch other files.

    And for a named pipe or a device in it.
    """
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            refuse_pipe(path)
            if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{path} is a link that leads out of {folder}; delete it, or put a copy in its place")
