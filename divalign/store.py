"""Run folders: atomic writes, checksums and caches found by content.

Everything a run leaves behind goes through this module. A file is written beside its place and moved there in one
step, so a reader never meets half of it; a finished piece of work is found by the hash of what it was made from
(model, template, prompts, decoding), never by a file merely being there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from divalign import limits

Arrays = dict[str, np.ndarray]
DEVICES = Path("/dev")
ROWS_AT_ONCE = 1000  # of a list that is hashed
LOADED = (".safetensors", ".json", ".jinja", ".py", ".model", ".tiktoken", ".spm")  # of a model folder
# Vocabularies of transformers' tokenizers whose ending says nothing.
VOCABULARIES = ("merges.txt", "vocab.txt", "dict.txt", "bpe.codes", "prophetnet.tokenizer")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What torch and safetensors make of a full disk; both raise errors without a number.
FULL_WORDS = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "file write failed",
    "unexpected pos",
    "iostream error",
)


def digest(*parts: Any) -> str:
    """Return the sha256 of plain values, in hex: the address of what is made from them.

    Mappings are ordered by key, so equal content gives an equal digest in any process. Long lists are hashed a part at
    a time: the text of 100,000 rows is never in memory whole.
    """
    content = hashlib.sha256()
    for piece in _json_pieces(parts):
        # A lone surrogate, which a prompt may hold, has no UTF-8 of its own; valid text keeps its digest.
        content.update(piece.encode("utf-8", "surrogatepass"))
    return content.hexdigest()


def _json_pieces(parts: tuple[Any, ...]) -> Iterator[str]:
    """Yield the JSON text of `parts`, rows of long lists in pieces."""
    yield "["
    for number, part in enumerate(parts):
        yield "," if number else ""
        if isinstance(part, (list, tuple)) and len(part) > ROWS_AT_ONCE:
            for start in range(0, len(part), ROWS_AT_ONCE):
                rows = _compact(part[start : start + ROWS_AT_ONCE])
                yield ("," if start else "[") + rows[1:-1]
            yield "]"
        else:
            yield _compact(part)
    yield "]"


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain)


def file_name(text: str) -> str:
    """Return `text` with an underscore for every sign that a file's name had better not have."""
    return re.sub(r"[^\w.,()-]", "_", text)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with limits.open_to_read(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """Return the content hash of a model or adapter folder: of the files that loading it reads.

    They are safetensors, JSON, templates, code of its own, and vocabularies; other texts, such as a README, count for
    nothing.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix in LOADED or path.name in VOCABULARIES)
    files += limits.further_templates(folder)
    return digest([(str(path.relative_to(folder)), file_digest(path)) for path in files if path.is_file()])


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that the path holds either the old file or all of the new one.

    What lies in /dev, as /dev/null, /dev/stdout and the shell's >(COMMAND) do, is written to: root would replace it by
    a file for the whole machine. Anywhere else a link, a pipe or a device is replaced, and not what a link leads to.
    """
    if path.parent in (DEVICES, DEVICES / "fd"):
        with path.open("ab") as stream:  # stdout sent to a file may hold lines already
            stream.write(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft_of(path)
    try:
        # "x" replaces no file and follows no link; the umask, not mkstemp's 0600, says who may read a run folder.
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _draft_of(path: Path) -> Path:
    """Return a place beside `path` for the file that is to take its place."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def apply_umask(path: Path) -> None:
    """Give a file that another library wrote the permissions of a new one; the kernel alone knows the umask."""
    draft = _draft_of(path)
    with draft.open("xb") as file:
        mode = os.fstat(file.fileno()).st_mode
    draft.unlink()
    path.chmod(stat.S_IMODE(mode))


def disk_is_full(error: BaseException) -> bool:
    """Tell whether an error means that nothing more could be written: no space, a quota, a limit on a file's size."""
    return getattr(error, "errno", None) in FULL or any(words in str(error) for words in FULL_WORDS)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON; NaN and infinity raise ValueError."""
    write_bytes(path, _document(content))


def read_json(path: Path) -> Any:
    """Return what a JSON file holds. Raises ValueError for what is no JSON, and for more than `limits.RECORD`."""
    return limits.parse_json(limits.read_text(path, limits.RECORD), path)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines; NaN and infinity raise ValueError."""
    write_bytes(path, jsonl(rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of JSON lines. Raises ValueError for what is no JSON, and for a row without named columns."""
    # Split on "\n" alone: str.splitlines would also break at U+2028, which JSON strings may hold.
    lines = limits.read_text(path, limits.ROWS).split("\n")
    rows = [limits.parse_json(line, path) for line in lines if line.strip()]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is a {type(row).__name__}, expected an object with named columns")
    return rows


def cached_arrays(path: Path, key: str, make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays that `key` stands for from `path`, making them only if the file is not intact for that key."""
    if not intact(path, key):
        seal(path, save(make()), key)
    return load_file(path)


def cached_rows(path: Path, key: str, make: Callable[[], Iterable[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return the rows that `key` stands for from `path`, making them only if the file is not intact for that key."""
    if not intact(path, key):
        seal(path, jsonl(make()), key)
    return read_rows(path)


def cached_json(path: Path, key: str, make: Callable[[], Any]) -> Any:
    """Return the value that `key` stands for from `path`, making it only if the file is not intact for that key."""
    if not intact(path, key):
        seal(path, _document(make()), key)
    return read_json(path)


def cached_folder(path: Path, key: str, make: Callable[[Path], None]) -> Path:
    """Return a model folder that `make` fills, filling it only if it is not intact for that key.

    It is filled under another name, always the same one, so that a kill leaves no more than one, and moved into place
    whole. Two processes at once would be in each other's way: lock the folder around it.
    """
    draft = path.with_name(f".{path.name}.draft")
    if not intact_folder(path, key):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            make(draft)
            publish_folder(draft, path, key)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return path


def intact_folder(path: Path, key: str) -> bool:
    """Tell whether a model folder was published for `key` and still has the content it was published with."""
    return path.is_dir() and _read_stamp(_stamp_of(path)) == [key, folder_digest(path)]


def publish_folder(draft: Path, path: Path, key: str) -> None:
    """Move a filled folder into place whole, and after it a stamp with its key and content hash."""
    shutil.rmtree(path, ignore_errors=True)
    draft.rename(path)
    write_json(_stamp_of(path), [key, folder_digest(path)])


def key_of(path: Path) -> str | None:
    """Return the key that a file or folder was made for; None where no stamp says so."""
    stamp = _read_stamp(_stamp_of(path))
    return stamp[0] if isinstance(stamp, list) and len(stamp) == 2 else None


def seal(path: Path, content: bytes, key: str) -> None:
    """Write `content` and, after it, a stamp with its key and checksum: `intact` until either file is touched."""
    write_bytes(path, content)
    write_json(_stamp_of(path), [key, hashlib.sha256(content).hexdigest()])


def intact(path: Path, key: str) -> bool:
    """Tell whether `path` was sealed for `key` and still has the bytes it was sealed with."""
    return path.is_file() and _read_stamp(_stamp_of(path)) == [key, file_digest(path)]


def untouched(path: Path) -> bool:
    """Tell whether `path` still has the bytes it was sealed with, for whatever key."""
    stamp = _read_stamp(_stamp_of(path))
    return path.is_file() and isinstance(stamp, list) and stamp[1:] == [file_digest(path)]


def _stamp_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.stamp")


def _read_stamp(stamp: Path) -> Any:
    """Return a stamp's key and checksum; None where it is missing or torn, which means: not intact."""
    try:
        return read_json(stamp)
    except (OSError, ValueError):
        return None


def _document(content: Any) -> bytes:
    """Return JSON text. NaN and infinity are refused: they are not JSON, and no honest number here."""
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False, default=_plain) + "\n").encode()


def jsonl(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return rows as JSON lines; NaN and infinity raise ValueError."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False, default=_plain) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


def _plain(value: Any) -> Any:
    """Turn what JSON lacks into what it has: numpy scalars, paths, sets."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{value!r} is no JSON: got {type(value).__name__}, expected numbers, text, lists or mappings")
