"""What a sweep measures of a model beside its run: separation under attack, and of benign topics from benign ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from divalign.config import Config
from divalign.core.separation import separation
from divalign.data.examples import Row
from divalign.safety.attacks import find_attack
from divalign.store import cached_json, digest
from divalign.study.measure import Subject
from divalign.study.progress import Progress
from divalign.study.under_attack import (
    MEASURES,
    as_plain,
    draws_under_attack,
    inside_openings,
    states_under_attack,
    summary,
)


def extras(subject: Subject, prompts: Sequence[Row], config: Config, draws: int, progress: Progress) -> dict[str, Any]:
    """Return "under_attack", "benign_against_benign" and "draws" of a model, on the prompts of topics held in.

    The attacks are the run's, prefills word by word, and the plain prompt is among them. Draws are those of D_B, plain
    and at its worst under attack, for a bootstrap over models on the same redrawn prompts.
    """
    asked = [row for row in prompts if not row["held_out"]]
    attacks = inside_openings({name: find_attack(name) for name in ("direct", *config.measure.attacks)})
    key = digest("extras", 2, subject.key, asked, list(attacks), draws)

    def make() -> dict[str, Any]:
        with progress(f"under attack {subject.name}", len(attacks) * len(asked), "prompts") as advance:
            size = config.measure.batch_size
            states = states_under_attack(subject.load(), asked, attacks, batch_size=size, on_progress=advance)
        found = {name: draws_under_attack(states, asked, measure=name, draws=draws) for name in MEASURES}
        distances = found["bhattacharyya"]
        return {
            "under_attack": {name: as_plain(summary(one, asked, name)) for name, one in found.items()},
            "benign_against_benign": _placebo(states["direct"], asked),
            "draws": {"plain": _rounded(distances["direct"]), "worst": _rounded(distances["worst"])},
        }

    return cached_json(subject.folder / "extras.json", key, make)


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
