"""Run folders: atomic writes, checksums and caches found by content.

Everything a run leaves behind goes through this module. A file is written beside its place and moved there in one
step, so a reader never meets half of it; a finished piece of work is found by the hash of what it was made from
(model, template, prompts, decoding), never by a file merely being there.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

Arrays = dict[str, np.ndarray]


def digest(*parts: Any) -> str:
    """Return the sha256 of plain values, in hex: the address of what is made from them.

    Mappings are ordered by key, so equal content gives an equal digest in any process.
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that the path holds either the old file or all of the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # noqa: PTH101  mkstemp's 0600 would hide a shared run folder from colleagues
        os.replace(name, path)  # noqa: PTH105  the one call that is atomic
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON. NaN and infinity are refused: they are not JSON, and no honest number here."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False, default=_plain)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False, default=_plain) for row in rows)
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def read_rows(path: Path) -> list[dict[str, Any]]:
    # Split on "\n" alone: str.splitlines would also break at U+2028, which JSON strings may hold.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def cached_arrays(folder: Path, key: str, make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays made from what `key` stands for, computing them only if the folder lacks them intact."""
    path = folder / f"{key}.safetensors"
    if not intact(path):
        seal(path, save(make()))
    return load_file(path)


def cached_rows(folder: Path, key: str, make: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the rows made from what `key` stands for, computing them only if the folder lacks them intact."""
    path = folder / f"{key}.jsonl"
    if not intact(path):
        seal(path, "".join(json.dumps(row, ensure_ascii=False, default=_plain) + "\n" for row in make()).encode())
    return read_rows(path)


def seal(path: Path, content: bytes) -> None:
    """Write `content` and, after it, its checksum beside it: `intact` is then True until either is touched."""
    write_bytes(path, content)
    write_bytes(_seal_of(path), f"{hashlib.sha256(content).hexdigest()}  {path.name}\n".encode())


def intact(path: Path) -> bool:
    """Tell whether `path` is a sealed file whose bytes still have the checksum they were sealed with."""
    seal_path = _seal_of(path)
    if not (path.is_file() and seal_path.is_file()):
        return False
    return seal_path.read_text().split(" ", 1)[0] == file_digest(path)


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _plain(value: Any) -> Any:
    """Turn what JSON lacks into what it has: numpy scalars, paths, sets."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{value!r} is no JSON: got {type(value).__name__}, expected numbers, text, lists or mappings")
