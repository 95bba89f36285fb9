"""Tables of docs/causal.md from the folder of a run of configs/causal.yaml: `python -m bench.causal RUN`.

A fall of attack success from the base is tested over the seeds together, by the signs of the changes of topic pairs,
which are the units that no model saw twice.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import binom

from divalign.data.examples import Row
from divalign.records import ModelResult, PartResult, RateChange, Results, read_record
from divalign.stages.rates import changes
from divalign.store import read_rows

LEVEL, POWER = 0.05, 0.8


def arms(models: Sequence[ModelResult]) -> dict[str, list[ModelResult]]:
    """Return the models by recipe and method, the base first; the list goes over seeds."""
    groups: dict[str, list[ModelResult]] = {}
    for model in models:
        data = (model.data or "").rpartition(":")[2]
        groups.setdefault(f"{model.method} on {data}" if model.method else "base", []).append(model)
    return groups


def measured_table(groups: dict[str, list[ModelResult]], *, held_out: bool) -> str:
    """Return separation and rates of every arm, the seeds side by side."""
    attacks = list(next(iter(groups.values()))[0].asr)
    lines = [line("arm", "D_B paper", "D_B held out", "probe AUC", *map(short, attacks), "over-refusal")]
    lines.append("|---" * (len(attacks) + 5) + "|")
    for name, models in groups.items():
        parts = [part for model in models if (part := model.held_out if held_out else model)]
        columns = [
            [part.separation.bhattacharyya_paper.value for part in parts],
            [part.separation.bhattacharyya.value for part in parts],
            [part.separation.probe_auc.value for part in parts],
            *([part.asr[attack].value for part in parts] for attack in attacks),
            [part.over_refusal.value for part in parts],
        ]
        lines.append(line(name, *(" / ".join(number(value) for value in column) for column in columns)))
    return "\n".join(lines)


def garbled_table(groups: dict[str, list[ModelResult]]) -> str:
    """Return the second reading: the share without a refusal, degenerate responses included."""
    attacks = list(next(iter(groups.values()))[0].asr)
    lines = [line("arm", *map(short, attacks)), "|---" * (len(attacks) + 1) + "|"]
    for name, models in groups.items():
        cells = (" / ".join(number(model.asr_no_refusal[attack].value) for model in models) for attack in attacks)
        lines.append(line(name, *cells))
    return "\n".join(lines)


def change_table(run: Path, groups: dict[str, list[ModelResult]]) -> str:
    """Return what each arm changed from the base, by attack, over the seeds together."""
    base = read_rows(run / "models" / "base" / "verdicts.jsonl")
    lines, attacks = [], [*next(iter(groups.values()))[0].asr, "over-refusal"]
    lines += [line("arm less base", *map(short, attacks)), "|---" * (len(attacks) + 1) + "|"]
    for name, models in list(groups.items())[1:]:
        before = [row for model in models for row in of_seed(base, model)]
        after = [
            row for model in models for row in of_seed(read_rows(run / "models" / model.name / "verdicts.jsonl"), model)
        ]
        found = changes(before, after)
        lines.append(line(name, *(change_cell(found.get(attack)) for attack in attacks)))
    return "\n".join(lines)


def of_seed(rows: Sequence[Row], model: ModelResult) -> list[Row]:
    """Return the rows of in-distribution topics, told apart from those of other seeds."""
    return [{**row, "id": f"{model.seed} {row['id']}"} for row in rows if not row.get("held_out")]


def change_cell(change: RateChange | None) -> str:
    if change is None:
        return "-"
    value, low, high, n = change.change
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}], p {change.p_holm:.2g}, n {n}"


def smallest_found(clusters: int, tests: int) -> float:
    """Return the share of topic pairs that must fall for the sign test to see it with a power of .8, all falling.

    k pairs that fall and none that rise have p = 2 / 2^k, which Holm multiplies by at most the number of tests.
    """
    needed = int(np.ceil(np.log2(2 * tests / LEVEL)))
    shares = np.linspace(0, 1, 1001)
    return float(shares[np.argmax(binom.sf(needed - 1, clusters, shares) >= POWER)])


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def short(name: str) -> str:
    return name.rpartition(":")[2]


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def drift_table(run: Path, groups: dict[str, list[ModelResult]]) -> str:
    """Return what the training logs say: the distance reached, and how far responses moved in nats."""
    lines = [line("arm", "D_B of the last steps", "log pi / pi_ref, aligned", "unaligned"), "|---" * 4 + "|"]
    for name, models in list(groups.items())[1:]:
        logs = [read_rows(run / "models" / model.name / "metrics.jsonl") for model in models]
        reached = " / ".join(number(log[-1].get("separation/bhattacharyya")) for log in logs)
        moved = (
            " / ".join(f"{log[-1][key] - log[0][key]:+.2f}" for log in logs)
            for key in ("logps/chosen", "logps/rejected")
        )
        lines.append(line(name, reached, *moved))
    return "\n".join(lines)


def main() -> None:
    run = Path(sys.argv[1])
    results = read_record(run / "results.json", Results)
    groups = arms(results.models)
    base: PartResult | ModelResult = results.models[0]
    clusters = len({row["cluster"] for row in read_rows(run / "data" / "prompts.jsonl") if not row["held_out"]})
    tests = len(base.asr) + 1
    print(f"## In-distribution topics\n\n{measured_table(groups, held_out=False)}\n")
    print(f"## Held-out topics\n\n{measured_table(groups, held_out=True)}\n")
    print(f"## Without a refusal\n\n{garbled_table(groups)}\n")
    print(f"## Changes\n\n{change_table(run, groups)}\n")
    print(f"## Training\n\n{drift_table(run, groups)}\n")
    print(f"{clusters} topic pairs, {tests} tests an arm: power .8 for a fall in {smallest_found(clusters, tests):.3f}")


if __name__ == "__main__":
    main()
