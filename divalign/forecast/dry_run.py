"""What a configuration will cost, from its data, the tokenizer and config.json: no weights are loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from divalign import __version__
from divalign.config import Config
from divalign.data.batching import encode_conversation
from divalign.data.examples import Conversation, Row, user_says
from divalign.data.recipes import training_rows
from divalign.lm.shape import ModelShape, model_shape, read_tokenizer
from divalign.records import CostRecord, StageCost, cached_record
from divalign.safety.adaptive import AdaptiveAttack
from divalign.sections import as_yaml
from divalign.stages.attack import ATTACKER_TOKENS
from divalign.stages.cost import (
    Forecast,
    Job,
    Machine,
    Memory,
    TokenBatch,
    disk,
    forecast,
    loading,
    measure_machine,
    memory,
    scoring,
    statistics,
    training,
    writing,
)
from divalign.stages.hidden import check_layers
from divalign.stages.rewards import TRAINED
from divalign.store import digest
from divalign.study.plan import Aligned, answer_plan, attack_plan, check_names, model_of
from divalign.study.run import Inputs, read_inputs

HOUR = 3600.0
SEARCHED = 0.1  # share of GCG's steps that a search of the tour takes: a success ends it
TRIED = 6  # tokens per candidate of a GCG step, which keeps what stands before the change
WRITTEN = 0.9  # share of max_new_tokens that a response has: .8 in the tour, 1 in most unaligned models


class Lengths(Protocol):
    """How many tokens texts have."""

    def conversation(self, conversation: Conversation) -> int:
        """Return a conversation's tokens, those of its template among them."""
        ...

    def texts(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text."""
        ...


class TokenizerLengths:
    """The lengths that a tokenizer gives; all models meet the same prompts, so each conversation is looked at once."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.seen_lengths: dict[str, int] = {}

    def conversation(self, conversation: Conversation) -> int:
        key = repr(conversation)
        if key not in self.seen_lengths:
            self.seen_lengths[key] = len(encode_conversation(self.tokenizer, conversation))
        return self.seen_lengths[key]

    def texts(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


class Sized(NamedTuple):
    """A configuration with everything that its cost follows from."""

    config: Config
    inputs: Inputs
    lengths: Lengths
    shape: ModelShape


def dry_run(config: Config, out: Path) -> Forecast:
    """Return what a run of `config` in the folder `out` will cost on this machine.

    Raises ValueError for what `run` refuses without weights: unknown names, missing files, data of one class.
    """
    check_names(config)
    spec = model_of(config.model)
    kind = getattr(torch, spec.dtype)
    machine = measure_machine(out, device=spec.device, dtype=kind)
    return _forecast(_sized(config), machine)


def write_cost(config: Config, out: Path) -> CostRecord:
    """Write cost.json into a run folder, unless it stands there: tokens and operations, which sizes alone decide."""

    def make() -> CostRecord:
        sized = _sized(config)
        jobs = [*_answer_jobs(sized), *_train_jobs(sized), *_measure_jobs(sized)]
        fields = tuple(StageCost.model_fields)
        stages = [StageCost(**{field: getattr(job, field) for field in fields}) for job in jobs if job.operations]
        return CostRecord(parameters=sized.shape.parameters, stages=stages)

    return cached_record(out / "cost.json", digest("cost", __version__, as_yaml(config)), CostRecord, make)


def remedies(config: Config, whole: Forecast) -> list[tuple[str, float]]:
    """Return the three settings of which half shortens the run most, as --set takes them, with the seconds saved."""
    sized = _sized(config)
    saved = []
    for key, change in _halves(config).items():
        section, name = key.split(".")
        part = getattr(config, section).model_copy(update={name: change})
        changed = sized._replace(config=config.model_copy(update={section: part}))
        changed = changed._replace(inputs=read_inputs(changed.config))
        text = f"[{','.join(change)}]" if isinstance(change, tuple) else str(change)
        saved.append((f"{key}={text}", whole.total - _forecast(changed, whole.machine).total))
    return sorted(saved, key=lambda saving: -saving[1])[:3]


def _halves(config: Config) -> dict[str, Any]:
    """Return every setting that shortens a run, halved; only what has a half."""
    data, train, measure = config.data, config.train, config.measure
    numbers: dict[str, Any] = {
        "train.updates": train.updates and max(1, train.updates // 2),
        "train.epochs": train.epochs and train.epochs / 2,
        "data.n_test": max(20, data.n_test // 2),
        "measure.max_new_tokens": max(1, measure.max_new_tokens // 2),
        "train.methods": train.methods[: max(1, len(train.methods) // 2)],
        "data.recipes": data.recipes[: max(1, len(data.recipes) // 2)],
        "measure.attacks": measure.attacks[: max(1, len(measure.attacks) // 2)],
    }
    present = config.model_dump()
    return {key: value for key, value in numbers.items() if value and value != _value(present, key)}


def _value(content: Mapping[str, Any], key: str) -> Any:
    section, name = key.split(".")
    return content[section][name]


def _sized(config: Config) -> Sized:
    spec = model_of(config.model)
    options = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}
    tokenizer = read_tokenizer(spec.source, chat_template=spec.chat_template, **options)
    shape = model_shape(spec.source, **options)
    check_layers(config.measure.layers, shape.layers + 1)
    return Sized(config, read_inputs(config), TokenizerLengths(tokenizer), shape)


def _forecast(sized: Sized, machine: Machine) -> Forecast:
    config, inputs, shape = sized.config, sized.inputs, sized.shape
    jobs, models, rank, dtype = jobs_of(sized), len(inputs.models), _rank(config), model_of(config.model).dtype
    responses = sum(job.rows for job in jobs if job.stage in ("attacks", "answers"))
    states = (models + 1) * len(inputs.prompts)
    left = disk(shape, dtype=dtype, rank=rank, models=models, responses=responses, states=states)
    return forecast(jobs, shape, machine, memory_of(sized, dtype), left)


def jobs_of(sized: Sized) -> list[Job]:
    """Return the stages of a run with what they work on."""
    return [*_answer_jobs(sized), *_train_jobs(sized), *_measure_jobs(sized)]


def memory_of(sized: Sized, dtype: str) -> Memory:
    """Return the most memory that a run needs at once."""
    config = sized.config
    pairs = [_pairs(sized, model.rows) for model in sized.inputs.models]
    largest = max((batch.tokens / batch.rows for batch in pairs), default=0.0) * config.train.pairs_per_batch
    rows = config.measure.batch_size * min(config.train.max_length, 64 + config.measure.max_new_tokens)
    return memory(sized.shape, dtype=dtype, rank=_rank(config), train_tokens=largest, row_tokens=float(rows))


def _rank(config: Config) -> int | None:
    return config.train.lora.rank if config.train.lora else None


def _answer_jobs(sized: Sized) -> Iterator[Job]:
    if sized.config.data.answers != "model":
        return
    corpus, data = sized.inputs.corpus, sized.config.data
    requests = [*corpus.train, *corpus.test]
    worse = [request for request in requests if not request.harmful] if answer_plan(sized.config).worse else []
    prompts = _prompts(sized, [request.prompt for request in (*requests, *worse)])
    size = sized.config.measure.batch_size
    yield writing(sized.shape, "base", "answers", prompts, data.answer_tokens, size)


def _train_jobs(sized: Sized) -> Iterator[Job]:
    """Yield each model's training, and a reference pass over the rows trained on, which all methods share."""
    config, shape = sized.config, sized.shape
    scored: set[tuple[str, int]] = set()
    for model in sized.inputs.models:
        batch, plan = _pairs(sized, model.rows), model.plan
        if (model.recipe, plan.seed) not in scored:
            scored.add((model.recipe, plan.seed))
            share = min(1, _pairs_trained_on(model) / batch.rows)
            yield scoring(shape, model.name, "reference", _times(batch, share), config.measure.batch_size)
        per_update = _times(batch, _pairs_trained_on(model) / updates_of(model) / batch.rows)
        batches = plan.pairs_per_update // plan.pairs_per_batch
        yield loading(shape, model.name, 1, model_of(config.model).dtype)
        options: dict[str, Any] = {"batches": batches, "adapter": plan.lora is not None}
        if plan.on_policy is None or plan.on_policy.offline_weight:
            yield training(shape, model.name, per_update, updates_of(model), **options)
        if plan.on_policy is not None:
            yield from _sampled_jobs(sized, model, batch, options)
            if plan.on_policy.reward == TRAINED:
                updates = plan.on_policy.reward_updates or updates_of(model)
                yield training(shape, model.name, per_update, updates, **options)


def _sampled_jobs(sized: Sized, model: Aligned, batch: TokenBatch, options: dict[str, Any]) -> Iterator[Job]:
    """Yield the cost of sampled responses: written, scored by the reference, trained on. `batch` has the prompts."""
    plan, shape, size = model.plan, sized.shape, sized.config.measure.batch_size
    assert plan.on_policy is not None
    prompt, each = (batch.tokens - batch.scored) / batch.rows, plan.on_policy.responses
    new = max(1, round(WRITTEN * plan.on_policy.max_new_tokens))
    rows, updates = plan.pairs_per_update * each, updates_of(model)
    yield writing(shape, model.name, "sampling", TokenBatch(rows * updates, rows * updates * prompt, 0), new, size)
    update = TokenBatch(plan.pairs_per_update, rows * (prompt / each + new), rows * new)  # a prompt once for its group
    yield scoring(shape, model.name, "sampling", _times(update, updates), size)
    yield training(shape, model.name, update, updates, **options)


def updates_of(model: Aligned) -> int:
    """Return the optimizer steps of a model's training; the last of an epoch has the pairs that are left."""
    plan = model.plan
    if plan.updates is not None:
        return plan.updates
    return math.ceil((plan.epochs or 0) * math.ceil(len(model.rows) / plan.pairs_per_update))


def _pairs_trained_on(model: Aligned) -> int:
    """Return how many pairs a training reads, all updates together."""
    rows, each = len(model.rows), model.plan.pairs_per_update
    epochs, rest = divmod(updates_of(model), math.ceil(rows / each))
    return epochs * rows + rest * each


def _measure_jobs(sized: Sized) -> Iterator[Job]:
    config, shape, inputs = sized.config, sized.shape, sized.inputs
    prompts, size = _prompts(sized, [row["prompt"] for row in inputs.prompts]), config.measure.batch_size
    held_out = {recipe: _held_out(sized, recipe) for recipe in config.data.recipes}
    referred: set[str] = set()
    for model in (None, *inputs.models):
        name = model.name if model else "base"
        yield loading(shape, name, 1, model_of(config.model).dtype)
        yield scoring(shape, name, "hidden states", prompts._replace(scored=0), size)
        yield statistics(name, len(inputs.prompts))
        yield from _attack_jobs(sized, name, model)
        if model is None:
            continue
        if model.recipe not in referred:
            referred.add(model.recipe)
            yield scoring(shape, name, "divergences", held_out[model.recipe], size)
        yield scoring(shape, name, "divergences", held_out[model.recipe], size)


def _attack_jobs(sized: Sized, name: str, model: Aligned | None) -> Iterator[Job]:
    """Yield what is written under attack; adaptive attacks by the tries that they may take at most."""
    config, shape = sized.config, sized.shape
    measure, size = config.measure, config.measure.batch_size
    harmful = [row["prompt"] for row in sized.inputs.prompts if row["harmful"]]
    plan = attack_plan(config, method=model.plan.method if model else None, recipe=model.recipe if model else None)
    conversations = [user_says(row["prompt"]) for row in sized.inputs.prompts if not row["harmful"]]
    for entry in plan.attacks().values():
        if isinstance(entry, AdaptiveAttack):
            if entry.needs_weights:
                yield _search(sized, name, harmful[: plan.options.gcg_prompts])
            else:
                tried = _times(_prompts(sized, harmful), entry.tries(plan.options))
                new = measure.max_new_tokens + (ATTACKER_TOKENS if entry.needs_attacker else 0)
                yield writing(shape, name, "attacks", tried, new, size)
        else:
            conversations += [entry(prompt) for prompt in harmful]
    lengths = [sized.lengths.conversation(conversation) for conversation in conversations]
    new = max(1, round(WRITTEN * measure.max_new_tokens))
    yield writing(shape, name, "attacks", TokenBatch(len(lengths), sum(lengths), 0), new, size)


def _search(sized: Sized, name: str, prompts: Sequence[str]) -> Job:
    """Return a search's cost: each step scores `width` candidates behind a prompt that is kept."""
    gcg, shape = sized.config.measure.gcg, sized.shape
    steps = SEARCHED * len(prompts) * (gcg.steps if gcg else 250)
    tokens = steps * (gcg.width if gcg else 256) * TRIED
    work = 2 * (shape.backbone + shape.head) * tokens
    return Job(name, "search", "forward", len(prompts), tokens, 0, work, 2 * steps)


def _held_out(sized: Sized, recipe: str) -> TokenBatch:
    return _pairs(sized, training_rows(sized.inputs.corpus.rows_of_test(), recipe))


def _prompts(sized: Sized, texts: Iterable[str]) -> TokenBatch:
    lengths = [sized.lengths.conversation(user_says(text)) for text in texts]
    return TokenBatch(len(lengths), sum(lengths), 0)


def _pairs(sized: Sized, rows: Sequence[Row]) -> TokenBatch:
    """Return paired rows with the tokens of their prompts once and of both responses; `rows` counts pairs.

    Of many rows, every so many-th is looked at.
    """
    looked = rows[:: max(1, len(rows) // 256)]
    prompts = [sized.lengths.conversation(Conversation(tuple(row["prompt"]))) for row in looked]
    texts = [row[side][-1]["content"] for row in looked for side in ("chosen", "rejected")]
    responses = sum(length + 1 for length in sized.lengths.texts(texts))
    whole = TokenBatch(len(looked), sum(prompts) + responses, responses)
    return _times(whole, len(rows) / len(looked))._replace(rows=len(rows))


def _times(batch: TokenBatch, factor: float | int) -> TokenBatch:
    return TokenBatch(round(batch.rows * factor), batch.tokens * factor, batch.scored * factor)
