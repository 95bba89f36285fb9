"""A persistent cache that survives a kill at any moment: an append-only file of checksummed lines, keyed by content.

Each line holds a key (the hash of everything the value depends on), the value and a checksum of both. A truncated or
edited line fails its checksum and its value is computed again; no other line is lost.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from divalign.data.examples import Conversation
from divalign.limits import ROWS, open_to_append, parse_json, read_bytes
from divalign.store import digest

Response = TypeVar("Response")
Written = TypeVar("Written", covariant=True)


class Journal:
    """A dictionary in a file: `key in journal`, `journal[key]`, `journal.add(key, value)`; values are plain JSON.

    Every line goes out in a single write in append mode, so two processes may share a file; each sees what stood there
    when it opened it. A power cut can lose the last lines, which are then computed again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        self._values: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        content = read_bytes(path, ROWS) if path.exists() else b""
        for line in content.split(b"\n"):
            self._take(line)
        self._file = open_to_append(path)
        if content and not content.endswith(b"\n"):
            self._file.write(b"\n")  # so that the next line does not continue a torn one

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __len__(self) -> int:
        return len(self._values)

    def add(self, key: str, value: Any) -> None:
        """Store `value` under `key`; its line is in the file when this returns. Raises OSError for a full disk."""
        line = json.dumps(
            {"key": key, "value": value, "check": _check(key, value)}, ensure_ascii=False, allow_nan=False
        )
        content = f"{line}\n".encode()
        written = os.write(self._file.fileno(), content)
        while written < len(content):  # a disk that fills takes a part, and then refuses the rest
            written += os.write(self._file.fileno(), content[written:])
        self._values[key] = value

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            entry = parse_json(line)
            if entry["check"] != _check(entry["key"], entry["value"]):
                raise ValueError("the line does not have its checksum")
            self._values[entry["key"]] = entry["value"]
        except (ValueError, TypeError, KeyError):
            self.damaged += 1


@runtime_checkable
class GenerateWithCallback(Protocol[Written]):
    """What can be cached: `lm.generate.generate` with a model bound, a server, a reader of probabilities."""

    def __call__(
        self, conversations: Sequence[Conversation], *, on_response: Callable[[int, Written], None], **options: Any
    ) -> Sequence[Written]: ...


def cached_generate(
    generate: GenerateWithCallback[Response], journal: Journal, *, made_from: Any
) -> Callable[[Sequence[Conversation]], list[Response]]:
    """Return `generate` with a cache: stored responses are not generated again, equal conversations only once.

    `made_from` is plain data that names everything besides the conversation that a response depends on: the model's and
    the adapter's hash, the chat template's, the decoding. If it names too little, the cache returns responses of
    another model. Responses are texts or other plain JSON. The function returned takes `seeds` too where `generate`
    does.
    """

    def generate_missing(conversations: Sequence[Conversation], seeds: Sequence[int] | None = None) -> list[Response]:
        numbers = [0] * len(conversations) if seeds is None else seeds
        pairs = zip(conversations, numbers, strict=True)
        keys = [
            digest(made_from, list(conversation.messages), conversation.prefill, number)
            for conversation, number in pairs
        ]
        missing = list({key: place for place, key in enumerate(keys) if key not in journal}.values())
        options = {} if seeds is None else {"seeds": [seeds[place] for place in missing]}
        if missing:
            generate(
                [conversations[place] for place in missing],
                on_response=lambda index, text: journal.add(keys[missing[index]], text),
                **options,
            )
        lost = [place for place in missing if keys[place] not in journal]
        if lost:
            raise ValueError(f"generate reported no response to {len(lost)} conversations, the first at {lost[0]}")
        return [journal[key] for key in keys]

    return generate_missing


def _check(key: str, value: Any) -> str:
    return digest(key, value)[:16]
