"""Separation of one model on prompts: layers and positions, under attack, with baselines beside each number.

hidden.safetensors        states, found again by model and prompts
under_attack.safetensors  states under each attack, where attacks are measured
separation.json           the numbers, for each part of the prompts
plane.json                each prompt's place in the paper's principal plane of the last layer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from divalign import __version__
from divalign.core.directions import cosine, refusal_direction
from divalign.core.separation import FEWEST_PROMPTS, separation_change
from divalign.data.anchors import AnchorsInTraining, checked, read_anchors
from divalign.data.examples import Row
from divalign.limits import refuse_links
from divalign.records import SeparationChangeRecord, SeparationChanges, SeparationRecord, cached_record
from divalign.safety.attacks import edited_contents
from divalign.stages.corpus import balanced
from divalign.stages.folder import Progress, silent
from divalign.stages.hidden import DEPTH, LAYERS, read_states, transformed_states
from divalign.stages.layer_separation import PromptPart, SeparationPlan, measure_part, parts_of, plane_of
from divalign.stages.model_names import short_names
from divalign.stages.models import EMBEDDED, LoadOptions, OpenModel, find_model
from divalign.stages.under_attack import inside_openings
from divalign.store import cached_json, digest, write_json
from divalign.toy import world

TOY_PROMPTS = 256
COLUMNS = ("prompt", "harmful", "cluster", "held_out", "response")


def prompts_of(source: str) -> list[Row]:
    """Return the prompts that `source` names: `toy`, or what `data.anchors.read_anchors` reads."""
    if source != "toy":
        return read_anchors(source)
    requests = balanced(world.requests("test", held_out=False, seed=0), TOY_PROMPTS)
    return checked([{"prompt": r.prompt, "harmful": r.harmful, "cluster": r.cluster} for r in requests], source)


def refuse_trained(overlap: AnchorsInTraining | None, source: str) -> None:
    """Raise ValueError where prompts were trained on: separation there may be memory."""
    if overlap is not None:
        raise ValueError(
            f"{overlap.n} of the prompts in {source} stand in the training rows, the first: {overlap.first[:60]!r}; "
            "a model may separate what it has memorised, so leave them out or take other prompts"
        )


def separate(
    model: OpenModel, prompts: Sequence[Row], plan: SeparationPlan, out: Path, *, progress: Progress = silent
) -> SeparationRecord:
    """Measure a model's separation on prompts ({"prompt", "harmful", "cluster"}) into `out`, unless it stands there.

    Prompts with a true "held_out" are a part of their own. Raises ValueError, with the model's name, for states that
    are not finite and for a layer that does not exist, and for prompts that allow no measurement at all.
    """
    check_prompts(prompts, plan)
    prompts = [{name: row[name] for name in COLUMNS if name in row} for row in prompts]
    states = _states(model, prompts, plan, out, progress)
    key = digest("separation", 4, model.key, _content(prompts), _identity(plan, prompts))

    def make() -> SeparationRecord:
        parts, numbers = parts_of(prompts, plan.seed), [int(layer) for layer in states[LAYERS]]
        chosen = plan.chosen(int(states[DEPTH][0]))
        attacked = _attack_states(model, prompts, plan, out, progress)
        return SeparationRecord(
            divalign=__version__,
            model=model.name,
            key=model.key,
            layers=int(states[DEPTH][0]),
            parts={
                name: measure_part(part, _rows(_arrays(states), rows), _rows(attacked, rows), numbers, chosen, plan)
                for name, (rows, part) in parts.items()
            },
        )

    position = plan.positions[-1]
    cached_json(out / "plane.json", digest("plane", key), lambda: plane_of(states[position][-1], prompts))
    return cached_record(out / "separation.json", key, SeparationRecord, make)


def compare(
    models: Sequence[tuple[str, Path, OpenModel]],
    prompts: Sequence[Row],
    plan: SeparationPlan,
    *,
    progress: Progress = silent,
) -> list[SeparationChangeRecord]:
    """Return how the last layer's separation changed from the first (name, folder, model) to each other, per position.

    The folders are those that `separate` wrote for the same prompts and plan: no states are read anew.
    """
    rows, part = next(iter(parts_of(prompts, plan.seed).values()))
    stacks = {name: _states(model, prompts, plan, folder, progress) for name, folder, model in models}
    before, *later = stacks
    pairs = {
        (name, position): part.pair(stack[position][-1][rows])
        for name, stack in stacks.items()
        for position in plan.positions
    }
    return [
        _change((before, after), position, [pairs[before, position], pairs[after, position]], part, plan)
        for after in later
        for position in plan.positions
    ]


def check_prompts(prompts: Sequence[Row], plan: SeparationPlan) -> None:
    """Raise ValueError for too few prompts of a class, and where some prompts have a response and others none."""
    for side, name in ((False, "safe"), (True, "harmful")):
        count = sum(bool(row["harmful"]) is side for row in prompts)
        if count < FEWEST_PROMPTS["heldout"]:
            raise ValueError(f"got {count} {name} prompts, expected at least {FEWEST_PROMPTS['heldout']}; add prompts")
    bare = sum("response" not in row for row in prompts)
    if "response" in plan.positions and 0 < bare < len(prompts):
        raise ValueError(f"{bare} of {len(prompts)} prompts have no response; give every one of them one, or none")


def _content(prompts: Sequence[Row]) -> list[Row]:
    """Return the rows as a key reads them: a false held_out is none."""
    return [{name: value for name, value in row.items() if (name, value) != ("held_out", False)} for row in prompts]


def _identity(plan: SeparationPlan, prompts: Sequence[Row]) -> list[Any]:
    layers = None if plan.layers is None else list(plan.layers)
    tokens = plan.answer_tokens if "response" in plan.positions else None
    attacks = [*inside_openings(plan.attacks), *edited_contents(plan.attacks)]
    # A name does not say what a function of a library's user makes of a prompt.
    conversations = [attack(row["prompt"]) for attack in plan.attacks.values() for row in prompts]
    transformed = [digest(conversations)] if conversations else []
    return [list(plan.positions), layers, attacks, plan.draws, plan.seed, tokens, *transformed]


def _states(
    model: OpenModel, prompts: Sequence[Row], plan: SeparationPlan, out: Path, progress: Progress
) -> dict[str, np.ndarray]:
    return read_states(
        model,
        prompts,
        out / "hidden.safetensors",
        positions=plan.positions,
        layers=plan.layers,
        answer_tokens=plan.answer_tokens,
        batch_size=plan.batch_size,
        progress=progress,
    )


def _arrays(states: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in states.items() if name not in (LAYERS, DEPTH)}


def _attack_states(
    model: OpenModel, prompts: Sequence[Row], plan: SeparationPlan, out: Path, progress: Progress
) -> dict[str, np.ndarray]:
    if not plan.attacks:
        return {}
    path, attacks = out / "under_attack.safetensors", inside_openings(plan.attacks)
    return transformed_states(model, prompts, attacks, path, batch_size=plan.batch_size, progress=progress)


def _rows(states: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: array[..., rows, :] for name, array in states.items()}


def _change(
    names: tuple[str, str], position: str, pairs: Sequence[Any], part: PromptPart, plan: SeparationPlan
) -> SeparationChangeRecord:
    """Return how the last layer's separation changed between two models, and how the refusal direction turned."""
    where: dict[str, Any] = {"before": names[0], "after": names[1], "position": position}
    try:
        change = separation_change(pairs[0], pairs[1], seed=plan.seed, groups=part.clusters, draws=plan.draws)
        turned = _cosine(pairs)
    except ValueError as error:
        return SeparationChangeRecord(**where, why=str(error))
    return SeparationChangeRecord(**where, **change._asdict(), cosine=turned)


def _cosine(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float | None:
    """Return the cosine of the two refusal directions; None where the models are of different width."""
    if pairs[0][0].shape[1] != pairs[1][0].shape[1]:
        return None
    return cosine(*(refusal_direction(*pair) for pair in pairs))


def separate_models(
    spellings: Sequence[str],
    prompts: Sequence[Row],
    plan: SeparationPlan,
    out: Path,
    *,
    options: LoadOptions | None = None,
    progress: Progress = silent,
) -> tuple[list[SeparationRecord], SeparationChanges | None]:
    """Measure several models, each into a folder of its own in `out`, and compare the others with the first.

    changes.json holds the comparison; None for one model. Raises what `separate` raises, and ValueError where a model
    is named twice, where its own folder would be written to, and where a link in `out` leads out of it.
    """
    refuse_links(out)
    names = short_names(spellings)
    places = {Path(spelling).resolve() for spelling in spellings if spelling != EMBEDDED}
    for name in names:
        if (out / name).is_dir() and (out / name).resolve() in places:
            raise ValueError(f"{out / name} is a model's own folder; choose another --out")
    models = [
        (name, out / name, find_model(spelling, options)._replace(name=name))
        for name, spelling in zip(names, spellings, strict=True)
    ]
    records = [separate(model, prompts, plan, folder, progress=progress) for _, folder, model in models]
    changes = compare(models, prompts, plan, progress=progress) if len(models) > 1 else []
    index = SeparationChanges(divalign=__version__, models=names, changes=changes)
    write_json(out / "changes.json", index.plain())
    return records, index if changes else None
