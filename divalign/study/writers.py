"""Who writes: a local model or a served one, behind one call, with a key that names all its responses depend on.

One spelling serves targets, attackers and judges: a folder or hub id, "toy" for the embedded model, or
"http://host:8000/v1#NAME" for the model NAME of an OpenAI-compatible server. A hub id may pin its weights, as
ORG/NAME@REVISION.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from divalign.data.examples import Conversation
from divalign.lm.generate import generate
from divalign.lm.load import LM, Dtype, check_device, load_lm
from divalign.lm.next_token import next_token_logprobs
from divalign.lm.server import Server, generate_on_server
from divalign.safety.journal import Journal, remembered
from divalign.store import digest, folder_digest
from divalign.study.named import pinned
from divalign.toy.world import ASSETS

KEY_VARIABLE = "DIVALIGN_API_KEY"


class Writer(NamedTuple):
    """A model that writes. `key` is known without loading it; `lm` is None for a served one, else loads it once.

    `write` takes conversations, `max_new_tokens` and `on_response`, and writes greedily.
    """

    name: str
    key: str
    write: Callable[..., list[str]]
    lm: Callable[[], LM] | None


class Loading(NamedTuple):
    """How local models are loaded and run."""

    dtype: Dtype = "float32"
    device: str = "cpu"
    adapter: Path | None = None
    chat_template: str | None = None
    batch_size: int = 64


def find_writer(spec: str, loading: Loading | None = None) -> Writer:
    """Return the model that `spec` stands for. Raises ValueError for a server without the name of its model."""
    if not spec.startswith(("http://", "https://")):
        return local_writer(spec, loading or Loading())
    url, _, model = spec.partition("#")
    if not model:
        raise ValueError(f"{spec!r} names a server and no model; write {url}#NAME, with the name the server gives it")
    return served_writer(url, model)


def local_writer(source: str, loading: Loading) -> Writer:
    """Return a local model. A folder's key is the hash of its files; a hub id is taken at its word: pin a revision.

    ORG/NAME@REVISION pins one: each of several models, target, attacker or judge, has its own.
    """
    name, source = source, str(ASSETS) if source == "toy" else source
    _check(source, loading)
    place = pinned(source)

    @cache
    def lm() -> LM:
        return load_lm(
            place.source,
            adapter=loading.adapter,
            dtype=loading.dtype,
            device=loading.device,
            revision=place.revision,
            chat_template=loading.chat_template,
        )

    def write(conversations: Sequence[Conversation], **options: Any) -> list[str]:
        return generate(lm().model, lm().tokenizer, conversations, batch_size=loading.batch_size, **options)

    template, adapter = loading.chat_template, loading.adapter
    text = Path(template).read_text(encoding="utf-8") if template and Path(template).is_file() else template
    weights = folder_digest(Path(source)) if Path(source).is_dir() else source
    key = digest("local", weights, adapter and folder_digest(adapter), loading.dtype, text)
    return Writer(name, key, write, lm)


def served_writer(url: str, model: str) -> Writer:
    """Return a served model; its key is its address and name, as nothing more is known of it.

    An API key is read from the environment variable DIVALIGN_API_KEY and kept nowhere.
    """
    server = Server(url, model, api_key=os.environ.get(KEY_VARIABLE))
    return Writer(f"{url}#{model}", digest("served", url, model), partial(generate_on_server, server), None)


def recalled(
    writer: Writer, journal: Journal, max_new_tokens: int, *, advance: Callable[[int], None] | None = None
) -> Callable[[Sequence[Conversation]], list[str]]:
    """Return the writer with a memory in `journal` and a length; `advance` is told of each response that comes."""

    def write(
        conversations: Sequence[Conversation], *, on_response: Callable[[int, str], None], **options: Any
    ) -> list[str]:
        def on_each(index: int, text: str) -> None:
            on_response(index, text)
            if advance is not None:
                advance(1)

        return writer.write(conversations, max_new_tokens=max_new_tokens, on_response=on_each, **options)

    return remembered(write, journal, made_from=["greedy", writer.key, max_new_tokens])


def recalled_odds(
    writer: Writer, journal: Journal, options: Sequence[str]
) -> Callable[[Sequence[Conversation]], list[list[float]]]:
    """Return what gives each conversation's log-probabilities of `options` as the next token, with a memory.

    Raises ValueError for a served model: the protocol gives a few likely tokens, never all that are asked for.
    """
    lm = writer.lm
    if lm is None:
        raise ValueError(f"{writer.name} does not give the probabilities of chosen tokens; name a local model")

    def read(
        conversations: Sequence[Conversation], *, on_response: Callable[[int, list[float]], None], **_: Any
    ) -> list[list[float]]:
        model, tokenizer = lm().model, lm().tokenizer
        return next_token_logprobs(model, tokenizer, conversations, options, on_response=on_response).tolist()

    return remembered(read, journal, made_from=["next token", writer.key, list(options)])


def _check(source: str, loading: Loading) -> None:
    check_device(loading.device)
    if loading.adapter is not None and not loading.adapter.is_dir():
        raise ValueError(f"no adapter folder at {loading.adapter}; give the folder that save_pretrained wrote")
    if source.startswith((".", "/", "~")) and not Path(source).is_dir():
        raise ValueError(
            f"no model folder at {source!r}; give a folder with config.json and *.safetensors, or a hub id"
        )
