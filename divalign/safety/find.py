"""Finding what a user names: an entry of a registry, a thing of their own as "pkg.module:thing", a text or its file."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

Entry = TypeVar("Entry")


def find(name: str, table: Mapping[str, Entry], *, kind: str) -> Entry:
    """Return the entry called `name`, or what "pkg.module:thing" names.

    Raises ValueError, naming the nearest entry, where there is none.
    """
    if name in table:
        return table[name]
    module, colon, thing = name.partition(":")
    if colon:
        return _own(module, thing, kind)
    near = difflib.get_close_matches(name, table, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"no {kind} is called {name!r}{hint} There are {', '.join(table)}, or name your own as pkg.module:thing"
    )


def text_with_slots(text_or_path: str, slots: Sequence[str], *, kind: str) -> str:
    """Return a text that holds every slot: the one given, or the content of the file of that name.

    Raises ValueError where a slot is missing.
    """
    text = text_or_path
    if not any(slot in text for slot in slots) and os.path.isfile(text):  # noqa: PTH113  False for what is no path
        text = Path(text).read_text(encoding="utf-8")
    missing = [slot for slot in slots if slot not in text]
    if missing:
        lost = " and no ".join(missing)
        raise ValueError(
            f"the {kind} {text_or_path[:60]!r} has no {lost}; write each where it goes, in the text or file"
        )
    return text


def _own(module: str, thing: str, kind: str) -> Any:
    try:
        return getattr(import_module(module), thing)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"cannot import {module!r}, asked for as {kind}: {error}; is it on the Python path?"
        ) from error
    except AttributeError as error:
        raise ValueError(f"module {module!r} has no {thing!r}, asked for as {kind}") from error
