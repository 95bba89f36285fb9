"""Names, estimates and lists as a reader sees them."""

from __future__ import annotations

import re

from divalign.core.divergences import scale
from divalign.core.stats import Estimate
from divalign.draw.numbers import PERCENT, Form, percent

UNDECIDED = "undecided"
NOT_MEASURED = "not measured"
DATA = {"cr": "compliance-refusal", "pref": "preference", "cr_plus": "augmented compliance-refusal"}
DATA_SHORT = {"cr": "CR", "pref": "pref", "cr_plus": "CR+"}


def p_value(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def data_words(recipe: str | None) -> str:
    """Return a data recipe in full: "preference (pref) data"."""
    return f"{DATA[recipe]} ({DATA_SHORT[recipe]}) data" if recipe in DATA else f"{recipe} data"


def data_short(recipe: str | None) -> str:
    return DATA_SHORT.get(recipe or "", recipe or "")


def attack_words(attack: str) -> str:
    """Return an attack's name as prose; of one's own "pkg.module:thing" the thing."""
    own = re.fullmatch(r"[\w.]+:(\w+)", attack)
    return (own[1] if own else attack).replace("_", " ")


def divergence_words(name: str, upper: float | None) -> str:
    """Return a divergence's name with its scale, "js (of 1.386)"; the name alone where it has no upper bound."""
    return name if upper is None else f"{name} ({scale(upper)})"


def missing(estimate: Estimate | None) -> str:
    """Return what stands in the place of a number that is not there."""
    return NOT_MEASURED if estimate is None else UNDECIDED


def spelled(estimate: Estimate | None, form: Form = percent) -> str:
    """Return an estimate with its interval and count in one line, for titles and text alternatives."""
    if estimate is None:
        return NOT_MEASURED
    if estimate.value is None:
        return f"{UNDECIDED} (n = {estimate.n})"
    interval = bounds(estimate, form)
    details = [f"95{PERCENT} CI {interval}"] if interval else []
    details += [f"n = {estimate.n}"] if estimate.n else []
    return f"{form(estimate.value)} ({', '.join(details)})" if details else form(estimate.value)


def bounds(estimate: Estimate, form: Form = percent) -> str:
    """Return "low to high", or nothing where there is no interval to state."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return ""
    low, high = form(estimate.low), form(estimate.high)
    return f"{low.removesuffix(PERCENT)} to {high}"
