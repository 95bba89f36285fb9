"""Models side by side: when two rates differ, and which models belong together.

Two rates differ only where their 95 % confidence intervals do not overlap; otherwise the change is "unclear". That is
stricter than a test at the 5 % level: it errs towards no change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from divalign.core.stats import Estimate
from divalign.report.facts import ModelFacts, PartFacts
from divalign.report.words import data_short

Get = Callable[[PartFacts], Estimate | None]
Change = Literal["lower", "higher", "unclear", "unknown"]


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


def value(model: ModelFacts, get: Get) -> float | None:
    """Return a model's in-distribution number, None where it is undecided or not measured."""
    estimate = get(model.in_distribution)
    return None if estimate is None else estimate.value


def measured_models(models: Iterable[ModelFacts], get: Get) -> list[tuple[ModelFacts, float]]:
    """Return the models that have the number, each with it."""
    return [(model, number) for model in models if (number := value(model, get)) is not None]


def label(model: ModelFacts) -> str:
    """Return what prose calls a model: "kldo on CR"."""
    return f"{model.title} on {data_short(model.data)}" if model.data else model.title
