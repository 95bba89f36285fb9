"""From the files of run folders to typed facts: the one place of the report that knows files and their fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from divalign import store
from divalign.core.stats import Estimate
from divalign.report.facts import (
    MARK,
    BestLayerFacts,
    ChangeFacts,
    JudgedResponse,
    LayerFacts,
    ModelFacts,
    PartFacts,
    Point,
    RunFacts,
    Search,
    SeparationFacts,
    SeparationRun,
    VerdictFacts,
)

SCHEMA = 1
SEPARATION_SCHEMA = 1
LAST_LAYER = ("bhattacharyya", "probe_auc", "silhouette", "energy", "bhattacharyya_paper")
Content = TypeVar("Content")


def read_run(folder: Path) -> RunFacts:
    """Return the facts of a run folder.

    Raises ValueError, naming the file, for a folder without a readable results.json of schema 1 and for a model's file
    that is there but does not hold what it should. A model's file that is not there is no error.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} is no run folder: got no results.json in it, expected one; "
            "name the folder that `divalign run --out` wrote"
        )
    run = _read(path, lambda path: _run(store.read_json(path)))
    several = len({model.seed for model in run.models if model.method}) > 1  # the base has none
    config = folder / "config.yaml"
    return run._replace(
        models=tuple(
            _with_files(model, folder / "models" / model.name)._replace(
                title=_title(model, several) + (MARK if run.marked and model.method else "")
            )
            for model in run.models
        ),
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
    )


def read_separation(path: Path) -> SeparationRun:
    """Return the facts of a separation.json.

    Raises ValueError where there is none, or one of another schema or content.
    """
    if not path.is_file():
        raise ValueError(
            f"{path.parent} holds no separation.json; name the folder that `divalign separate --out` wrote"
        )
    try:
        return _separation_run(store.read_json(path))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is not what `divalign separate` writes ({error}); measure again") from error


def number(value: Any) -> float | None:
    """Return a finite number, or None for null, NaN and infinity, which support no claim."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"got {value!r}, expected a number or null")
    return float(value) if math.isfinite(value) else None


def _run(results: Any) -> RunFacts:
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        schema = results.get("schema") if isinstance(results, dict) else results
        raise TypeError(f"got schema {schema!r}, expected {SCHEMA}")
    return RunFacts(
        version=str(results.get("divalign", "")),
        config_sha256=str(results.get("config_sha256", "")),
        seconds=number(results.get("seconds")),
        models=tuple(map(_model, results["models"])),
        verdict=_verdict(results.get("verdict")),
        trained_on=_trained_on(results.get("overlap")),
    )


def _trained_on(overlap: Any) -> int:
    """Return how many prompts leaked for certain; a paraphrase is a guess."""
    return sum(n for kind, n in overlap.items() if kind not in ("paraphrased", "n")) if isinstance(overlap, dict) else 0


def _model(entry: Mapping[str, Any]) -> ModelFacts:
    name = entry["name"]
    if Path(name).name != name or name == "..":
        raise TypeError(f"got the model name {name!r}, expected the plain name of a folder")
    held_out = entry.get("held_out")
    return ModelFacts(
        name=name,
        title=name,
        method=entry.get("method"),
        data=entry.get("data"),
        seed=entry.get("seed"),
        in_distribution=_part(entry),
        held_out=_part(held_out) if held_out else None,
        divergence=_estimates(entry.get("divergence")),
    )


def _title(model: ModelFacts, several_seeds: bool) -> str:
    if model.method is None:
        return model.name
    return f"{model.method} seed {model.seed}" if several_seeds and model.seed is not None else model.method


def _with_files(model: ModelFacts, folder: Path) -> ModelFacts:
    return model._replace(
        plane=_optional(folder / "plane.json", lambda path: tuple(map(_point, store.read_json(path)["points"]))),
        metrics=_optional(folder / "metrics.jsonl", lambda path: tuple(map(_metrics, store.read_rows(path)))),
        responses=_optional(folder / "verdicts.jsonl", lambda path: tuple(map(_response, store.read_rows(path)))),
        searches=_optional(folder / "gcg.jsonl", _searches),
    )


def _part(entry: Mapping[str, Any]) -> PartFacts:
    over_refusal = entry.get("over_refusal")
    return PartFacts(
        separation=_estimates(entry.get("separation")),
        asr=_estimates(entry.get("asr")),
        over_refusal=_estimate(over_refusal) if over_refusal is not None else None,
    )


def _estimates(entries: Mapping[str, Any] | None) -> dict[str, Estimate]:
    return {name: _estimate(entry) for name, entry in (entries or {}).items() if entry is not None}


def _estimate(entry: Mapping[str, Any]) -> Estimate:
    return Estimate(
        number(entry["value"]), number(entry.get("low")), number(entry.get("high")), int(entry.get("n") or 0)
    )


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


def _response(row: Mapping[str, Any]) -> JudgedResponse:
    return JudgedResponse(
        attack=str(row["attack"]),
        prompt=str(row["prompt"]),
        harmful=bool(row["harmful"]),
        held_out=bool(row.get("held_out", False)),
        response=str(row.get("response") or ""),
        unsafe=row["unsafe"],
        reason=str(row.get("reason") or ""),
    )


def _searches(path: Path) -> tuple[Search, ...]:
    """Return the searches among the rows; the others hold the response to the suffix that every search begins with."""
    rows = [row for row in store.read_rows(path) if row["attack"] == "gcg" and row["losses"]]
    return tuple(
        Search(tuple(loss for loss in map(number, row["losses"]) if loss is not None), row["succeeded"]) for row in rows
    )


def _verdict(entry: Mapping[str, Any] | None) -> VerdictFacts | None:
    if not entry:
        return None
    return VerdictFacts(
        statistic=str(entry.get("statistic") or ""),
        value=number(entry.get("value")),
        p_value=number(entry.get("p_value")),
        power=number(entry.get("power")),
        n_models=int(entry.get("n_models") or 0),
        conclusion=str(entry.get("conclusion") or ""),
    )


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


def _separation_run(content: Mapping[str, Any]) -> SeparationRun:
    if content["schema"] != SEPARATION_SCHEMA:
        raise TypeError(f"got schema {content['schema']!r}, expected {SEPARATION_SCHEMA}")
    prompts = content["prompts"]
    return SeparationRun(
        benign=int(prompts["safe"]),
        harmful=int(prompts["harmful"]),
        clusters=int(prompts["clusters"]),
        models=tuple(map(_separation, content["models"])),
        baselines={name: _estimate(content["baselines"][name]) for name in ("lexical", "length")},
        changes=tuple(map(_change, content["changes"])),
    )


def _separation(entry: Mapping[str, Any]) -> SeparationFacts:
    layers, attacked = entry["last_layer"], entry["under_attack"] or {}
    return SeparationFacts(
        name=entry["name"],
        map=tuple(map(_layer, entry["map"])),
        last_layer={position: _estimates(_present(layer, LAST_LAYER)) for position, layer in layers.items()},
        doubts={
            position: tuple(layer.get("flags") or ([layer["why"]] if layer.get("why") else []))
            for position, layer in layers.items()
        },
        best_layer={position: _best_layer(best) for position, best in entry["best_layer"].items()},
        under_attack={
            name: _estimates({**numbers["by_attack"], "worst": numbers["worst"], "mean": numbers["mean"]})
            for name, numbers in attacked.items()
        },
    )


def _layer(entry: Mapping[str, Any]) -> LayerFacts:
    estimates = _estimates({name: entry[name] for name in ("bhattacharyya", "probe_auc")})
    return LayerFacts(entry["position"], entry["layer"], estimates, entry["why"] or "not measured")


def _best_layer(entry: Mapping[str, Any] | None) -> BestLayerFacts | None:
    return None if entry is None else BestLayerFacts(entry["layer"], _estimate(entry["bhattacharyya"]))


def _change(entry: Mapping[str, Any]) -> ChangeFacts:
    return ChangeFacts(
        before=entry["before"],
        after=entry["after"],
        position=entry["position"],
        estimates=_estimates(_present(entry, LAST_LAYER)),
        cosine=number(entry.get("cosine")),
    )


def _present(entry: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: entry[name] for name in names if name in entry}
