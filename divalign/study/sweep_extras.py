"""What a sweep measures of a model beside its run: separation under attack, and of benign topics from benign ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from divalign.config import Config
from divalign.core.separation import separation
from divalign.data.examples import Row
from divalign.records import AttackSeparation
from divalign.safety.attacks import find_single_shot
from divalign.stages.folder import Progress
from divalign.stages.hidden import transformed_states
from divalign.stages.models import OpenModel
from divalign.stages.under_attack import MEASURES, draws_under_attack, inside_openings, summary
from divalign.store import cached_json, digest


def extras(
    model: OpenModel, prompts: Sequence[Row], config: Config, draws: int, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Return "under_attack", "benign_against_benign" and "draws" of a model, on topics of the training data.

    The attacks are the run's, prefills word by word, and the plain prompt is among them. Draws are those of D_B, plain
    and at its worst under attack, for a bootstrap over models on the same redrawn prompts.
    """
    chosen = [row for row in prompts if not row["held_out"]]
    attacks = inside_openings({name: find_single_shot(name) for name in ("direct", *config.measure.attacks)})
    key = digest("extras", 3, model.key, chosen, list(attacks), draws)

    def make() -> dict[str, Any]:
        size = config.measure.batch_size
        states = transformed_states(model, chosen, attacks, None, batch_size=size, progress=progress)
        by_measure = {name: draws_under_attack(states, chosen, measure=name, draws=draws) for name in MEASURES}
        distances = by_measure["bhattacharyya"]
        return {
            "under_attack": {name: _record(one, chosen, name) for name, one in by_measure.items()},
            "benign_against_benign": _placebo(states["direct"], chosen),
            "draws": {"plain": _rounded(distances["direct"]), "worst": _rounded(distances["worst"])},
        }

    return cached_json(folder / "extras.json", key, make)


def _record(draws: Any, prompts: Sequence[Row], measure: str) -> dict[str, Any]:
    one = summary(draws, prompts, measure)
    return AttackSeparation(by_attack=one.by_attack, worst=one.worst, mean=one.mean).plain()


def _placebo(states: np.ndarray, prompts: Sequence[Row]) -> dict[str, float | None]:
    """Return the distance between two halves of the benign topics: what any model that tells topics apart shows.

    Here a topic's wordings may be fitted on and tested on, or there would be nothing to find.
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
        held = separation(*pair, draws=2, null_draws=0).bhattacharyya.value
    except ValueError:
        return {"bhattacharyya_paper": None, "bhattacharyya": None}
    return {"bhattacharyya_paper": paper, "bhattacharyya": held}


def _rounded(values: np.ndarray | None) -> list[float] | None:
    return None if values is None else np.round(values, 4).tolist()
