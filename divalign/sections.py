"""YAML to typed sections, in one sentence where it does not fit: an unknown key names the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError
from pydantic_core import PydanticCustomError

from divalign.limits import read_text

MOST_NODES = 10_000  # keys and values of a configuration


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


Kind = TypeVar("Kind", bound=Section)
Value = TypeVar("Value")


def _no_switch(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("switch", "Input should be a number")
    return value


def _each_once(values: tuple[Value, ...]) -> tuple[Value, ...]:
    twice = [value for value in dict.fromkeys(values) if values.count(value) > 1]
    if twice:
        raise PydanticCustomError("twice", "Name {value} once", {"value": repr(twice[0])})
    return values


# YAML reads yes and on as true, which pydantic takes for 1. Only whole numbers are strict: YAML reads 4e-4 as a text.
Whole = Annotated[int, Strict()]
Real = Annotated[float, BeforeValidator(_no_switch), Field(allow_inf_nan=False)]
Seed = Annotated[int, Strict(), Field(ge=0, lt=2**32)]
Each = Annotated[tuple[Value, ...], AfterValidator(_each_once)]


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML file's keys. Raises ValueError where it is missing, broken or something else."""
    content = _parse(_read(path), str(path)) or {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected keys such as model: and train:")
    return content


def as_section(section: type[Kind], content: Mapping[str, Any], where: str) -> Kind:
    """Return plain values as a section. Raises ValueError, in one sentence, for an unknown key or an unfit value."""
    try:
        return section.model_validate(content)
    except ValidationError as error:
        raise ValueError(_first(error, where, _keys(section))) from None


def overridden(content: Mapping[str, Any], overrides: Sequence[str]) -> Mapping[str, Any]:
    """Return `content` with `key.subkey=value` overrides, whose values are YAML too, the rest shared.

    Raises ValueError for an override without '=', with broken YAML, or with a key that leads into what has no keys.
    """
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f"--set {override!r} has no '='; write --set key.subkey=value")
        content = with_value(content, key, _parse(value, f"--set {override}"))
    return content


def with_value(content: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return `content` with the value at the dotted key, the rest shared.

    Raises ValueError where the key leads into what has no keys.
    """
    return _with(content, key.split("."), value, key)


def as_yaml(config: BaseModel) -> str:
    """Return a section as YAML that is read back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)


def _read(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"no configuration at {path}; configs/ in the repository holds complete ones")
    return read_text(path)


class _Keys(yaml.SafeLoader):
    """YAML that refuses a mapping with a key twice, of which PyYAML keeps the last without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: Any = super().compose_mapping_node(anchor)
        names: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in names:
                raise yaml.YAMLError(f"the key {key.value!r} stands twice, again in line {key.start_mark.line + 1}")
            names.add(str(key.value))
        return node

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _size(node, {}) > MOST_NODES:
            raise yaml.YAMLError(f"it stands for more than {MOST_NODES:,} values, its aliases written out")
        return node


def _size(node: Any, sizes: dict[int, int]) -> int:
    """Return how many values a node stands for: aliases of aliases let a page stand for more than a memory holds."""
    if id(node) not in sizes:
        sizes[id(node)] = MOST_NODES + 1  # what an alias to an enclosing node finds: it has no end
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = (part if isinstance(part, tuple) else (part,) for part in parts)
        sizes[id(node)] = 1 + sum(_size(part, sizes) for pair in pairs for part in pair)
    return sizes[id(node)]


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Keys)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not YAML: {' '.join(str(error).split())}") from None


def _with(content: Mapping[str, Any], keys: list[str], value: Any, key: str) -> dict[str, Any]:
    head, *rest = keys
    if not rest:
        return {**content, head: value}
    inner = content.get(head)
    if not (inner is None or isinstance(inner, dict)):
        raise ValueError(f"{key} cannot be set: {head} is {inner!r}, expected keys below it")
    return {**content, head: _with(inner or {}, rest, value, key)}


def _first(error: ValidationError, where: str, keys: Sequence[str]) -> str:
    """Turn pydantic's first complaint into a sentence that says what to change."""
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "too_short":
        return f"{where}: {place} is {fault['input']!r}, expected at least one entry"
    if fault["type"] != "extra_forbidden":
        return f"{where}: {place} is {fault['input']!r:.200}; {fault['msg'][0].lower()}{fault['msg'][1:]}"
    nearest = difflib.get_close_matches(place, keys, n=1, cutoff=0.3)
    return (
        f"{where}: there is no key {place!r}; did you mean {nearest[0]!r}?"
        if nearest
        else (f"{where}: there is no key {place!r}; known: {', '.join(keys)}")
    )


def _keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Return every dotted key of a section."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        name = field.alias or name
        keys.append(prefix + name)
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys += _keys(kind, f"{prefix}{name}.")
    return keys
