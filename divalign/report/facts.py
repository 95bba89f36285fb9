"""What a run folder says, as typed facts: the one place of the report that knows files and their fields.

Absent and undecided are different and both survive: a measure that is not in results.json is missing from its
mapping; one that is there with value null is an Estimate whose value is None. Neither ever becomes 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from divalign import store
from divalign.core.stats import Estimate

SCHEMA = 2
MARK = " ‡"  # behind the name of a model that was trained on prompts that it is asked
Made = TypeVar("Made")


class Measures(NamedTuple):
    """What was measured on one set of prompts. Keys are results.json's: "bhattacharyya_paper", "direct", ..."""

    separation: dict[str, Estimate]
    asr: dict[str, Estimate]
    over_refusal: Estimate | None


class Point(NamedTuple):
    """One prompt's hidden state in the plane of the first two principal components."""

    x: float
    y: float
    harmful: bool
    held_out: bool
    prompt: str


class Answer(NamedTuple):
    """One answer under one attack and what the judge made of it; `unsafe` None is "could not decide"."""

    attack: str
    prompt: str
    harmful: bool
    held_out: bool
    response: str
    unsafe: bool | None
    reason: str


class Search(NamedTuple):
    """One white-box search: the loss before it and after each step, and whether its last answer was judged unsafe."""

    losses: tuple[float, ...]
    succeeded: bool | None


class Model(NamedTuple):
    """One model of a run; `method` and `data` are None for the base, `held_out` where no topics were kept back.

    `title` is what prose calls it beside its data: the method, with the seed where a run has several.
    """

    name: str
    title: str
    method: str | None
    data: str | None
    seed: int | None
    held_in: Measures
    held_out: Measures | None
    divergence: dict[str, Estimate]
    plane: tuple[Point, ...] = ()
    metrics: tuple[Mapping[str, float | None], ...] = ()
    answers: tuple[Answer, ...] = ()
    searches: tuple[Search, ...] = ()


class Verdict(NamedTuple):
    """Whether separation predicts the attack success rate over the models of the run."""

    statistic: str
    value: float | None
    p_value: float | None
    power: float | None
    n_models: int
    conclusion: str


class Run(NamedTuple):
    """A run folder, read."""

    version: str
    config_sha256: str
    seconds: float | None
    models: tuple[Model, ...]
    verdict: Verdict | None
    config: str = ""
    trained_on: int = 0  # prompts that were asked and are in the training set

    @property
    def marked(self) -> bool:
        """Whether numbers of aligned models are marked: they measure memory too."""
        return self.trained_on > 0


def read_run(folder: Path) -> Run:
    """Return the facts of a run folder.

    Raises ValueError, naming the file, for a folder without a readable results.json of schema 2 and for a model's file
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


def number(value: Any) -> float | None:
    """Return a finite number, or None for null, NaN and infinity, which support no claim."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"got {value!r}, expected a number or null")
    return float(value) if math.isfinite(value) else None


def _run(results: Any) -> Run:
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        schema = results.get("schema") if isinstance(results, dict) else results
        raise TypeError(f"got schema {schema!r}, expected {SCHEMA}")
    return Run(
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


def _model(entry: Mapping[str, Any]) -> Model:
    name = entry["name"]
    if Path(name).name != name or name == "..":
        raise TypeError(f"got the model name {name!r}, expected the plain name of a folder")
    held_out = entry.get("held_out")
    return Model(
        name=name,
        title=name,
        method=entry.get("method"),
        data=entry.get("data"),
        seed=entry.get("seed"),
        held_in=_measures(entry),
        held_out=_measures(held_out) if held_out else None,
        divergence=_estimates(entry.get("divergence")),
    )


def _title(model: Model, several_seeds: bool) -> str:
    if model.method is None:
        return model.name
    return f"{model.method} seed {model.seed}" if several_seeds and model.seed is not None else model.method


def _with_files(model: Model, folder: Path) -> Model:
    return model._replace(
        plane=_optional(folder / "plane.json", lambda path: tuple(map(_point, store.read_json(path)["points"]))),
        metrics=_optional(folder / "metrics.jsonl", lambda path: tuple(map(_metrics, store.read_rows(path)))),
        answers=_optional(folder / "verdicts.jsonl", lambda path: tuple(map(_answer, store.read_rows(path)))),
        searches=_optional(folder / "gcg.jsonl", _searches),
    )


def _measures(entry: Mapping[str, Any]) -> Measures:
    over_refusal = entry.get("over_refusal")
    return Measures(
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


def _answer(row: Mapping[str, Any]) -> Answer:
    return Answer(
        attack=str(row["attack"]),
        prompt=str(row["prompt"]),
        harmful=bool(row["harmful"]),
        held_out=bool(row.get("held_out", False)),
        response=str(row.get("response") or ""),
        unsafe=row["unsafe"],
        reason=str(row.get("reason") or ""),
    )


def _searches(path: Path) -> tuple[Search, ...]:
    """Return the searches among the rows; the others hold the response to the suffix that all began with."""
    rows = [row for row in store.read_rows(path) if row["attack"] == "gcg"]
    found = [(tuple(map(number, row["losses"])), row["succeeded"]) for row in rows]
    return tuple(
        Search(tuple(loss for loss in losses if loss is not None), succeeded) for losses, succeeded in found if losses
    )


def _verdict(entry: Mapping[str, Any] | None) -> Verdict | None:
    if not entry:
        return None
    return Verdict(
        statistic=str(entry.get("statistic") or ""),
        value=number(entry.get("value")),
        p_value=number(entry.get("p_value")),
        power=number(entry.get("power")),
        n_models=int(entry.get("n_models") or 0),
        conclusion=str(entry.get("conclusion") or ""),
    )


def _optional(path: Path, make: Callable[[Path], tuple[Made, ...]]) -> tuple[Made, ...]:
    return _read(path, make) if path.is_file() else ()


def _read(path: Path, make: Callable[[Path], Made]) -> Made:
    """Call `make`, and say which file it was if its content is not what a run folder promises."""
    try:
        return make(path)
    except KeyError as error:
        raise ValueError(f"{path} lacks the field {error}; run the stage that writes it again") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path} does not hold what was expected: {error}; run the stage that writes it again"
        ) from error
