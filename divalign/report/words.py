"""Numbers and names as a reader sees them. Rounding never turns something into nothing, nor nearly all into all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from divalign.core.stats import Estimate

Form = Callable[[float], str]
PERCENT = "\N{NO-BREAK SPACE}%"
UNDECIDED = "undecided"
NOT_MEASURED = "not measured"
DATA = {"cr": "compliance-refusal", "pref": "preference", "cr_plus": "augmented compliance-refusal"}
DATA_SHORT = {"cr": "CR", "pref": "pref", "cr_plus": "CR+"}


def percent(share: float) -> str:
    """Return a share as a percentage: 0 % only for exactly 0, 100 % only for exactly 1."""
    for decimals in (0, 1):
        text = f"{100 * share:.{decimals}f}"
        if (float(text) == 0) == (share == 0) and (float(text) == 100) == (share == 1):
            return f"{text}{PERCENT}"
    return f"<0.1{PERCENT}" if share < 0.5 else f">99.9{PERCENT}"


def significant(value: float, digits: int = 3) -> str:
    """Return a number to three significant digits, without an exponent where it stays readable."""
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-3:
        text = f"{value:.{digits - 1}e}"
    else:
        text = f"{value:,.0f}" if size >= 100 else f"{value:.{digits}g}"
    return text.replace("-", "−")


def share(value: float) -> str:
    """Return a number in [0, 1] that is no percentage, such as an AUC, to three decimals."""
    text = f"{value:.3f}"
    if abs(value) < 1 and text.endswith("1.000"):
        text = ">0.999" if value > 0 else "<-0.999"
    return significant(value) if 0 < abs(value) < 5e-4 else text.replace("-", "−")


def p_value(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def listed(words: Iterable[str]) -> str:
    """Join words as prose does: "a, b and c"."""
    *rest, last = words
    return f"{', '.join(rest)} and {last}" if rest else last


def data_words(recipe: str | None) -> str:
    """Return a data recipe in full: "preference (pref) data"."""
    return f"{DATA[recipe]} ({DATA_SHORT[recipe]}) data" if recipe in DATA else f"{recipe} data"


def data_short(recipe: str | None) -> str:
    return DATA_SHORT.get(recipe or "", recipe or "")


def attack_words(attack: str) -> str:
    """Return an attack's name as prose; of one's own "pkg.module:thing" the thing."""
    own = re.fullmatch(r"[\w.]+:(\w+)", attack)
    return (own[1] if own else attack).replace("_", " ")


def spelled(estimate: Estimate | None, form: Form = percent) -> str:
    """Return an estimate with its interval and count in one line, for titles and text alternatives."""
    if estimate is None:
        return NOT_MEASURED
    if estimate.value is None:
        return f"{UNDECIDED} (n = {estimate.n})"
    interval = bounds(estimate, form)
    details = [f"interval {interval}"] if interval else []
    details += [f"n = {estimate.n}"] if estimate.n else []
    return f"{form(estimate.value)} ({', '.join(details)})" if details else form(estimate.value)


def bounds(estimate: Estimate, form: Form = percent) -> str:
    """Return "low to high", or nothing where there is no interval to state."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return ""
    low, high = form(estimate.low), form(estimate.high)
    return f"{low.removesuffix(PERCENT)} to {high}"
