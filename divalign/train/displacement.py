"""Likelihood displacement: the estimate rises while the model unlearns the aligned responses.

A divergence loss rewards a gap between aligned and unaligned responses, and both may become less likely as long as the
gap grows: the probability then goes to text that is neither. Two signs of it are looked for in every row of the log.
Source: Razin et al. 2024, arXiv 2410.08847; Pal et al. 2024, arXiv 2402.13228.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

FLOOR = -5.0  # nats of log(pi / pi_ref) of a whole aligned response: it has become 150 times less likely
REMEDY = "the model unlearns what it should learn: raise sft_weight or beta, or stop earlier"
ROUNDING = 0.01  # nats per token: half precision moves a mean by less


def displacement(log: Mapping[str, Any], *, beta: float) -> str | None:
    """Return what a row of the training log says of displacement, in one clause; None where it says nothing.

    Either the mean log(pi / pi_ref) = r / beta of the aligned responses is below -5 nats, or their negative
    log-likelihood per token on held-out rows is above the reference's.
    """
    for name in log:
        prefix = name.removesuffix("nll/chosen")
        if prefix == name:
            continue
        log_ratio = log[f"{prefix}rewards/chosen"] / beta
        if log_ratio < FLOOR:
            return f"log(pi / pi_ref) of the aligned responses is {log_ratio:.1f} nats, below {FLOOR:g}"
        nll, reference = log[name], log.get(f"{prefix}nll/chosen_reference")
        if reference is not None and nll > reference + ROUNDING:
            return (
                f"the negative log-likelihood of held-out aligned responses is {nll:.2f} nats a token, above the "
                f"reference's {reference:.2f}"
            )
    return None


def first_displacement(history: Iterable[Mapping[str, Any]], *, beta: float) -> str | None:
    """Return what the first row of a training log that shows displacement says, with its update; None without one."""
    for log in history:
        sign = displacement(log, beta=beta)
        if sign:
            return f"at update {log['step']} {sign}" if "step" in log else sign
    return None
