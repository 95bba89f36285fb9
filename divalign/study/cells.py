"""What is asked of models' hidden states, and what is measured of one layer's: a cell of the map, or everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from divalign.core.directions import margins
from divalign.core.layers import separation_at_best_layer
from divalign.core.separation import Separation, separation
from divalign.core.stats import Estimate
from divalign.data.examples import Row
from divalign.lm.hidden import POSITIONS
from divalign.study.under_attack import Transform, sides


class Asked(NamedTuple):
    """What is measured: anchors, positions, layers (None: all; negative ones count from the last) and attacks.

    `draws` are bootstrap draws; cells of the map take a quarter of them. Position "response" is the mean over the
    anchors' own responses, or, where they bring none, over up to `answer_tokens` tokens that the model answers.
    """

    anchors: Sequence[Row]
    positions: Sequence[str] = POSITIONS
    layers: Sequence[int] | None = None
    attacks: Mapping[str, Transform] | None = None
    draws: int = 1000
    seed: int = 0
    batch_size: int = 64
    answer_tokens: int = 32


class Baselines(NamedTuple):
    """What the prompts' words and lengths give away without any model: AUC, 0.5 is chance."""

    lexical: Estimate
    length: Estimate


def cell(states: np.ndarray, asked: Asked, baselines: Baselines) -> dict[str, Any]:
    """Return one cell of the map; the reason instead where these states allow no number."""
    harmful, groups = sides(asked.anchors)
    options: dict[str, Any] = {"groups": groups, "seed": asked.seed, "lexical": baselines.lexical}
    try:
        found = separation(states[~harmful], states[harmful], draws=max(50, asked.draws // 4), null_draws=0, **options)
    except ValueError as error:
        nothing = Estimate(None, None, None, len(states))._asdict()
        return {"bhattacharyya": nothing, "probe_auc": nothing, "flags": [], "why": str(error)}
    return {
        "bhattacharyya": found.bhattacharyya._asdict(),
        "probe_auc": found.probe_auc._asdict(),
        "flags": flags(found, baselines),
        "why": "",
    }


def whole(states: np.ndarray, asked: Asked, baselines: Baselines) -> dict[str, Any]:
    """Return everything that is measured at one layer, held out and as the paper does; the reason where nothing can."""
    harmful, groups = sides(asked.anchors)
    pair = states[~harmful], states[harmful]
    options: dict[str, Any] = {"groups": groups, "seed": asked.seed, "draws": asked.draws}
    try:
        held = separation(*pair, lexical=baselines.lexical, **options)
        paper = separation(*pair, mode="paper", **options)
        apart = margins(*pair, seed=asked.seed, groups=groups)
    except ValueError as error:
        return {"why": str(error)}
    numbers = {name: getattr(held, name) for name in ("bhattacharyya", "silhouette", "probe_auc", "tpr_at_1_fpr")}
    numbers |= {"energy": held.energy, "bhattacharyya_paper": paper.bhattacharyya, "silhouette_paper": paper.silhouette}
    return {
        **{name: value._asdict() for name, value in numbers.items()},
        "energy_p_value": held.energy_p_value,
        "null": held.null and held.null._asdict(),
        "dimensions": list(held.dimensions),
        "margins": {"safe": np.round(apart[0], 3).tolist(), "harmful": np.round(apart[1], 3).tolist()},
        "flags": flags(held, baselines),
        "why": "",
    }


def flags(found: Separation, baselines: Baselines) -> list[str]:
    """Return what to doubt of a held-out separation, the length of the prompts included."""
    length, low = baselines.length.value, found.probe_auc.low
    alone = {"length alone does as well"} if length is not None and low is not None and length >= low else set()
    return sorted(found.flags | alone)


def best(stack: np.ndarray, asked: Asked, baselines: Baselines) -> dict[str, Any] | None:
    """Return the layer that separates best, measured on prompts that did not choose it; None with too few prompts.

    Layers whose states are all the same, as the embeddings of one token are, do not compete.
    """
    harmful, groups = sides(asked.anchors)
    usable = [layer for layer in range(len(stack)) if len(np.unique(stack[layer], axis=0)) == stack.shape[1]]
    try:
        found = separation_at_best_layer(
            stack[usable][:, ~harmful],
            stack[usable][:, harmful],
            seed=asked.seed,
            groups=groups,
            lexical=baselines.lexical,
        )
    except ValueError:
        return None
    one = found.separation
    return {
        "layer": usable[found.layer],
        "bhattacharyya": one.bhattacharyya._asdict(),
        "probe_auc": one.probe_auc._asdict(),
        "flags": flags(one, baselines),
    }
