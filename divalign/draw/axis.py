"""Axes: from numbers to places on paper, and where the ticks go."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from divalign.draw.numbers import Form, significant


class Tick(NamedTuple):
    value: float
    label: str


class Axis(NamedTuple):
    """A stretch of numbers laid over a stretch of paper. What lies outside is drawn at the nearer end.

    `form` writes the numbers that are measured along it; ticks carry their own, rounder labels.
    """

    low: float
    high: float
    ticks: tuple[Tick, ...]
    log: bool = False
    form: Form = significant

    def at(self, value: float, start: float, end: float) -> float:
        """Return the place of `value` between `start` and `end`."""
        value = min(max(value, self.low), self.high)
        along = math.log if self.log else float
        share = (along(value) - along(self.low)) / (along(self.high) - along(self.low))
        return start + share * (end - start)


def linear(values: Iterable[float], *, about: int = 4, form: Form = significant) -> Axis:
    """Return an axis over `values` whose ends and ticks are round numbers (1, 2 or 5 times a power of ten)."""
    numbers = list(values)
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
    if high == low:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(index * step for index in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], _labelled(ticks, _short), form=form)


def logarithmic(values: Iterable[float], *, form: Form = significant) -> Axis:
    """Return a logarithmic axis over the positive `values`, from a power of ten to a power of ten.

    Zero and negative numbers have no place on it; `Axis.at` puts them at the low end.
    """
    numbers = [value for value in values if value > 0] or [1.0]
    first, last = math.floor(math.log10(min(numbers)) + 1e-9), math.ceil(math.log10(max(numbers)) - 1e-9)
    last = max(last, first + 1)
    stride = math.ceil((last - first) / 5)
    ticks = tuple(Tick(10.0**power, _power(power)) for power in range(first, last + 1, stride))
    return Axis(10.0**first, 10.0**last, ticks, log=True, form=form)


def _short(value: float) -> str:
    """Return a tick's label; very small and large numbers as 2e−4, for which a panel has room."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return significant(value)
    digits, power = f"{value:.1e}".split("e")
    return f"{float(digits):g}e{int(power)}".replace("-", "−")


def _power(power: int) -> str:
    return significant(10.0**power) if -4 < power < 6 else f"1e{power}".replace("-", "−")


def shares(form: Form) -> Axis:
    """Return the axis of a rate: 0 to 1 whatever the data, so that all panels compare."""
    return Axis(0.0, 1.0, _labelled((0.0, 0.25, 0.5, 0.75, 1.0), form), form=form)


def categories(names: Sequence[str]) -> Axis:
    """Return an axis on which each name lies at its number in the list."""
    return Axis(-0.5, len(names) - 0.5, tuple(Tick(float(index), name) for index, name in enumerate(names)))


def _labelled(values: Iterable[float], form: Form) -> tuple[Tick, ...]:
    return tuple(Tick(value, form(value)) for value in values)
