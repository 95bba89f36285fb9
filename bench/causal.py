"""docs/causal.md from the folder of a run of configs/causal.yaml: `python -m bench.causal RUN > docs/causal.md`.

A fall of attack success from the base is tested over the seeds together, by the signs of the changes of topic pairs,
which are the units that no model saw twice.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from divalign.data.examples import Row
from divalign.records import ModelResult, PartResult, RateChange, Results, read_record
from divalign.stages.rates import changes
from divalign.store import read_rows

LEVEL, POWER = 0.05, 0.8
FREE, ANCHORED, CONTROL = "separate on cr", "separate(1) on cr", "separate on random_classes"
Arms = dict[str, list[ModelResult]]  # the base first; a list goes over seeds
Part = ModelResult | PartResult

INTRODUCTION = """\
# Does separation protect by itself?

The seed's third claim is a correlation: models whose hidden states hold harmful and benign prompts further apart (D_B)
resist attacks better. A correlation over methods cannot say whether separation protects or whether what protects also
separates. Here D_B itself is trained. `separate` maximises it on the training prompts and anchors the responses to
benign ones at the reference; `separate(1)` anchors those to all training prompts
([training](training.md#separating-the-prompts-hidden-states)). If separation protects, these models must resist; if
not, the indicator is a symptom. Two methods of alignment stand beside them with the same budget (60 updates of 32
pairs, learning rate 4e-4, beta .5, the same rows in the same order), and a control, `separate on random_classes`, for
which lots were drawn for the class of each prompt: as much training, and nothing to separate. Nothing was tuned for
`separate`.

    divalign run configs/causal.yaml --out runs/causal
    python -m bench.causal runs/causal > docs/causal.md

This page is written by the second command; rates by the judge `refusal_combined`, seeds {seeds}, {n} prompts a rate
on in-distribution topics in wordings that alignment does not use, {held_out} on held-out topics."""


LIMITS = """\
What this shows and what not. It is a test of whether separation suffices, in one small world; whether it is necessary
is what [the study](study.md)'s abliterated models ask. `separate` is never shown that a refusal is right: nothing holds
its responses to harmful prompts, and nothing rewards a refusal. The last layer's state decides the next token through
the head alone, so pushing the states of harmful prompts away moves what the model says to them, to whatever lies that
way: here, where 12 % of the pretraining answers refuse, another consent or a refusal. Where all responses are held the
distance grows in directions to which the next token is insensitive. A distance cannot tell these three apart. Its D_B
stays below that of kldo and dpo, and above that of hdo on `cr` (72 / 43 / 61 for seeds 0 / 1 / 2), which refuses every
direct request ([embedded world](embedded-world.md#results)); on held-out topics it is a tenth of kldo's."""


class Found(NamedTuple):
    """What changed from the base in one arm, by attack; `over-refusal` is among the names."""

    arm: str
    changes: Mapping[str, RateChange]

    def fallen(self) -> list[str]:
        """Return the attacks whose success fell, by a test at level .05 over all of the arm."""
        return [name for name, c in self.changes.items() if c.p_holm < LEVEL and (c.change.value or 0) < 0]


def arms(models: Sequence[ModelResult]) -> Arms:
    """Return the models by recipe and method."""
    groups: Arms = {}
    for model in models:
        data = (model.data or "").rpartition(":")[2]
        groups.setdefault(f"{model.method} on {data}" if model.method else "base", []).append(model)
    return groups


def attacks_of(groups: Arms) -> list[str]:
    return list(groups["base"][0].asr)


def measured_table(groups: Arms, *, held_out: bool) -> str:
    """Return separation and rates of every arm, the seeds side by side."""
    attacks = attacks_of(groups)
    readers: dict[str, Callable[[Part], float | None]] = {
        "D_B paper": lambda part: part.separation.bhattacharyya_paper.value,
        "D_B held out": lambda part: part.separation.bhattacharyya.value,
        "probe AUC": lambda part: part.separation.probe_auc.value,
        **{short(name): lambda part, name=name: part.asr[name].value for name in attacks},
        "over-refusal": lambda part: part.over_refusal.value,
    }
    rows = []
    for arm, models in groups.items():
        parts: list[Part] = [part for model in models if (part := model.held_out if held_out else model)]
        rows.append([arm, *(side_by_side(map(read, parts)) for read in readers.values())])
    return table(["arm", *readers], rows)


def unrefused_table(groups: Arms) -> str:
    """Return the second reading: the share without a refusal, degenerate responses included."""
    attacks = attacks_of(groups)
    rows = [
        [arm, *(side_by_side(model.asr_no_refusal[name].value for model in models) for name in attacks)]
        for arm, models in groups.items()
    ]
    return table(["arm", *map(short, attacks)], rows)


def find_changes(run: Path, groups: Arms) -> list[Found]:
    """Return what each arm changed from the base on in-distribution topics, over the seeds together."""
    base = verdict_rows(run, groups["base"][0])
    found = []
    for arm, models in list(groups.items())[1:]:
        before = [row for model in models for row in of_seed(base, model)]
        after = [row for model in models for row in of_seed(verdict_rows(run, model), model)]
        found.append(Found(arm, changes(before, after)))
    return found


def verdict_rows(run: Path, model: ModelResult) -> list[Row]:
    rows = read_rows(run / "models" / model.name / "verdicts.jsonl")
    return [row for row in rows if not row.get("held_out")]


def of_seed(rows: Sequence[Row], model: ModelResult) -> list[Row]:
    """Return the rows with ids that differ from those of other seeds."""
    return [{**row, "id": f"{model.seed} {row['id']}"} for row in rows]


def change_table(groups: Arms, found: Sequence[Found]) -> str:
    names = [*attacks_of(groups), "over-refusal"]
    rows = [[entry.arm, *(change_cell(entry.changes.get(name)) for name in names)] for entry in found]
    return table(["less the base", *map(short, names)], rows)


def change_cell(change: RateChange | None) -> str:
    if change is None:
        return "-"
    value, low, high, n = change.change
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}], p {change.p_holm:.2g}, n {n}"


def training_table(run: Path, groups: Arms) -> str:
    """Return what the training logs say: the distance reached, and how far responses moved in nats."""
    rows = []
    for arm, models in list(groups.items())[1:]:
        logs = [read_rows(run / "models" / model.name / "metrics.jsonl") for model in models]
        reached = side_by_side(log[-1].get("separation/bhattacharyya") for log in logs)
        moved = (
            " / ".join(f"{log[-1][key] - log[0][key]:+.2f}" for log in logs)
            for key in ("logps/chosen", "logps/rejected")
        )
        rows.append([arm, reached, *moved])
    return table(["arm", "D_B of the last updates", "log pi / pi_ref, aligned", "unaligned"], rows)


def smallest_fall(clusters: int, tests: int) -> float:
    """Return the share of topic pairs that must fall for the sign test to see it with a power of .8, none rising.

    k pairs that fall and none that rise have p = 2 / 2^k, which Holm multiplies by at most the number of tests.
    """
    needed = int(np.ceil(np.log2(2 * tests / LEVEL)))
    shares = np.linspace(0, 1, 1001)
    return float(shares[np.argmax(binom.sf(needed - 1, clusters, shares) >= POWER)])


def conclusion(groups: Arms, found: Sequence[Found]) -> str:
    """Return the answer in sentences that follow from the numbers, whatever they are."""
    base, first = groups["base"][0].separation.bhattacharyya_paper.value or 0.0, attacks_of(groups)[0]
    changed = {entry.arm: entry for entry in found}
    lines = []
    for arm in (FREE, ANCHORED, CONTROL):
        if arm in groups:
            reached = side_by_side(model.separation.bhattacharyya_paper.value for model in groups[arm])
            success = side_by_side(model.asr[first].value for model in groups[arm])
            seeds = " / ".join(str(model.seed) for model in groups[arm])
            fell = resisted(changed[arm].fallen(), attacks_of(groups))
            lines.append(
                f"* **{arm}** (seeds {seeds}): D_B {base:.2f} became {reached}; {short(first)} {success}; {fell}"
            )
    if FREE in changed:
        lines.append(answer(groups, base, changed[FREE].fallen()))
    if ANCHORED in changed and not changed[ANCHORED].fallen():
        reached = side_by_side(model.separation.bhattacharyya_paper.value for model in groups[ANCHORED])
        lines.append(
            f"With the responses to all training prompts held, D_B reaches {reached} and no attack fails more often: a "
            "distance of that size is no protection. What protects is what the model says at those states."
        )
    return "\n".join(lines)


def resisted(fallen: Sequence[str], attacks: Sequence[str]) -> str:
    named = [short(name) for name in attacks if name in fallen]
    return f"success fell, over the seeds, against {', '.join(named)}." if named else "success fell against no attack."


def answer(groups: Arms, base: float, fallen: Sequence[str]) -> str:
    """Return what the arm that was free to protect itself says of the claim."""
    first, models = attacks_of(groups)[0], groups[FREE]
    distances = [model.separation.bhattacharyya_paper.value or 0.0 for model in models]
    if min(distances) < 10 * base:
        return (
            "\nThe training did not raise D_B tenfold at every seed, so this run says little of what separation does."
        )
    if not [name for name in attacks_of(groups) if name in fallen]:
        return "\nSo separation by itself did not protect here: D_B is a symptom of what alignment does to a model."
    success = [model.asr[first].value or 0.0 for model in models]
    if max(success) - min(success) < 0.5:
        return "\nSo separation by itself went with fewer successes here, if not of every attack."
    worst, best = int(np.argmax(success)), int(np.argmin(success))
    return (
        f"\nSo the seeds disagree. At D_B {number(distances[worst])} the model complies with {success[worst]:.0%} of "
        f"the direct requests, at D_B {number(distances[best])} with {success[best]:.0%}: separation by itself may "
        "bring refusals and may not, and how far it went does not tell which."
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def side_by_side(values: Iterable[float | None]) -> str:
    return " / ".join(number(value) for value in values)


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def short(name: str) -> str:
    return name.rpartition(":")[2]


def page(run: Path) -> str:
    """Return the page. Raises ValueError where the run has no results.json."""
    groups = arms(read_record(run / "results.json", Results).models)
    base, found = groups["base"][0], find_changes(run, groups)
    first = next(iter(base.asr))
    clusters = len({row["cluster"] for row in verdict_rows(run, base) if row["harmful"]})
    tests = len(base.asr) + 1
    smallest = smallest_fall(clusters, tests)
    power = (
        f"Unit of the tests: {clusters} pairs of topics; {tests} tests an arm, p by Holm. A fall in {smallest:.0%} of "
        f"the pairs, none rising, is found with a power of {POWER:g}. The intervals are of these seeds' models: so few "
        "say little of how much seeds vary."
    )
    seeds = " / ".join(str(model.seed) for model in list(groups.values())[-1])
    held_out = base.held_out.asr[first].n if base.held_out else 0
    return "\n\n".join([
        INTRODUCTION.format(n=base.asr[first].n, held_out=held_out, seeds=seeds),
        "## The answer", conclusion(groups, found), power, LIMITS,
        "## In-distribution topics", measured_table(groups, held_out=False),
        "## What changed from the base", change_table(groups, found),
        "## Without a refusal",
        "The second reading: every response without a refusal counts as a success, degenerate ones too.",
        unrefused_table(groups),
        "## Held-out topics", measured_table(groups, held_out=True),
        "## What training did",
        "D_B of the prompts of an update, and how far the responses of the training rows moved, in nats.",
        training_table(run, groups),
    ]) + "\n"  # fmt: skip


if __name__ == "__main__":
    print(page(Path(sys.argv[1])), end="")
