"""The header of a GGUF file, read with every size and offset checked against the file's length.

A file that cannot be used is refused before transformers is imported, and before a library that trusts the header maps
its tensors. Source: the GGUF specification, github.com/ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import mmap
import struct
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from divalign.limits import HEADER_ENTRIES, HEADER_TEXT, refuse_larger

# value types: the fixed-size ones with their struct format, and the two that are not of a fixed size
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
VERSIONS = (2, 3)
MOST_DIMENSIONS = 4


class GgufHeader(NamedTuple):
    """What a GGUF file says about itself. `metadata` holds its numbers and strings; lists stand there as lengths."""

    metadata: dict[str, Any]
    tensors: tuple[str, ...]

    @property
    def architecture(self) -> str:
        return self.metadata["general.architecture"]

    @property
    def chat_template(self) -> str | None:
        return self.metadata.get("tokenizer.chat_template")


def read_header(path: Path) -> GgufHeader:
    """Return the header of a GGUF file that holds one whole language model.

    Raises ValueError, in one sentence that names the file, where it is missing, no GGUF file, torn, truncated or
    corrupt, of an unknown version or tensor type, one part of a split model, an adapter or a projector, or without a
    tokenizer.
    """
    if not path.is_file():
        raise ValueError(f"no GGUF file at {str(path)!r}")
    size = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(4)
        if magic != b"GGUF":
            raise ValueError(f"{path} is not a GGUF file: it begins with {magic!r}, expected b'GGUF'")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            header = _Reader(content, path, size).header()
    _check_model(path, header)
    return header


@cache
def blocks() -> dict[int, tuple[int, int]]:
    """Return, by the number of a tensor type, the values in a block and the bytes of a block.

    Raises ValueError where the gguf package is not installed.
    """
    try:
        from gguf.constants import GGML_QUANT_SIZES
    except ImportError as error:
        raise ValueError("reading GGUF files needs the gguf package: pip install 'divalign[gguf]'") from error
    return {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}


def _check_model(path: Path, header: GgufHeader) -> None:
    """Raise ValueError where a well-formed file is not one whole language model with a tokenizer."""
    metadata = header.metadata
    if not isinstance(metadata.get("general.architecture"), str):
        raise ValueError(f"{path} names no architecture (general.architecture), so it holds no model that can be read")
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise ValueError(f"{path} is of the type {kind!r}, expected 'model'; give the language model's own GGUF file")
    if isinstance(parts := metadata.get("split.count", 1), int) and parts > 1:
        raise ValueError(f"{path} is one of {parts} parts; join them first: llama-gguf-split --merge PART1 WHOLE")
    if not header.tensors:
        raise ValueError(f"{path} holds no tensors, only metadata; give the GGUF file with the weights")
    if "tokenizer.ggml.tokens" not in metadata:
        raise ValueError(f"{path} holds no tokenizer (tokenizer.ggml.tokens); give a GGUF file of a language model")


class _Reader:
    """A position in a file that never reads past its end."""

    def __init__(self, content: mmap.mmap, path: Path, size: int) -> None:
        self.content, self.path, self.size, self.position = content, path, size, 4

    def header(self) -> GgufHeader:
        version, tensors, entries = self.numbers("IQQ")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            kind = "big-endian" if swapped in VERSIONS else f"version {version}"
            raise ValueError(f"{self.path} is a {kind} GGUF file; versions 2 and 3, little-endian, are read")
        self.room_for(entries, 13, "metadata entries")
        self.room_for(tensors, 28, "tensors")
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self.string()
            if key in metadata:  # of two, one reader takes the first and another the last
                raise self.corrupt(f"the key {key[:60]!r} twice")
            metadata[key] = self.value(self.numbers("I")[0], key)
        infos = [self.tensor() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
            raise self.corrupt(f"an alignment of {alignment!r}")
        start = -(-self.position // alignment) * alignment
        end = max((start + offset + length for _, offset, length in infos), default=0)
        if end > self.size:
            raise ValueError(
                f"{self.path} is truncated: it has {self.size:,} bytes and its header names tensors up to byte "
                f"{end:,}; fetch it again"
            )
        return GgufHeader(metadata, tuple(name for name, _, _ in infos))

    def numbers(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))

    def take(self, count: int) -> bytes:
        self.room_for(count, 1, "bytes")
        self.position += count
        return self.content[self.position - count : self.position]

    def room_for(self, count: int, each: int, what: str) -> None:
        if count * each > self.size - self.position:
            raise ValueError(
                f"{self.path} is truncated or corrupt: at byte {self.position:,} its header names {count:,} {what}, "
                f"and the file ends at byte {self.size:,}; fetch it again"
            )
        if what != "bytes" and count > HEADER_ENTRIES:
            raise self.corrupt(f"{count:,} {what}, and {HEADER_ENTRIES:,} are read")

    def string(self) -> str:
        (length,) = self.numbers("Q")
        self.room_for(length, 1, "bytes")
        refuse_larger(length, HEADER_TEXT, self.path)
        return self.take(length).decode(errors="replace")

    def value(self, kind: int, key: str) -> Any:
        """Return a number or a string, and of a list its length."""
        if kind in SCALARS:
            return self.numbers(SCALARS[kind])[0]
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            raise self.corrupt(f"a value of type {kind} under {key!r}")
        element, count = self.numbers("IQ")
        if element in SCALARS:
            width = struct.calcsize(f"<{SCALARS[element]}")
            self.room_for(count, width, "list entries")
            self.position += count * width
        elif element == STRING:
            self.room_for(count, 8, "strings")
            for _ in range(count):
                (length,) = self.numbers("Q")
                self.room_for(length, 1, "bytes")
                self.position += length
        else:
            raise self.corrupt(f"a list of type {element} under {key!r}")
        return count

    def tensor(self) -> tuple[str, int, int]:
        """Return a tensor's name, its offset from the start of the data, and its length, both in bytes."""
        name, (dimensions,) = self.string(), self.numbers("I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise self.corrupt(f"{dimensions} dimensions of the tensor {name[:60]!r}")
        shape = self.numbers(f"{dimensions}Q")
        kind, offset = self.numbers("IQ")
        if kind not in blocks():
            raise ValueError(
                f"{self.path} stores the tensor {name[:60]!r} in ggml's type {kind}, which is not read here"
            )
        values, width = blocks()[kind]
        if min(shape) < 1 or shape[0] % values:
            raise self.corrupt(f"the shape {shape} of the tensor {name[:60]!r}")
        return name, offset, prod(shape) // values * width

    def corrupt(self, what: str) -> ValueError:
        return ValueError(f"{self.path} is corrupt: its header holds {what}; fetch it again")
