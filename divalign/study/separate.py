"""Separation of models on anchors: every layer and position, before against after, with baselines beside each number.

What `divalign separate` does. The folder it leaves holds separation.json, which the report reads, and the hidden
states as safetensors, found again by model and prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from divalign import __version__
from divalign.core.directions import cosine, refusal_direction
from divalign.core.separation import FEWEST_PROMPTS, separation_change
from divalign.data.anchors import Seen, checked, read_anchors
from divalign.data.examples import Conversation, Row, user_says
from divalign.data.lexical import length_auc, lexical_auc
from divalign.lm.generate import generate
from divalign.lm.hidden import POSITIONS, hidden_states
from divalign.lm.load import LM
from divalign.store import cached_arrays, digest
from divalign.study.cells import Asked, Baselines, best, cell, whole
from divalign.study.corpus import balanced
from divalign.study.progress import Progress, silent
from divalign.study.under_attack import (
    MEASURES,
    as_plain,
    inside_openings,
    separation_under_attack,
    sides,
    states_under_attack,
)
from divalign.toy import world

SCHEMA = 1
TOY_PROMPTS = 256
ALL_POSITIONS = (*POSITIONS, "response")


Stack = dict[str, np.ndarray]  # position -> [layers, prompts, width]


def anchors_of(source: str) -> list[Row]:
    """Return the anchors that `source` names: `toy`, or what `data.anchors.read_anchors` reads."""
    if source != "toy":
        return read_anchors(source)
    drawn = balanced(world.requests("test", held_out=False, seed=0), TOY_PROMPTS)
    return checked([{"prompt": r.prompt, "harmful": r.harmful, "cluster": r.cluster} for r in drawn], source)


def refuse_trained(seen: Seen | None, source: str) -> None:
    """Raise ValueError where anchors were trained on: separation there may be memory."""
    if seen is not None:
        raise ValueError(
            f"{seen.many} of the anchors in {source} stand in the training rows, the first: {seen.first[:60]!r}; "
            "a model may separate what it has memorised, so leave them out or take other prompts"
        )


def separate(
    models: Mapping[str, Callable[[], LM]], asked: Asked, *, cache: Path | None = None, progress: Progress = silent
) -> dict[str, Any]:
    """Measure each model on the anchors and return plain values, the content of separation.json.

    The first model is "before" for all others. Models are loaded one at a time. With `cache`, hidden states are kept
    there by content. Raises ValueError, with the model's name, for states that are not finite and for a layer that
    does not exist, and as `separation` does for prompts that allow no measurement at all.
    """
    _check(asked)
    baselines = _baselines(asked)
    stacks: dict[str, Stack] = {}
    entries = []
    for name, load in models.items():
        lm = load()
        try:
            stacks[name] = _states(name, lm, asked, cache, progress)
            attacked = _attacked(name, lm, asked, cache, progress)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        entries.append(_entry(name, lm, stacks[name], asked, baselines) | {"under_attack": attacked})
    before, *others = stacks
    return {
        "schema": SCHEMA,
        "divalign": __version__,
        "prompts": _counts(asked),
        "baselines": {name: value._asdict() for name, value in baselines._asdict().items()},
        "models": entries,
        "changes": [
            _change(before, after, position, stacks, asked) for after in others for position in asked.positions
        ],
    }


def _check(asked: Asked) -> None:
    for side, name in ((False, "safe"), (True, "harmful")):
        count = sum(bool(row["harmful"]) is side for row in asked.anchors)
        if count < FEWEST_PROMPTS["heldout"]:
            raise ValueError(f"got {count} {name} prompts, expected at least {FEWEST_PROMPTS['heldout']}; add prompts")
    unknown = [position for position in asked.positions if position not in ALL_POSITIONS]
    if unknown or not asked.positions:
        raise ValueError(f"position {unknown!r}: expected some of {', '.join(ALL_POSITIONS)}")
    bare = sum("response" not in row for row in asked.anchors)
    if "response" in asked.positions and 0 < bare < len(asked.anchors):
        raise ValueError(
            f"{bare} of {len(asked.anchors)} anchors have no response; give every one of them one, or none"
        )


def _baselines(asked: Asked) -> Baselines:
    _, groups = sides(asked.anchors)
    texts = [[row["prompt"] for row in asked.anchors if bool(row["harmful"]) is side] for side in (False, True)]
    return Baselines(
        lexical_auc(*texts, groups=groups, seed=asked.seed), length_auc(*texts, groups=groups, seed=asked.seed)
    )


def _counts(asked: Asked) -> dict[str, int]:
    harmful, _ = sides(asked.anchors)
    return {
        "safe": int((~harmful).sum()),
        "harmful": int(harmful.sum()),
        "clusters": len({row["cluster"] for row in asked.anchors}),
    }


def _states(name: str, lm: LM, asked: Asked, cache: Path | None, progress: Progress) -> Stack:
    texts = [row["prompt"] for row in asked.anchors]
    talks, read = [user_says(text) for text in texts], "response" in asked.positions
    given = [row["response"] for row in asked.anchors if read and "response" in row]

    def make() -> Stack:
        responses = (given or _answers(name, lm, talks, asked, progress)) if read else None
        options: dict[str, Any] = {"responses": responses, "batch_size": asked.batch_size}
        with progress(f"hidden states {name}", len(texts), "prompts") as advance:
            return hidden_states(lm.model, lm.tokenizer, talks, on_progress=advance, **options)

    made_from = ("states", lm.digest, texts, *((given or asked.answer_tokens,) if read else ()))
    return _remembered(cache, digest(*made_from), make)


def _answers(name: str, lm: LM, talks: list[Conversation], asked: Asked, progress: Progress) -> list[str]:
    with progress(f"answers {name}", len(talks), "prompts") as advance:
        options: dict[str, Any] = {"max_new_tokens": asked.answer_tokens, "batch_size": asked.batch_size}
        return generate(lm.model, lm.tokenizer, talks, on_response=lambda *_: advance(1), **options)


def _attacked(name: str, lm: LM, asked: Asked, cache: Path | None, progress: Progress) -> dict[str, Any] | None:
    if not asked.attacks:
        return None
    attacks = inside_openings(asked.attacks)
    said = {one: [attack(row["prompt"]) for row in asked.anchors] for one, attack in attacks.items()}

    def make() -> Stack:
        with progress(f"under attack {name}", len(attacks) * len(asked.anchors), "prompts") as advance:
            return states_under_attack(lm, asked.anchors, attacks, batch_size=asked.batch_size, on_progress=advance)

    states = _remembered(cache, digest("attacked", lm.digest, said), make)
    states = {one: states[one] for one in attacks}
    return {
        measure: as_plain(
            separation_under_attack(states, asked.anchors, measure=measure, seed=asked.seed, draws=asked.draws)
        )
        for measure in MEASURES
    }


def _remembered(cache: Path | None, key: str, make: Callable[[], Stack]) -> Stack:
    return make() if cache is None else cached_arrays(cache / f"{key}.safetensors", key, make)


def _entry(name: str, lm: LM, stack: Stack, asked: Asked, baselines: Baselines) -> dict[str, Any]:
    depth = len(next(iter(stack.values())))
    layers = _layers(name, depth, asked.layers)
    cells = [
        {"position": position, "layer": layer, **cell(stack[position][layer], asked, baselines)}
        for position in asked.positions
        for layer in layers
    ]
    return {
        "name": name,
        "source": lm.name,
        "digest": lm.digest,
        "layers": depth,
        "map": cells,
        "last_layer": {position: whole(stack[position][-1], asked, baselines) for position in asked.positions},
        "best_layer": {position: best(stack[position], asked, baselines) for position in asked.positions},
    }


def _layers(name: str, depth: int, layers: Sequence[int] | None) -> list[int]:
    wrong = [layer for layer in layers or () if not -depth <= layer < depth]
    if wrong:
        raise ValueError(f"{name} has no layer {wrong[0]}; it has 0 (the embeddings) to {depth - 1} (the last)")
    return list(range(depth)) if layers is None else sorted({layer % depth for layer in layers})


def _change(before: str, after: str, position: str, stacks: Mapping[str, Stack], asked: Asked) -> dict[str, Any]:
    """Return how the last layer's separation changed between two models, and how the refusal direction turned."""
    harmful, groups = sides(asked.anchors)
    pairs = [(stacks[name][position][-1][~harmful], stacks[name][position][-1][harmful]) for name in (before, after)]
    where = {"before": before, "after": after, "position": position}
    try:
        found = separation_change(pairs[0], pairs[1], seed=asked.seed, groups=groups, draws=asked.draws)
        turned = _turned(pairs)
    except ValueError as error:
        return {**where, "why": str(error)}
    return {**where, **{name: value._asdict() for name, value in found._asdict().items()}, "cosine": turned, "why": ""}


def _turned(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float | None:
    """Return the cosine of the two refusal directions; None where the models are of different width."""
    if pairs[0][0].shape[1] != pairs[1][0].shape[1]:
        return None
    return cosine(*(refusal_direction(*pair) for pair in pairs))
