"""Finding an entry of a registry by name, or one of the user's own as "pkg.module:thing"."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
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


def _own(module: str, thing: str, kind: str) -> Any:
    try:
        return getattr(import_module(module), thing)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"cannot import {module!r}, asked for as {kind}: {error}; is it on the Python path?"
        ) from error
    except AttributeError as error:
        raise ValueError(f"module {module!r} has no {thing!r}, asked for as {kind}") from error
