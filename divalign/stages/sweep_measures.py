"""What a sweep measures of a model beside its run: separation under attack, and between benign topics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from divalign.core.separation import separation
from divalign.data.examples import Row
from divalign.records import AttackSeparation, BenignDistances, SeparationDraws, SweepMeasures, cached_record
from divalign.safety.adaptive import AdaptiveAttack
from divalign.safety.attacks import edited_contents, find_attack
from divalign.stages.folder import Progress
from divalign.stages.hidden import transformed_states
from divalign.stages.models import OpenModel
from divalign.stages.under_attack import MEASURES, draws_under_attack, inside_openings, summary
from divalign.store import digest


def measure_extras(
    model: OpenModel,
    prompts: Sequence[Row],
    attacks: Sequence[str],
    folder: Path,
    *,
    draws: int,
    batch_size: int,
    progress: Progress,
) -> SweepMeasures:
    """Return a model's separation under attack and between benign topics, on topics of the training data.

    The attacks are the named ones, prefills word by word, and the plain prompt is among them; those that adapt to the
    target are no single conversation and have no states. Draws are those of D_B, direct and at its worst under attack,
    for a bootstrap over models on the same resampled prompts.
    """
    in_distribution = [row for row in prompts if not row["held_out"]]
    entries = {name: find_attack(name) for name in ("direct", *attacks)}
    transforms = inside_openings({n: entry for n, entry in entries.items() if not isinstance(entry, AdaptiveAttack)})
    key = digest("extras", 4, model.key, in_distribution, [*transforms, *edited_contents(entries)], draws)

    def make() -> SweepMeasures:
        states = transformed_states(model, in_distribution, transforms, None, batch_size=batch_size, progress=progress)
        return _measures(states, in_distribution, draws)

    return cached_record(folder / "extras.json", key, SweepMeasures, make)


def _measures(states: Mapping[str, np.ndarray], prompts: Sequence[Row], draws: int) -> SweepMeasures:
    by_measure = {name: draws_under_attack(states, prompts, measure=name, draws=draws) for name in MEASURES}
    summaries = {name: summary(values, prompts, name) for name, values in by_measure.items()}
    distances = by_measure["bhattacharyya"]
    return SweepMeasures(
        under_attack={name: AttackSeparation(**result._asdict()) for name, result in summaries.items()},
        benign_against_benign=_benign_distances(states["direct"], prompts),
        draws=SeparationDraws(direct=_rounded(distances["direct"]), worst=_rounded(distances["worst"])),
    )


def _benign_distances(states: np.ndarray, prompts: Sequence[Row]) -> BenignDistances:
    """Return the distance between two halves of the benign topics: what any model that distinguishes topics shows.

    Here a topic's wordings may be fitted on and tested on, or no distance would be left.
    """
    topics = sorted({row["cluster"] for row in prompts if not row["harmful"]})
    first = set(topics[::2])
    halves: list[list[int]] = [[], []]
    for place, row in enumerate(prompts):
        if not row["harmful"]:
            halves[row["cluster"] in first].append(place)
    pair = states[halves[0]], states[halves[1]]
    try:
        paper = separation(*pair, mode="paper", draws=2).bhattacharyya.value
        held_out = separation(*pair, draws=2, null_draws=0).bhattacharyya.value
    except ValueError:
        return BenignDistances(bhattacharyya_paper=None, bhattacharyya=None)
    return BenignDistances(bhattacharyya_paper=paper, bhattacharyya=held_out)


def _rounded(values: np.ndarray | None) -> list[float] | None:
    return None if values is None else np.round(values, 4).tolist()
