"""Models side by side: which pairs belong together, and when two rates differ.

Two rates differ only where their 95 % confidence intervals do not overlap; otherwise the change is "unclear". That is
stricter than a test at the 5 % level: it errs towards no change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from divalign.core.stats import Estimate
from divalign.draw.numbers import Form, percent
from divalign.report.facts import ModelFacts, PartFacts
from divalign.report.quantities import recipes
from divalign.report.words import data_short, listed

Get = Callable[[PartFacts], Estimate | None]
Change = Literal["lower", "higher", "unclear", "unknown"]
HALF = 0.5


def compare(after: Estimate | None, before: Estimate | None) -> Change:
    """Return "lower" or "higher" for intervals apart, "unclear" for overlapping, "unknown" for missing ones."""
    after_range, before_range = interval(after), interval(before)
    if after_range is None or before_range is None:
        return "unknown"
    if after_range[1] < before_range[0]:
        return "lower"
    return "higher" if after_range[0] > before_range[1] else "unclear"


def interval(estimate: Estimate | None) -> tuple[float, float] | None:
    """Return (low, high), or None where the estimate is undecided or has no interval."""
    if estimate is None or estimate.value is None or estimate.low is None or estimate.high is None:
        return None
    return estimate.low, estimate.high


def below_half(estimate: Estimate | None) -> bool:
    bounds = interval(estimate)
    return bounds is not None and bounds[1] < HALF


def above_half(estimate: Estimate | None) -> bool:
    bounds = interval(estimate)
    return bounds is not None and bounds[0] > HALF


def value(model: ModelFacts, get: Get) -> float | None:
    """Return a model's in-distribution number, None where it is undecided or not measured."""
    estimate = get(model.in_distribution)
    return None if estimate is None else estimate.value


def measured_models(models: Iterable[ModelFacts], get: Get) -> list[tuple[ModelFacts, float]]:
    """Return the models that have the number, each with it."""
    return [(model, number) for model in models if (number := value(model, get)) is not None]


class Contrast(NamedTuple):
    """One method's number on two data recipes; `change` is from the second to the first."""

    title: str
    first: float
    second: float
    change: Change


def contrasts(models: Sequence[ModelFacts], get: Get, first: str, second: str) -> list[Contrast]:
    """Return the methods (and seeds) that have the number on both data recipes, each with both."""
    second_models = {(model.method, model.seed): model for model in models if model.data == second}
    pairs = []
    for model in models:
        other = second_models.get((model.method, model.seed))
        if model.data == first and other is not None:
            first_value, second_value = value(model, get), value(other, get)
            if first_value is not None and second_value is not None:
                change = compare(get(model.in_distribution), get(other.in_distribution))
                pairs.append(Contrast(model.title, first_value, second_value, change))
    return pairs


def by_method(models: Sequence[ModelFacts]) -> list[list[ModelFacts]]:
    """Return the models grouped by method (and seed, where there are several), in order of the data recipes."""
    order = recipes(models)
    groups: dict[str, list[ModelFacts]] = {}
    for model in models:
        groups.setdefault(model.title, []).append(model)
    return [sorted(group, key=lambda m: order.index(m.data) if m.data else -1) for group in groups.values()]


def label(model: ModelFacts) -> str:
    """Return what prose calls a model: "kldo on CR"."""
    return f"{model.title} on {data_short(model.data)}" if model.data else model.title


def named(
    models: Sequence[ModelFacts],
    get: Get,
    *,
    name: Callable[[ModelFacts], str] = label,
    form: Form = percent,
    most: int = 5,
) -> str:
    """Return the models with their numbers, or how many and their range where they are more than `most`."""
    numbers = {model.name: number for model, number in measured_models(models, get)}
    if len(models) <= most:
        return listed(f"{name(m)} ({form(numbers[m.name])})" if m.name in numbers else name(m) for m in models)
    low, high = (form(end(numbers.values())) if numbers else "" for end in (min, max))
    span = f" ({low})" if low == high else f" ({low} to {high})"
    return f"{len(models)} models{span if numbers else ''}"
