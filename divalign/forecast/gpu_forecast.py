"""What the runs of a sweep cost on GPUs, without weights, tokenizers, data files or a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from divalign.config import Config, Data
from divalign.data.examples import Conversation
from divalign.data.stand_in import stand_ins
from divalign.forecast.dry_run import Sized, jobs_of, memory_of, updates_of
from divalign.lm.shape import ModelShape, model_shape
from divalign.stages.corpus import Corpus, prompt_rows, read_corpus
from divalign.stages.gpu_cost import Gpu, gpu_seconds
from divalign.study.plan import aligned_models, check_names, corpus_of, model_of, with_placeholders
from divalign.study.run import Inputs
from divalign.study.sweep_config import PlannedRun

CHARACTERS = 4.0  # per token of English text
TURN = 8  # tokens of the chat template around a turn
HOUR = 3600.0


class CharacterLengths:
    """Tokens by characters, where there is no tokenizer."""

    def conversation(self, conversation: Conversation) -> int:
        contents = [str(message["content"]) for message in conversation.messages]
        return sum(self.texts([*contents, conversation.prefill or ""])) + TURN * (len(contents) + 1)

    def texts(self, texts: Sequence[str]) -> list[int]:
        return [math.ceil(len(text) / CHARACTERS) for text in texts]


class RunCost(NamedTuple):
    """What one run costs on one GPU: optimizer steps, tokens, operations, bytes and seconds over all its models."""

    run: str
    models: int
    updates: int
    tokens: float
    operations: float
    memory: float
    seconds: float

    @property
    def gpu_hours(self) -> float:
        return self.seconds / HOUR


def forecast_runs(runs: Sequence[PlannedRun], gpu: Gpu) -> list[RunCost]:
    """Return the cost of each run on a GPU.

    Sets that are not here are replaced by stand-ins of the same size, and tokens are counted by characters. Raises
    ValueError for unknown names, and for a base whose dimensions are neither known nor in a folder.
    """
    shared = _SharedSizes({}, {})
    return [_cost(planned, gpu, shared) for planned in runs]


class _SharedSizes(NamedTuple):
    """What several runs share: data by their settings, shapes by model."""

    corpora: dict[str, Corpus]
    shapes: dict[str, ModelShape]

    def corpus(self, data: Data, seed: int) -> Corpus:
        key = data.model_dump_json(exclude={"recipes"})
        if key not in self.corpora:
            self.corpora[key] = with_placeholders(data, read_corpus(corpus_of(data), seed=seed))
        return self.corpora[key]

    def shape(self, source: str) -> ModelShape:
        if source not in self.shapes:
            self.shapes[source] = model_shape(source)
        return self.shapes[source]


def _cost(planned: PlannedRun, gpu: Gpu, shared: _SharedSizes) -> RunCost:
    config = planned.config
    check_names(config)
    sized = _sized(config, shared)
    # On a GPU "auto" is bfloat16, whatever this machine computes in.
    dtype = "bfloat16" if config.model.dtype == "auto" else config.model.dtype
    jobs = jobs_of(sized)
    return RunCost(
        planned.name,
        len(sized.inputs.models),
        sum(updates_of(model) for model in sized.inputs.models),
        sum(job.tokens for job in jobs),
        sum(job.operations for job in jobs),
        memory_of(sized, dtype).most,
        sum(gpu_seconds(job, sized.shape, gpu, dtype=dtype) for job in jobs),
    )


def _sized(config: Config, shared: _SharedSizes) -> Sized:
    """Return the run with one draw of its data for all seeds, as only the texts differ."""
    data, seeds = _available(config.data), config.train.seeds
    corpus = shared.corpus(data, seeds[0])
    corpora = dict.fromkeys(seeds, corpus)
    inputs = Inputs(corpora, prompt_rows(corpus), aligned_models(config, corpora))
    changed = config.model_copy(update={"data": data})
    return Sized(changed, inputs, CharacterLengths(), shared.shape(model_of(config.model).source))


def _available(data: Data) -> Data:
    measured = data.measure_on and stand_ins(data.measure_on)
    return data.model_copy(update={"source": stand_ins(data.source), "measure_on": measured})
