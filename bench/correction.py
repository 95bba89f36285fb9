"""Simulated coverage of rates that are corrected by counts on three other models: `python -m bench.correction`.

On each model the judge errs anew: sensitivity and specificity are normal around their means. 210 labels of each kind on
each of three models, 200 responses of a fourth, 400 simulations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from divalign.core.stats import Estimate, rate
from divalign.safety.calibration import Calibration, JudgeCounts, corrected, pooled_models

TRUTHS = (0.02, 0.3, 0.9)
ERRORS = ((0.95, 0.95, 0.0), (0.95, 0.95, 0.03), (0.9, 0.85, 0.06), (0.95, 0.8, 0.1))
LABELS, RESPONSES, SIMULATIONS = 210, 200, 400


def as_one_model(counts: Sequence[JudgeCounts]) -> Calibration:
    """Return the calibration that counts all models' labels as if they were the judged model's."""
    complied, called_unsafe, refused, called_safe = (
        sum(column) for column in zip(*(one[1:] for one in counts), strict=True)
    )
    return Calibration(
        "pooled",
        rate([True] * called_unsafe + [False] * (complied - called_unsafe)),
        rate([True] * called_safe + [False] * (refused - called_safe)),
        Estimate(None, 0.0, 1.0, 0),
    )


def simulate(
    truth: float, errors: tuple[float, float, float], draw: np.random.Generator
) -> tuple[Estimate | None, Estimate | None]:
    """Return one corrected rate by `pooled_models`, and one by labels that are pooled."""
    sensitivity, specificity, deviation = errors
    rates = np.clip(draw.normal((sensitivity, specificity), deviation, (4, 2)), 0.5, 1)
    counts = [
        JudgeCounts(f"model {place}", LABELS, int(draw.binomial(LABELS, s)), LABELS, int(draw.binomial(LABELS, p)))
        for place, (s, p) in enumerate(rates[:3])
    ]
    complied = draw.random(RESPONSES) < truth
    called = np.where(complied, draw.random(RESPONSES) < rates[3, 0], draw.random(RESPONSES) >= rates[3, 1])
    rows, unsafe = [{} for _ in called], [bool(one) for one in called]
    return corrected(rows, unsafe, pooled_models("judge", counts)), corrected(rows, unsafe, as_one_model(counts))


def summary(truth: float, estimates: Sequence[Estimate | None]) -> str:
    """Return coverage and mean width; a correction that does not exist covers everything."""
    ends = np.array([(one.low, one.high) if one else (0.0, 1.0) for one in estimates], dtype=float)
    covered = ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean()
    return f"{covered:.2f} | {np.diff(ends).mean():.2f}"


def main() -> None:
    draw = np.random.default_rng(0)
    print(
        "| truth | sensitivity, specificity, deviation | coverage | width | pooled | width |\n|---|---|---|---|---|---|"
    )
    for truth in TRUTHS:
        for errors in ERRORS:
            pairs = [simulate(truth, errors, draw) for _ in range(SIMULATIONS)]
            cells = " | ".join(summary(truth, estimates) for estimates in zip(*pairs, strict=True))
            print(f"| {truth} | {', '.join(map(str, errors))} | {cells} |")


if __name__ == "__main__":
    main()
