"""Models side by side: which pairs belong together, and what may be called a difference between two rates.

A difference is called one only where the two intervals do not overlap; all else is "unclear". That is stricter than
a test at 5 %: small changes are missed rather than invented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from divalign.core.stats import Estimate
from divalign.report.facts import Measures, Model
from divalign.report.words import Form, data_short, listed, percent

Get = Callable[[Measures], Estimate | None]
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


def value(model: Model, get: Get) -> float | None:
    """Return a model's held-in number, None where it is undecided or not measured."""
    estimate = get(model.held_in)
    return None if estimate is None else estimate.value


def known(models: Iterable[Model], get: Get) -> list[tuple[Model, float]]:
    """Return the models that have the number, each with it."""
    return [(model, number) for model in models if (number := value(model, get)) is not None]


class Contrast(NamedTuple):
    """One method's number on two data recipes; `change` is from the second to the first."""

    title: str
    first: float
    second: float
    change: Change


def contrasts(models: Sequence[Model], get: Get, first: str, second: str) -> list[Contrast]:
    """Return the methods (and seeds) that have the number on both data recipes, each with both."""
    others = {(model.method, model.seed): model for model in models if model.data == second}
    found = []
    for model in models:
        other = others.get((model.method, model.seed))
        if model.data == first and other is not None:
            one, two = value(model, get), value(other, get)
            if one is not None and two is not None:
                change = compare(get(model.held_in), get(other.held_in))
                found.append(Contrast(model.title, one, two, change))
    return found


def label(model: Model) -> str:
    """Return what prose calls a model: "kldo on CR"."""
    return f"{model.title} on {data_short(model.data)}" if model.data else model.title


def named(
    models: Sequence[Model], get: Get, *, name: Callable[[Model], str] = label, form: Form = percent, most: int = 5
) -> str:
    """Return the models with their numbers, or how many and their range where they are more than `most`."""
    numbers = {model.name: number for model, number in known(models, get)}
    if len(models) <= most:
        return listed(f"{name(m)} ({form(numbers[m.name])})" if m.name in numbers else name(m) for m in models)
    low, high = (form(end(numbers.values())) if numbers else "" for end in (min, max))
    span = f" ({low})" if low == high else f" ({low} to {high})"
    return f"{len(models)} models{span if numbers else ''}"
