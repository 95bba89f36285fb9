"""Resolve a name: an entry of a table, a member of a family, or an object in a module of the user's."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
_OWN = r"\w+(\.\w+)*:\w+"
_MEMBER = re.compile(r"(?P<family>\w+)\((?P<parameter>[^()]+)\)")


def find(
    name: str,
    table: Mapping[str, T],
    *,
    kind: str,
    of: type[T] | None = None,
    families: Mapping[str, Callable[[float], T]] | None = None,
) -> T:
    """Return the `kind` of thing that `name` stands for.

    Three spellings: `js`, an entry of `table`; `alpha(0.3)`, a member of a family; `package.module:thing`, an object
    in a module of the user's own: of the type `of`, or a function where none is given.

    Raises ValueError, naming the nearest entry, when nothing of that name exists.
    """
    if name in table:
        return table[name]
    member = _MEMBER.fullmatch(name)
    if member and families and member["family"] in families:
        return families[member["family"]](_number(member["parameter"], name))
    if re.fullmatch(_OWN, name):
        return _own(name, kind, of)
    raise ValueError(_unknown(name, kind, [*table, *(f"{family}(NUMBER)" for family in families or {})]))


def in_full(parameter: float | int) -> str:
    """Return a member's parameter as its name has it: 0.3, and all digits of a number that six do not determine."""
    short = f"{parameter:g}"
    return short if float(short) == parameter else repr(float(parameter))


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name!r}: got {text!r} in the parentheses, expected a number such as 0.3") from None


def _own(name: str, kind: str, of: type[T] | None) -> T:
    module, _, attribute = name.partition(":")
    try:
        thing: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"the {kind} {name!r} cannot be loaded ({error}); is its folder on PYTHONPATH, its name spelt right?"
        ) from error
    if not (callable(thing) if of is None else isinstance(thing, of)):
        expected = "function" if of is None else of.__name__
        raise ValueError(f"{name!r} is a {type(thing).__name__}, expected a {expected}")
    return thing


def source_of(name: str) -> str:
    """Return the code of the module that `package.module:thing` names, "" for any other name and where none is read.

    It belongs into the key of whatever the thing makes: a function that was edited is another one.
    """
    if not re.fullmatch(_OWN, name):
        return ""
    try:
        return inspect.getsource(importlib.import_module(name.partition(":")[0]))
    except (ImportError, OSError, TypeError):
        return ""


def _unknown(name: str, what: str, names: list[str]) -> str:
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    guess = f"; did you mean {nearest[0]!r}?" if nearest else ";"
    return f"no {what} is named {name!r}{guess} known: {', '.join(names)}, or package.module:thing of your own"
