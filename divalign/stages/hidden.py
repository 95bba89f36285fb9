"""Hidden states of prompts, kept as safetensors and found again by model and prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from divalign.data.examples import Conversation, Row, user_says
from divalign.lm.generate import generate
from divalign.lm.hidden import POSITIONS, hidden_states
from divalign.stages.folder import Progress
from divalign.stages.models import OpenModel
from divalign.store import cached_arrays, digest

ALL_POSITIONS = (*POSITIONS, "response")
LAYERS = "layers"  # which of the model's layers the arrays hold; 0 are the embeddings
DEPTH = "depth"  # how many the model has
Stack = Mapping[str, np.ndarray]  # position -> [layers, prompts, width]


def read_states(
    model: OpenModel,
    prompts: Sequence[Row],
    path: Path | None,
    *,
    positions: Sequence[str] = POSITIONS,
    layers: Sequence[int] | None = None,
    answer_tokens: int = 32,
    batch_size: int = 64,
    progress: Progress,
) -> dict[str, np.ndarray]:
    """Return each position's states [layers, prompts, width], with the numbers of the layers and the model's depth.

    `layers` None keeps all; negative ones count from the last. Position "response" is the mean over the prompts' own
    responses, or, where they bring none, over up to `answer_tokens` tokens that the model answers. With `path`, states
    are kept there.

    Raises ValueError, with the model's name, for states that are not finite and for a layer that does not exist.
    """
    read = "response" in positions
    responses = [row["response"] for row in prompts if read and "response" in row]
    texts = [row["prompt"] for row in prompts]

    def make() -> dict[str, np.ndarray]:
        try:
            check_layers(layers, depth_of(model.lm().model))
            return _select_layers(_states(model, texts, responses, read, answer_tokens, batch_size, progress), layers)
        except ValueError as error:
            raise ValueError(f"{model.name}: {error}") from error

    answers = (responses or answer_tokens,) if read else ()
    key = digest("hidden", 2, model.key, texts, None if layers is None else list(layers), *answers)
    return make() if path is None else cached_arrays(path, key, make)


def transformed_states(
    model: OpenModel,
    prompts: Sequence[Row],
    attacks: Mapping[str, Callable[[str], Conversation]],
    path: Path | None,
    *,
    batch_size: int,
    progress: Progress,
) -> dict[str, np.ndarray]:
    """Return the last layer's states of the prompts under each attack, where the model begins to write its next word.

    An array [prompts, width] for each attack, found again at `path` by the texts themselves.
    """
    conversations = {name: [attack(row["prompt"]) for row in prompts] for name, attack in attacks.items()}

    def make() -> dict[str, np.ndarray]:
        total = len(attacks) * len(prompts)
        with progress(f"under attack {model.name}", total, "prompts") as advance:
            lm, flat = model.lm(), [conversation for each in conversations.values() for conversation in each]
            states = hidden_states(lm.model, lm.tokenizer, flat, batch_size=batch_size, on_progress=advance)
        rows = states["generation"][-1].reshape(len(attacks), len(prompts), -1)
        return dict(zip(conversations, rows, strict=True))

    key = digest("under attack", model.key, conversations)
    states = make() if path is None else cached_arrays(path, key, make)
    return {name: states[name] for name in attacks}


def _states(
    model: OpenModel,
    texts: Sequence[str],
    responses: Sequence[str],
    read: bool,
    answer_tokens: int,
    batch_size: int,
    progress: Progress,
) -> Stack:
    lm, conversations = model.lm(), [user_says(text) for text in texts]
    if read and not responses:
        sizes: dict[str, Any] = {"max_new_tokens": answer_tokens, "batch_size": batch_size}
        with progress(f"answers {model.name}", len(texts), "prompts") as advance:
            responses = generate(lm.model, lm.tokenizer, conversations, on_response=lambda *_: advance(1), **sizes)
    options: dict[str, Any] = {"responses": responses if read else None, "batch_size": batch_size}
    with progress(f"hidden states {model.name}", len(texts), "prompts") as advance:
        return hidden_states(lm.model, lm.tokenizer, conversations, on_progress=advance, **options)


def depth_of(model: Any) -> int | None:
    """Return how many layers' states a model has, its embeddings among them; None where its configuration is silent."""
    layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    return None if layers is None else layers + 1


def check_layers(layers: Sequence[int] | None, depth: int | None) -> None:
    """Raise ValueError for a layer that a model of so many layers' states has not."""
    wrong = [layer for layer in layers or () if depth is not None and not -depth <= layer < depth]
    if depth is not None and wrong:
        raise ValueError(f"there is no layer {wrong[0]}; the model has 0 (the embeddings) to {depth - 1} (the last)")


def _select_layers(states: Stack, layers: Sequence[int] | None) -> dict[str, np.ndarray]:
    depth = len(next(iter(states.values())))
    check_layers(layers, depth)
    numbers = list(range(depth)) if layers is None else sorted({layer % depth for layer in layers} | {depth - 1})
    selected = {position: np.ascontiguousarray(stack[numbers]) for position, stack in states.items()}
    return {**selected, LAYERS: np.array(numbers), DEPTH: np.array([depth])}
