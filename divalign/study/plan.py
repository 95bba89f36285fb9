"""What a configuration asks of the stages: the models of a run, and each stage's plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from divalign.config import Config, Data, Gcg, Measure, Model, OnPolicy
from divalign.core.losses import find_method, with_baseline
from divalign.core.paper_code import PAPER_CODE
from divalign.data.examples import Row
from divalign.data.recipes import find_recipe, training_rows
from divalign.safety.adaptive import AttackOptions
from divalign.safety.attacks import find_attack
from divalign.safety.gcg import GcgOptions
from divalign.safety.judges import find_judge
from divalign.stages.answers import AnswerPlan, needs_worse_answer, placeholders
from divalign.stages.attack import AttackPlan, check_plan
from divalign.stages.corpus import Corpus, CorpusSpec
from divalign.stages.estimate import EstimatePlan
from divalign.stages.judge import JudgePlan
from divalign.stages.layer_separation import SeparationPlan
from divalign.stages.models import LoadOptions, ModelSpec, base_spec, find_model
from divalign.stages.open_judge import ANY, check_judge, check_wordings, is_served
from divalign.stages.rewards import check_reward
from divalign.stages.serving import check_served, for_helpers, server_options
from divalign.stages.tracking import TrackingPlan, check_trackers
from divalign.stages.train_plan import LoraPlan, OnPolicyPlan, TrainPlan
from divalign.store import file_name


class Aligned(NamedTuple):
    """A model to be trained: its folder's name, its data recipe, its rows, and how it is trained."""

    name: str
    recipe: str
    rows: list[Row]
    plan: TrainPlan


def model_of(model: Model) -> ModelSpec:
    """Return the base model of a run."""
    return base_spec(model.source, name="base", **model.model_dump(exclude={"source"}))


def corpus_of(data: Data) -> CorpusSpec:
    return CorpusSpec(**data.model_dump(exclude={"recipes", "answer_tokens", "allow_refusing_base"}))


def answer_plan(config: Config) -> AnswerPlan:
    """Return how the base model answers the prompts itself, for `data.answers: model`."""
    return AnswerPlan(
        max_new_tokens=config.data.answer_tokens,
        worse=any(map(needs_worse_answer, config.data.recipes)),
        allow_refusing=config.data.allow_refusing_base,
        batch_size=config.measure.batch_size,
    )


def with_placeholders(data: Data, corpus: Corpus) -> Corpus:
    """Return a corpus to plan and count with: placeholders stand where the base is to write the answers."""
    return placeholders(corpus, data.answer_tokens) if data.answers == "model" else corpus


def aligned_models(config: Config, corpora: Mapping[int, Corpus]) -> list[Aligned]:
    """Return every (seed, recipe, method) of the run, with its training rows.

    Raises ValueError for an unknown method or recipe, or a model twice, before anything is trained.
    """
    for recipe in (*config.train.methods_on, *config.train.updates_on):
        find_recipe(recipe)
    several = len(config.train.seeds) > 1
    models = []
    for seed in config.train.seeds:
        for recipe in config.data.recipes:
            rows = training_rows(corpora[seed].train, recipe)
            for method in methods_on(config, recipe):
                name = file_name(f"{recipe}-{method}" + (f"-seed{seed}" if several else ""))
                models.append(Aligned(name, recipe, rows, train_plan(config, method=method, recipe=recipe, seed=seed)))
    _refuse_one_folder_for_two(models)
    return models


def methods_on(config: Config, recipe: str) -> list[str]:
    """Return the methods that a recipe's models are trained with, under their full names."""
    methods = config.train.methods_on.get(recipe, config.train.methods)
    return [with_baseline(method, config.train.baseline) for method in methods]


def _refuse_one_folder_for_two(models: Sequence[Aligned]) -> None:
    """Raise ValueError where two models have one name: they would share a folder, and count as two in the verdict."""
    for name, count in Counter(model.name for model in models).items():
        if count > 1:
            hint = "leave one out (with train.baseline prompt, METHOD+prompt is METHOD)"
            raise ValueError(f"{count} models of the run are called {name}; {hint}")


def train_plan(config: Config, *, method: str, recipe: str, seed: int) -> TrainPlan:
    """Return how one model is trained.

    Raises ValueError for an unknown method, and for one of which the paper's code has no variant where that is asked.
    """
    train = config.train
    method = with_baseline(method, train.baseline)
    find_method(method)
    check_trackers(train.report_to)
    if train.variant == "paper_code" and method not in PAPER_CODE:
        raise ValueError(
            f"train.variant paper_code is for {' and '.join(PAPER_CODE)}, and train.methods has {method}; "
            "leave the method out, or set train.variant to paper"
        )
    return TrainPlan(
        method=method,
        seed=seed,
        beta=train.beta,
        updates=train.updates_on.get(recipe, train.updates),
        epochs=train.epochs,
        sft_weight=train.sft_weight,
        baseline_learning_rate=train.baseline_learning_rate,
        variant=train.variant,
        too_long=train.too_long,
        pairs_per_update=train.pairs_per_update,
        pairs_per_batch=train.pairs_per_batch,
        learning_rate=train.learning_rate,
        warmup_updates=train.warmup_updates,
        max_length=train.max_length,
        lora=LoraPlan(train.lora.rank, train.lora.alpha) if train.lora else None,
        continue_adapter=train.lora is not None and train.lora.continue_,
        log_every=train.log_every,
        batch_size=config.measure.batch_size,
        on_policy=_on_policy_plan(config, method),
        tracking=TrackingPlan(tuple(train.report_to)) if train.report_to else None,
    )


def _on_policy_plan(config: Config, method: str) -> OnPolicyPlan | None:
    """Return how a method samples responses, or None where it samples none; lambda is for methods that mix.

    Raises ValueError for an unknown reward.
    """
    online = find_method(method).on_policy
    if online is None:
        return None
    options = config.train.on_policy or OnPolicy()
    check_reward(options.reward)
    settings = options.model_dump(exclude={"lambda_"})
    return OnPolicyPlan(**settings, offline_weight=options.lambda_ if online.mixes else 0.0)


def separation_plan(config: Config) -> SeparationPlan:
    measure = config.measure
    return SeparationPlan(positions=(measure.position,), layers=measure.layers, batch_size=measure.batch_size)


def attack_plan(config: Config, *, method: str | None = None, recipe: str | None = None) -> AttackPlan:
    """Return the attacks on one model; GCG is among them where the configuration searches suffixes on such models.

    Raises ValueError for an unknown name.
    """
    measure, gcg = config.measure, config.measure.gcg
    searched = gcg is not None and (recipe, method) in _searched(config, gcg)
    names = [*measure.attacks, *(["gcg"] if searched and "gcg" not in measure.attacks else [])]
    return AttackPlan(
        names=names,
        options=AttackOptions(
            max_new_tokens=measure.max_new_tokens,
            rounds=measure.rounds,
            gcg=_gcg_options(gcg),
            gcg_prompts=gcg.prompts if gcg else None,
        ),
        attacker=find_model(measure.attacker, for_helpers(_serving(measure))) if measure.attacker else None,
        stop_judge=find_judge(gcg.ends if gcg else "refusal_strings"),
        batch_size=measure.batch_size,
    )


def _searched(config: Config, gcg: Gcg) -> list[tuple[str, str]]:
    """Return the recipe and the full name of the method of the models that are searched."""
    pairs = [(recipe, method) for recipe, methods in gcg.methods_on.items() for method in methods]
    return [(recipe, with_baseline(method, config.train.baseline)) for recipe, method in pairs]


def _check_searched(config: Config, gcg: Gcg) -> None:
    """Raise ValueError for an unknown name, and for models that are not trained; the default may name more."""
    for recipe, method in _searched(config, gcg):
        find_recipe(recipe)
        find_method(method)
        trained = methods_on(config, recipe) if recipe in config.data.recipes else []
        if method not in trained and gcg.methods_on != Gcg().methods_on:
            raise ValueError(
                f"measure.gcg.methods_on has {method} on {recipe}, which the run does not train; leave it out, or "
                "train it"
            )


def _gcg_options(gcg: Gcg | None) -> GcgOptions:
    if gcg is None:
        return GcgOptions()
    return GcgOptions(steps=gcg.steps, width=gcg.width, batch_size=min(gcg.width, 256), check_every=gcg.check_every)


def judge_plan(config: Config) -> JudgePlan:
    measure, question = config.measure, config.measure.question
    questions = {ANY: question} if question else {}
    return JudgePlan(names=[measure.judge], questions=questions, options=_serving(measure), wordings=measure.wordings)


def _serving(measure: Measure) -> LoadOptions:
    """Return how the judge and the attacker are called where they are served."""
    return LoadOptions(server=server_options(**measure.server.model_dump()) if measure.server else None)


def estimate_plan(config: Config) -> EstimatePlan:
    """Return how divergences are estimated: with every row, as none of them trained the model.

    Raises ValueError for an unknown divergence.
    """
    return EstimatePlan(
        divergences=config.measure.divergences,
        beta=config.train.beta,
        split=False,
        max_length=config.train.max_length,
        batch_size=config.measure.batch_size,
    )


def check_names(config: Config) -> None:
    """Look every name up, so that a typing error is met before the training and not after it."""
    check_judge(config.measure.judge, question=config.measure.question, options=_serving(config.measure))
    if config.measure.wordings is not None:
        check_wordings(config.measure.judge)
    for name in config.measure.attacks:
        find_attack(name)
    plan = attack_plan(config)
    check_plan(plan)
    attacker = plan.attacker is not None and plan.attacker.load is None
    check_served(_serving(config.measure).server, [attacker, is_served(config.measure.judge)])
    estimate_plan(config)
    if config.train.lora and config.train.lora.continue_ and model_of(config.model).adapter is None:
        raise ValueError(
            f"train.lora.continue is true, and {config.model.source} has no adapter; give the adapter's folder as "
            "model.source, or leave train.lora.continue out to start one"
        )
    if config.measure.gcg is not None:
        _check_searched(config, config.measure.gcg)


def rows_file(out: Path, recipe: str, seed: int) -> Path:
    """Return where a run keeps the rows that its models of a recipe and seed are trained on."""
    return out / "data" / file_name(f"{recipe}-seed{seed}.jsonl")
