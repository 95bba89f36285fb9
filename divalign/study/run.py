"""A whole run: the stages in order, for the base model and every aligned one, and results.json from their files.

Every stage leaves files that are found by the hash of their inputs, so a run that was stopped resumes where it
stopped, and a finished one does no work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from divalign import __version__
from divalign.config import Config
from divalign.core.stats import Estimate
from divalign.data.batching import encode_row
from divalign.data.examples import Row
from divalign.data.recipes import training_rows
from divalign.lm.memory import release
from divalign.records import (
    ModelResult,
    NotMeasured,
    PartRates,
    PartResult,
    Results,
    SeparationNumbers,
    SeparationPart,
    VerdictRecord,
    publish_record,
)
from divalign.safety.suffix_search import check_room
from divalign.stages.answers import answer_corpora
from divalign.stages.attack import attack, check_lengths, read_prompts
from divalign.stages.corpus import Corpus, prompt_rows, read_corpus
from divalign.stages.cost import check_weights_fit
from divalign.stages.estimate import estimate
from divalign.stages.folder import Clock, Progress, locked, silent
from divalign.stages.hidden import check_layers, depth_of
from divalign.stages.judge import judge
from divalign.stages.models import ModelSpec, OpenModel, open_model, write_model_spec
from divalign.stages.provenance import write_environment
from divalign.stages.separate import separate
from divalign.stages.tracking import with_probes
from divalign.stages.train import Trainer, refuse_another, train
from divalign.store import cached_rows, digest
from divalign.study.claim import claim, is_new, untracked
from divalign.study.plan import (
    Aligned,
    aligned_models,
    answer_plan,
    attack_plan,
    check_names,
    corpus_of,
    estimate_plan,
    judge_plan,
    model_of,
    rows_file,
    separation_plan,
    with_placeholders,
)
from divalign.study.verdict import ModelPoint, attack_counts, log_distance, verdict, verdict_record

FEWEST_ROWS = 10  # of an interval at confidence .95, as core.estimate checks


class Inputs(NamedTuple):
    """What a run works on: its corpora by seed, the prompts that every model is asked, and the models to train."""

    corpora: Mapping[int, Corpus]
    prompts: list[Row]
    models: list[Aligned]

    @property
    def corpus(self) -> Corpus:
        """Return the first seed's corpus; prompts to measure on are the same for all seeds."""
        return next(iter(self.corpora.values()))


def run(config: Config, out: Path, *, trainer: Trainer = train, progress: Progress = silent) -> Results:
    """Do what `config` says, in the folder `out`, and return its results.json.

    `trainer` trains a model as `stages.train.train` does, here or on other machines.

    Raises ValueError, before anything is written, for what cannot be run: names unknown to a table, missing files,
    one-class data, texts that do not fit the model, or a folder that holds a run with another configuration or in
    which another process is at work.
    """
    clock, inputs = Clock(out / "clock.json"), read_inputs(config)
    check_names(config)
    if is_new(out, config):
        _check_model(config, inputs)
    with locked(out):
        claim(out, config)
        if config.data.answers == "model":
            inputs = _answered_inputs(config, out, clock.around(progress))
        for aligned in inputs.models:
            refuse_another(model_of(config.model), aligned.rows, aligned.plan, out / "models" / aligned.name)
        write_environment(out)
        models = list(_measure_all(config, inputs, out, trainer, clock.around(progress)))
        return publish_record(
            out / "results.json",
            Results(
                divalign=__version__,
                config_sha256=digest(untracked(config)),
                seconds=clock.seconds,
                overlap=inputs.corpus.overlap or None,
                models=models,
                verdict=_verdict(models),
            ),
            aside=["seconds"],
        )


def read_inputs(config: Config) -> Inputs:
    """Draw what a run works on, with placeholders where the base is to write the answers.

    Raises ValueError as `read_corpus` and `aligned_models` do, and where held-out rows cannot be made.
    """
    corpora = {seed: with_placeholders(config.data, corpus) for seed, corpus in _read_corpora(config).items()}
    inputs = _inputs(config, corpora)
    for recipe in config.data.recipes:
        training_rows(inputs.corpus.rows_of_test(), recipe)
    return inputs


def _read_corpora(config: Config) -> dict[int, Corpus]:
    return {seed: read_corpus(corpus_of(config.data), seed=seed) for seed in config.train.seeds}


def _inputs(config: Config, corpora: Mapping[int, Corpus]) -> Inputs:
    return Inputs(corpora, prompt_rows(corpora[config.train.seeds[0]]), aligned_models(config, corpora))


def _answered_inputs(config: Config, out: Path, progress: Progress) -> Inputs:
    """Let the base answer the prompts, or find its answers in the run folder."""
    base = open_model(model_of(config.model))
    plan, folder = answer_plan(config), out / "data"
    inputs = _inputs(config, answer_corpora(_read_corpora(config), base, plan, folder, progress=progress))
    usable = len(inputs.corpus.rows_of_test())
    if usable < FEWEST_ROWS:
        raise ValueError(
            f"the base answers {usable} of the {len(inputs.corpus.test)} test prompts without refusing, and the "
            f"interval of a divergence needs {FEWEST_ROWS}; raise data.n_test, or take other prompts"
        )
    return inputs


def measure(
    model: OpenModel,
    prompts: Sequence[Row],
    config: Config,
    folder: Path,
    *,
    method: str | None = None,
    recipe: str | None = None,
    progress: Progress,
) -> dict[str, PartResult]:
    """Run the stages that measure any model: separate, attack, judge; return its results by part of the prompts.

    `method` and `recipe` are those of an aligned model, which decide about GCG.
    """
    separation = separate(model, prompts, separation_plan(config), folder, progress=progress)
    attack(model, prompts, attack_plan(config, method=method, recipe=recipe), folder, progress=progress)
    judged = judge(folder, judge_plan(config), folder)
    mark = judged.verdicts[0][0]["judge"], judged.verdicts[0][0]["judge_sha256"]
    rates = next(entry for entry in judged.rates.judges if (entry.judge, entry.judge_sha256) == mark)
    return {name: _part(part, rates.parts[name], config.measure.position) for name, part in separation.parts.items()}


def model_result(
    parts: Mapping[str, PartResult],
    *,
    name: str,
    method: str | None = None,
    data: str | None = None,
    seed: int | None = None,
    divergence: Mapping[str, Estimate] | None = None,
) -> ModelResult:
    """Return a model's entry of results.json from its results by part of the prompts."""
    return ModelResult(
        name=name,
        method=method,
        data=data,
        seed=seed,
        divergence=dict(divergence or {}),
        held_out=parts.get("held_out"),
        **dict(parts["test"]),
    )


def _measure_all(
    config: Config, inputs: Inputs, out: Path, trainer: Trainer, progress: Progress
) -> Iterator[ModelResult]:
    """Train every model, then measure each, the base first."""
    cached_rows(out / "data" / "prompts.jsonl", digest(inputs.prompts), lambda: inputs.prompts)
    base_spec = model_of(config.model)
    write_model_spec(out / "models" / "base", base_spec)
    trained = [_train(aligned, base_spec, inputs.prompts, out, trainer, progress) for aligned in inputs.models]
    base = open_model(base_spec)
    parts = measure(base, inputs.prompts, config, out / "models" / "base", progress=progress)
    yield model_result(parts, name="base")
    for aligned, spec in zip(inputs.models, trained, strict=True):
        yield _measure_aligned(aligned, open_model(spec), base, config, inputs, out, progress)
        release()


def _train(
    aligned: Aligned, base: ModelSpec, prompts: Sequence[Row], out: Path, trainer: Trainer, progress: Progress
) -> ModelSpec:
    path = rows_file(out, aligned.recipe, aligned.plan.seed)
    cached_rows(path, digest(aligned.rows), lambda: aligned.rows)
    folder = out / "models" / aligned.name
    plan = replace(aligned.plan, tracking=with_probes(aligned.plan.tracking, prompts))
    return trainer(base, aligned.rows, plan, folder, cache=out / "cache", progress=progress)


def _measure_aligned(
    aligned: Aligned,
    model: OpenModel,
    base: OpenModel,
    config: Config,
    inputs: Inputs,
    out: Path,
    progress: Progress,
) -> ModelResult:
    folder, plan = out / "models" / aligned.name, aligned.plan
    parts = measure(model, inputs.prompts, config, folder, method=plan.method, recipe=aligned.recipe, progress=progress)
    path = out / "data" / f"{aligned.recipe}-test.jsonl"
    rows = training_rows(inputs.corpus.rows_of_test(), aligned.recipe)
    cached_rows(path, digest(rows), lambda: rows)
    trained_on = aligned.rows if config.measure.train_bound else None
    options = {"trained_on": trained_on, "cache": out / "cache", "progress": progress}
    record = estimate(rows, model, base, estimate_plan(config), folder, **options)
    divergence = {name: entry.estimate for name, entry in record.divergences.items()}
    return model_result(
        parts, name=aligned.name, method=plan.method, data=aligned.recipe, seed=plan.seed, divergence=divergence
    )


def _part(separation: SeparationPart, rates: PartRates, position: str) -> PartResult:
    """Return what results.json repeats of one part of the prompts."""
    if rates.over_refusal is None:
        raise ValueError("no benign prompt was asked directly, so over-refusal is unknown; add benign prompts")
    layer = separation.last_layer[position]
    if isinstance(layer, NotMeasured):
        raise ValueError(f"the last layer's states allow no separation: {layer.why}")
    numbers = SeparationNumbers(
        bhattacharyya_paper=layer.bhattacharyya_paper,
        silhouette_paper=layer.silhouette_paper,
        bhattacharyya=layer.bhattacharyya,
        probe_auc=layer.probe_auc,
        lexical_auc=separation.lexical_auc,
    )
    return PartResult(
        separation=numbers,
        flags=sorted({*layer.flags, *layer.flags_paper}),
        asr={name: entry.asr for name, entry in rates.attacks.items()},
        asr_no_refusal={name: entry.asr_no_refusal for name, entry in rates.attacks.items()},
        over_refusal=rates.over_refusal,
    )


def _verdict(models: Sequence[ModelResult]) -> VerdictRecord:
    """Test over the aligned models whether the seed's separation goes with fewer successes of all attacks together."""
    aligned = [model for model in models if model.method is not None]
    counts = attack_counts([model.asr for model in aligned])
    return verdict_record(verdict([_point(model, *count) for model, count in zip(aligned, counts, strict=True)]))


def _point(model: ModelResult, successes: int, trials: int) -> ModelPoint:
    """Return an aligned model as the verdict sees it; a distance enters by its logarithm."""
    separation = log_distance(model.separation.bhattacharyya_paper.value)
    recipe = f"{model.method} on {model.data}"
    return ModelPoint(model.name, "base", separation, successes, trials, recipe, data=model.data, method=model.method)


def _check_model(config: Config, inputs: Inputs) -> None:
    """Load the model and show it the longest texts, so that what does not fit is met before anything is written."""
    check_weights_fit(model_of(config.model), config.train.lora.rank if config.train.lora else None)
    lm = open_model(model_of(config.model)).lm()
    context = getattr(lm.model.config.get_text_config(), "max_position_embeddings", None) or config.train.max_length
    if config.train.max_length > context:
        raise ValueError(f"train.max_length is {config.train.max_length}, the model's context {context}; lower it")
    trained = {(model.recipe, model.plan.seed): model.rows for model in inputs.models}.values()
    measured = [training_rows(inputs.corpus.rows_of_test(), recipe) for recipe in config.data.recipes]
    for rows in [*(trained if config.train.too_long == "refuse" else []), *measured]:
        for row in rows:
            encode_row(lm.tokenizer, row["prompt"], "?", max_length=config.train.max_length)
    check_lengths(attack_plan(config), inputs.prompts, lm.tokenizer, context)
    check_layers(config.measure.layers, depth_of(lm.model))
    plans = [attack_plan(config, method=model.plan.method, recipe=model.recipe) for model in inputs.models]
    for plan in [plan for plan in plans if "gcg" in plan.names][:1]:
        check_room(lm, read_prompts(inputs.prompts), plan.options, context=context)
