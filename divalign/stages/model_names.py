"""Names of models that are measured together: short, different, and fit for a folder each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

from divalign.store import file_name


def short_names(names: Sequence[str]) -> list[str]:
    """Return a plain name of a folder for each: as many of its last parts, joined by "_", as tell it from the others.

    A number is added where no parts do. Raises ValueError where a model is named twice, or has no part that is a name.
    """
    if len(set(names)) < len(names):
        raise ValueError(f"a model is named twice among {', '.join(names)}; name each once")
    endings = [_endings(name) for name in names]
    short: list[str] = []
    for place, mine in enumerate(endings):
        ambiguous = {ending.lower() for other in (*endings[:place], *endings[place + 1 :]) for ending in other}
        label = next((ending for ending in mine if ending.lower() not in ambiguous), mine[0])
        numbered = chain([label], (f"{label}_{number}" for number in count(2)))
        short.append(next(each for each in numbered if each.lower() not in {name.lower() for name in short}))
    return short


def _endings(name: str) -> list[str]:
    """Return what the last part, the last two parts and so on make as the name of a folder."""
    path = Path(name) if Path(name).name.strip(".") else Path(name).resolve()
    parts = [file_name(part) for part in path.parts if part.strip("./\\")]
    if not parts:
        raise ValueError(f"{name!r} gives a model no name; name the model's folder")
    return ["_".join(parts[-size:]) for size in range(1, len(parts) + 1)]
