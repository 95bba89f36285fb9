"""A part of a result file, its estimates, and how a whole file is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
)

from divalign.core.stats import Estimate
from divalign.store import cached_json, read_json, write_json


def _estimate(value: Any) -> Estimate:
    if isinstance(value, Estimate):
        return value
    if not isinstance(value, dict) or set(value) != set(Estimate._fields):
        raise ValueError("expected an estimate with the fields value, low, high and n")
    return Estimate(**value)


_NUMBER = {"type": ["number", "null"]}
ESTIMATE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "A number, the ends of its 95 % confidence interval, and how many outcomes it rests on.",
    "properties": {"value": _NUMBER, "low": _NUMBER, "high": _NUMBER, "n": {"type": "integer"}},
    "required": list(Estimate._fields),
    "additionalProperties": False,
}
# {"value", "low", "high", "n"} in a file, core's Estimate in memory. A rate is an estimate between 0 and 1.
EstimateField = Annotated[
    Estimate,
    PlainValidator(_estimate),
    PlainSerializer(lambda value: value._asdict()),
    WithJsonSchema(ESTIMATE_SCHEMA),
]
Rate = EstimateField


def _folder_name(name: str) -> str:
    if Path(name).name != name or name in ("", ".."):
        raise ValueError(f"got the model name {name!r}, expected the plain name of a folder")
    return name


def _inner_path(path: str) -> str:
    parts = PurePosixPath(path)
    if parts.is_absolute() or not parts.name or ".." in parts.parts:
        raise ValueError(f"got the path {path!r}, expected one inside the folder of the file that names it")
    return path


# A record may come from strangers, and its readers join these to the folder that it lies in.
FolderName = Annotated[str, AfterValidator(_folder_name)]
InnerPath = Annotated[str, AfterValidator(_inner_path)]


class Record(BaseModel):
    """A part of a result file. Unknown fields are errors: a typing error in a name must not lose a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, protected_namespaces=())

    def plain(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return self.model_dump(mode="json", by_alias=True)


Kind = TypeVar("Kind", bound=Record)


def read_record(path: Path, kind: type[Kind]) -> Kind:
    """Return a result file as the record `kind`. A whole file's record declares its schema, as Literal[NUMBER].

    Raises ValueError, naming the file, where it is missing, torn, of another schema, or has a field that does not fit.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}; run the stage that writes it")
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is torn or no JSON ({error}); run the stage that writes it again") from error
    expected = _schema(kind)
    if expected is not None and (not isinstance(content, dict) or content.get("schema") != expected):
        number = content.get("schema") if isinstance(content, dict) else None
        raise ValueError(
            f"{path} has schema {number!r}, this version reads {expected}; run the command that wrote it again, "
            "in a new folder"
        )
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise ValueError(
            f"{path} does not hold what was expected: {place}: {fault['msg']}; run the stage that writes it again"
        ) from error


def _schema(kind: type[Record]) -> int | None:
    """Return the schema number that a record's first field names, as Literal[2]."""
    field = kind.model_fields.get("schema_number")
    numbers = get_args(field.annotation) if field is not None else ()
    return numbers[0] if numbers else None


def publish_record(path: Path, record: Kind, *, aside: Sequence[str] = ()) -> Kind:
    """Write a record unless the file says the same, the fields `aside` aside; return the one that stands there."""
    try:
        before = read_record(path, type(record))
    except ValueError:
        before = None
    if before is not None and before.model_copy(update={name: getattr(record, name) for name in aside}) == record:
        return before
    write_json(path, record.plain())
    return record


def cached_record(path: Path, key: str, kind: type[Kind], make: Callable[[], Kind]) -> Kind:
    """Return the record that `key` stands for from `path`, making it only if the file is not intact for that key."""
    return kind.model_validate(cached_json(path, key, lambda: make().plain()))
