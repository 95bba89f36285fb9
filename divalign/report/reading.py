"""From the files of run folders to typed facts: the one place of the report that knows files and their fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from divalign import store
from divalign.core.stats import Estimate
from divalign.limits import TEXT, read_bytes, refuse_links
from divalign.records import (
    CostRecord,
    DivergenceFile,
    DivergenceRecord,
    EnvironmentRecord,
    ModelResult,
    PartResult,
    RatesRecord,
    Record,
    Results,
    SeparationChanges,
    SeparationPart,
    SeparationRecord,
    own_verdicts,
    read_record,
)
from divalign.report.facts import (
    MARK,
    JudgedResponse,
    ModelFacts,
    PartFacts,
    Point,
    RunFacts,
    SearchFacts,
    SeparationRun,
)

Content = TypeVar("Content")
FileRecord = TypeVar("FileRecord", bound=Record)
AUDIT = ".audit.json"  # behind the name of a training set's file


def read_run(folder: Path) -> RunFacts:
    """Return the facts of a run folder.

    Raises ValueError, naming the file, for a folder without a readable results.json and for a model's file that is
    there but does not hold what it should. A model's file that is not there is no error.
    """
    results = read_results(folder)
    run = _read(folder / "results.json", lambda _: run_facts(results))
    models = tuple(_with_files(model, folder / "models" / model.name) for model in run.models)
    base = folder / "models" / next((model.name for model in models if model.method is None), "")
    config, environment = folder / "config.yaml", _record(folder / "environment.json", EnvironmentRecord)
    return run._replace(
        models=models,
        config=read_bytes(config, TEXT).decode("utf-8", errors="replace") if config.is_file() else "",
        folder=folder.resolve().name,
        base=_source(base / "model.json"),
        base_key=_text(base / "attack.json", "target_key"),
        stages=read_mapping(folder / "clock.json", "stages"),
        cost=_record(folder / "cost.json", CostRecord),
        audits=_audits(folder / "data"),
        versions=environment.versions if environment else {},
        files=[(f"data/{path.name}", store.file_digest(path)) for path in sorted((folder / "data").glob("*.jsonl"))],
    )


def _text(path: Path, key: str) -> str:
    """Return a text of a JSON file, "" where there is none."""
    return str(read_mapping(path).get(key) or "")


def _source(path: Path) -> str:
    """Return what a model was loaded from: a hub id in full, a file or folder without the folders before it."""
    source = _text(path, "source")
    return source if source.count("/") == 1 and not source.startswith((".", "/")) else Path(source).name


def read_results(folder: Path) -> Results:
    """Return the results of a run folder. Raises ValueError where it has none that can be read."""
    path = folder / "results.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} is no run folder: got no results.json in it, expected one; "
            "name the folder that `divalign run --out` wrote"
        )
    refuse_links(folder)
    return read_record(path, Results)


def read_separation(folder: Path) -> SeparationRun:
    """Return the facts of a folder of `divalign separate`: each model on the first part of its prompts.

    Raises ValueError, naming the file, where one is missing or of another schema or content.
    """
    path = folder / "changes.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no changes.json; name the folder that `divalign separate --out` wrote")
    refuse_links(folder)
    index = read_record(path, SeparationChanges)
    records = [read_record(folder / name / "separation.json", SeparationRecord) for name in index.models]
    first_parts = (next(iter(record.parts.values())) for record in records)
    parts = dict(zip(index.models, first_parts, strict=True))
    return SeparationRun(parts, index.changes)


def number(value: Any) -> float | None:
    """Return a finite number, or None for null, NaN and infinity, which support no claim."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"got {value!r}, expected a number or null")
    return float(value) if math.isfinite(value) else None


def read_number(path: Path, field: str) -> float | None:
    """Return a number of a JSON file, None where there is none, as `tokens_per_second` of a training.json."""
    value = read_mapping(path).get(field)
    return _read(path, lambda _: number(value))


def run_facts(results: Results) -> RunFacts:
    """Return the facts of a results.json alone."""
    models = [_model(entry) for entry in results.models]
    trained_on = sum(n for kind, n in (results.overlap or {}).items() if kind not in ("paraphrased", "n"))
    several_seeds = len({model.seed for model in models if model.method}) > 1  # the base has none
    return RunFacts(
        version=results.divalign,
        config_sha256=results.config_sha256,
        seconds=number(results.seconds),
        models=tuple(
            model._replace(title=_title(model, several_seeds) + (MARK if trained_on and model.method else ""))
            for model in models
        ),
        verdict=results.verdict,
        trained_on=trained_on,  # a paraphrase is a guess and does not count
        overlap=results.overlap,
    )


def _model(entry: ModelResult) -> ModelFacts:
    return ModelFacts(
        name=entry.name,
        title=entry.name,
        method=entry.method,
        data=entry.data,
        seed=entry.seed,
        in_distribution=_part(entry),
        held_out=_part(entry.held_out) if entry.held_out else None,
        divergence=_estimates(entry.divergence.items()),
    )


def _title(model: ModelFacts, several_seeds: bool) -> str:
    if model.method is None:
        return model.name
    return f"{model.method} seed {model.seed}" if several_seeds and model.seed is not None else model.method


def _with_files(model: ModelFacts, folder: Path) -> ModelFacts:
    return model._replace(
        bounds=_bounds(folder / "divergence.json"),
        plane=_optional(folder / "plane.json", lambda path: tuple(map(_point, store.read_json(path)["points"]))),
        metrics=_optional(folder / "metrics.jsonl", lambda path: tuple(map(_metrics, store.read_rows(path)))),
        responses=_optional(folder / "verdicts.jsonl", _responses),
        searches=_optional(folder / "gcg.jsonl", _searches),
        layers=_first_part(_record(folder / "separation.json", SeparationRecord)),
        rates=_record(folder / "rates.json", RatesRecord),
        training=read_mapping(folder / "training.json"),
    )


def _bounds(path: Path) -> Mapping[str, DivergenceRecord]:
    """Return the records behind the estimates; ceilings of one's own divergences stand nowhere else."""
    record = _record(path, DivergenceFile)
    return record.divergences if record else {}


def _record(path: Path, kind: type[FileRecord]) -> FileRecord | None:
    return read_record(path, kind) if path.is_file() else None


def _first_part(record: SeparationRecord | None) -> SeparationPart | None:
    return next(iter(record.parts.values()), None) if record else None


def read_mapping(path: Path, field: str | None = None) -> Mapping[str, Any]:
    """Return the object in a file, or in a field of it; nothing where either is missing."""
    content = _read(path, store.read_json) if path.is_file() else {}
    content = content.get(field, {}) if field and isinstance(content, dict) else content
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected an object; run the stage that writes it")
    return content


def _audits(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Return the audits of the training sets by the names of their files."""
    audits = {path.name.removesuffix(AUDIT): read_mapping(path) for path in sorted(folder.glob(f"*{AUDIT}"))}
    for name, content in audits.items():
        if missing := {"verdict", "rows", "findings"} - content.keys():
            raise ValueError(f"{folder / name}{AUDIT} is no audit: it lacks {', '.join(sorted(missing))}")
    return audits


def _part(entry: ModelResult | PartResult) -> PartFacts:
    return PartFacts(
        separation=_estimates(entry.separation),
        asr=_estimates(entry.asr.items()),
        over_refusal=_finite(entry.over_refusal),
        asr_no_refusal=_estimates(entry.asr_no_refusal.items()),
    )


def _estimates(entries: Iterable[tuple[str, Any]]) -> dict[str, Estimate]:
    """Return the entries that are estimates."""
    return {name: _finite(entry) for name, entry in entries if isinstance(entry, Estimate)}


def _finite(estimate: Estimate) -> Estimate:
    return Estimate(number(estimate.value), number(estimate.low), number(estimate.high), estimate.n)


def _point(entry: Mapping[str, Any]) -> Point:
    x, y = number(entry["x"]), number(entry["y"])
    if x is None or y is None:
        raise TypeError(f"got the point ({x}, {y}), expected two finite numbers")
    return Point(x, y, bool(entry["harmful"]), bool(entry.get("held_out", False)), str(entry.get("prompt", "")))


def _metrics(row: Mapping[str, Any]) -> Mapping[str, float | None]:
    numbers = {name: number(value) for name, value in row.items() if not isinstance(value, (str, bool, list, dict))}
    if numbers["step"] is None:
        raise TypeError("got a row without a step, expected its number")
    return numbers


def _responses(path: Path) -> tuple[JudgedResponse, ...]:
    """Return the verdicts of the run's own judge; those of further judges are on the same responses."""
    return tuple(map(_response, own_verdicts(store.read_rows(path))))


def _response(row: Mapping[str, Any]) -> JudgedResponse:
    return JudgedResponse(
        attack=str(row["attack"]),
        prompt=str(row["prompt"]),
        harmful=bool(row["harmful"]),
        held_out=bool(row.get("held_out", False)),
        response=str(row.get("response") or ""),
        unsafe=row["unsafe"],
        reason=str(row.get("reason") or ""),
        kind=row.get("kind"),
    )


def _searches(path: Path) -> tuple[SearchFacts, ...]:
    """Return the searches; one without a loss was never begun."""
    rows = [row for row in store.read_rows(path) if row["losses"]]
    losses = (tuple(loss for loss in map(number, row["losses"]) if loss is not None) for row in rows)
    return tuple(SearchFacts(steps, row["succeeded"]) for steps, row in zip(losses, rows, strict=True))


def _optional(path: Path, make: Callable[[Path], tuple[Content, ...]]) -> tuple[Content, ...]:
    return _read(path, make) if path.is_file() else ()


def _read(path: Path, make: Callable[[Path], Content]) -> Content:
    """Call `make`, and say which file it was if its content is not what a run folder promises."""
    try:
        return make(path)
    except KeyError as error:
        raise ValueError(f"{path} lacks the field {error}; run the stage that writes it again") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path} does not hold what was expected: {error}; run the stage that writes it again"
        ) from error
