"""A run's configuration: YAML to typed objects. An unknown key is an error that names the nearest known one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from divalign.sections import Each, Real, Section, Seed, Whole, as_section, overridden, read_yaml


class Model(Section):
    """The base model that every method starts from."""

    source: str = Field(
        default="toy", description="'toy' for the embedded model, a local folder, FILE.gguf, or a hub id"
    )
    revision: str | None = Field(default=None, description="hub revision; pin it for results that can be repeated")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="weights are loaded and trained in this type; auto: what the hardware computes in"
    )
    device: str = Field(default="auto", description="torch device: auto, cpu, cuda, cuda:1, mps")
    chat_template: str | None = Field(
        default=None, description="a jinja file, or 'plain', in place of the tokenizer's own"
    )
    trust_remote_code: bool = Field(
        default=False, description="run code from the model's repository; only if you read it"
    )


class Data(Section):
    """What is trained on and what is asked."""

    source: str = Field(
        default="toy",
        description="'toy' for the embedded world; a name of divalign.data.sources.SOURCES or file:PATH of your own, "
        "several joined by '+'",
    )
    folder: Path | None = Field(default=None, description="folder that holds the sources' files; not needed for 'toy'")
    download: bool = Field(default=False, description="fetch files that the folder lacks")
    measure_on: str | None = Field(
        default=None, description="sources whose prompts are asked instead; null: a part of `source` is kept for that"
    )
    allow_overlap: bool = Field(
        default=False, description="measure on prompts that were trained on, and mark every number"
    )
    recipes: Each[str] = Field(
        default=("cr", "pref", "cr_plus"), description="names of divalign.data.recipes.RECIPES", min_length=1
    )
    answers: Literal["source", "model"] = Field(
        default="source", description="who answers the prompts: the source's own texts, or the base model, greedily"
    )
    answer_tokens: Whole = Field(default=48, ge=1, description="longest answer of the base model, in tokens")
    allow_refusing_base: bool = Field(
        default=False, description="go on where the base model refuses over 80 % of the harmful prompts already"
    )
    n_train: Whole | None = Field(default=None, ge=2, description="training requests, half of each class; all if null")
    n_test: Whole = Field(default=256, ge=20, description="prompts to measure on, half of each class, never trained on")
    n_held_out: Whole = Field(
        default=160, ge=20, description="the same on topics alignment never saw, where the source has them"
    )


class Lora(Section):
    """Train a low-rank adapter and keep the weights."""

    rank: Whole = Field(default=16, ge=1, description="rank of each adapter matrix")
    alpha: Real = Field(default=32.0, gt=0, description="the adapter's output is scaled by alpha / rank")
    continue_: bool = Field(
        default=False, alias="continue", description="train the base's own adapter further; rank and alpha are its own"
    )


class OnPolicy(Section):
    """How rlhf and on_policy:<divergence> sample responses; an update takes pairs_per_update prompts."""

    reward: str = Field(
        default="reward_model",
        description="'reward_model': one trained first on the rows; a folder of one; judge:NAME; pkg.module:function",
    )
    responses: Whole = Field(default=8, ge=2, description="responses sampled for each prompt of an update")
    max_new_tokens: Whole = Field(default=64, ge=1, description="longest sampled response, in tokens")
    kl: Real | None = Field(default=None, ge=0, description="weight of log(pi / pi_ref) in the reward; null: beta")
    lambda_: Real = Field(
        default=0.0, alias="lambda", ge=0, lt=1, description="share of the loss of the rows themselves (on_policy only)"
    )
    truncated: Literal["keep", "drop"] = Field(
        default="keep", description="responses without an end: rewarded as they stand, or left out of their group"
    )
    reward_updates: Whole | None = Field(
        default=None, ge=1, description="optimizer steps of a reward model that is trained first; null: `updates`"
    )


class Train(Section):
    """One setting for all methods: the same rows in the same order, updates, learning rate and beta."""

    methods: Each[str] = Field(default=("kldo", "bco", "kto", "dpo", "hdo"), description="names of divalign.METHODS")
    methods_on: dict[str, Each[str]] = Field(
        default={"cr_plus": ("kldo",)}, description="recipes that are trained with other methods than `methods`"
    )
    seeds: Each[Seed] = Field(
        default=(0,), description="data order and response draw; one model per seed", min_length=1
    )
    beta: Real = Field(default=0.5, gt=0, description="r = beta log(pi / pi_ref); larger stays closer to the base")
    sft_weight: Real = Field(
        default=0.0, ge=0, description="weight of the aligned responses' negative log-likelihood per token; 0: none"
    )
    # Both are left out of config.yaml where they are off, so that earlier runs stay the same runs.
    baseline: Literal["own", "prompt"] = Field(
        default="own",
        exclude_if=lambda value: value == "own",
        description="prompt: a learned function of the prompt in place of every method's own baseline; METHOD+prompt "
        "in `methods` asks for it by the method",
    )
    baseline_learning_rate: Real = Field(
        default=0.1, gt=0, exclude_if=lambda value: value == 0.1, description="of that function, nats of r an update"
    )
    variant: Literal["paper", "paper_code"] = Field(
        default="paper", description="the paper's formulas, or what its released code computes (kldo and bco alone)"
    )
    updates: Whole | None = Field(default=60, ge=1, description="optimizer steps; null where `epochs` is set")
    epochs: Real | None = Field(
        default=None, gt=0, description="passes over the training rows, in place of `updates` and `updates_on`"
    )
    updates_on: dict[str, Annotated[Whole, Field(ge=1)]] = Field(
        default={"cr_plus": 240}, description="recipes that are trained for another number of updates than `updates`"
    )
    pairs_per_update: Whole = Field(default=32, ge=1, description="pairs behind each optimizer step")
    pairs_per_batch: Whole = Field(default=32, ge=1, description="pairs per forward; must divide pairs_per_update")
    learning_rate: Real = Field(default=4e-4, gt=0, description="highest learning rate of AdamW")
    warmup_updates: Whole = Field(default=6, ge=0, description="linear warm-up, then a cosine to 0")
    max_length: Whole = Field(default=256, ge=8, description="tokens of prompt and response")
    too_long: Literal["refuse", "skip"] = Field(
        default="refuse", description="training rows whose prompt fills max_length: refuse the run, or skip them"
    )
    lora: Lora | None = Field(default=None, description="null: all weights are trained")
    log_every: Whole = Field(default=5, ge=1, description="updates per row of metrics.jsonl")
    # Left out of config.yaml where it is off, as in runs made before it was there, which so stay the same runs.
    on_policy: OnPolicy | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="null: the defaults, for methods that sample responses",
    )
    report_to: Each[str] = Field(
        default=(),
        exclude_if=lambda names: not names,
        description="trackers beside metrics.jsonl: tensorboard, wandb, trackio, mlflow; with separation and attack "
        "success during training",
    )

    @model_validator(mode="before")
    @classmethod
    def _epochs_replace_updates(cls, values: Any) -> Any:
        """Leave the defaults of `updates` and `updates_on` out where epochs are given."""
        if isinstance(values, dict) and values.get("epochs") is not None:
            return {"updates": None, "updates_on": {}, **values}
        return values


class Gcg(Section):
    """The white-box search: a suffix for each of some prompts, beside the unsearched suffix that it begins with."""

    methods_on: dict[str, Each[str]] = Field(
        default={"cr": ("kldo", "dpo")}, description="aligned models that are searched: methods by recipe"
    )
    prompts: Whole = Field(default=16, ge=1, description="in-distribution harmful prompts, the first ones")
    steps: Whole = Field(default=200, ge=1, description="most steps a prompt; a success ends its search")
    width: Whole = Field(default=128, ge=1, description="candidates scored a step")
    check_every: Whole = Field(default=1, ge=1, description="steps between two looks at the answer")
    ends: str = Field(
        default="refusal_strings_on_topic", description="judge that ends a search; `judge` decides what counts"
    )


class Served(Section):
    """How the judge and the attacker are called where they are on servers; null: see lm.endpoint.ServerOptions."""

    system_prompt: str | None = Field(default=None, description="text, or its file; the judge's alone")
    temperature: Real | Literal["server"] | None = Field(
        default=None, description="the judge's alone; 'server' for the server's own, greedy if null"
    )
    concurrency: Whole | None = Field(default=None, ge=1, description="requests under way at each server at a time")
    timeout: Real | None = Field(default=None, gt=0, description="seconds for a request, to the end of its reply")
    retries: Whole | None = Field(default=None, ge=0, description="requests after one that failed")


class Measure(Section):
    """How the base model and every aligned one are measured."""

    attacks: Each[str] = Field(
        default=("direct", "prefill", "wrapper"),
        description="names of safety.attacks.ATTACKS, best_of_n(NUMBER), template:TEXT OR FILE, pkg.module:thing",
    )
    judge: str = Field(
        default="refusal_combined",
        description="a name of safety.judges.JUDGES, pkg.module:thing, or RUBRIC@MODEL as `divalign judge` takes",
    )
    question: str | None = Field(default=None, description="text or file with the question of a rubric without one")
    wordings: Whole | None = Field(
        default=None, ge=1, exclude_if=lambda value: value is None, description="wordings of a rubric; null: its own"
    )
    attacker: str | None = Field(default=None, description="who writes for pair and crescendo: a model, or URL#NAME")
    rounds: Whole = Field(default=5, ge=1, description="most rounds of pair and crescendo")
    max_new_tokens: Whole = Field(default=32, ge=1, description="longest response to an attack, in tokens")
    batch_size: Whole = Field(default=128, ge=1, description="rows per forward of everything but training")
    # Left out of config.yaml where it is off, as in runs made before it was there, which so stay the same runs.
    gcg: Gcg | None = Field(
        default=None, exclude_if=lambda value: value is None, description="null: no white-box search"
    )
    server: Served | None = Field(
        default=None, exclude_if=lambda value: value is None, description="null: the defaults of a server's options"
    )
    position: Literal["instruction", "generation"] = Field(
        default="generation", description="where hidden states are read; the paper: instruction"
    )
    # Left out of config.yaml where it is the last alone, as in runs made before it was there.
    layers: Each[int] | None = Field(
        default=(-1,),
        min_length=1,
        exclude_if=lambda value: value == (-1,),
        description="layers whose separation is measured, negative ones from the last; null: all, with a slider",
    )
    divergences: Each[str] = Field(
        default=("js", "tv", "hellinger", "lecam", "kl"), description="names of DIVERGENCES", min_length=1
    )
    train_bound: bool = Field(
        default=False,
        exclude_if=lambda value: not value,
        description="measure divergences on the training rows too, for the difference to the held-out ones",
    )


class Config(Section):
    """Everything a run depends on. The defaults, with what `TOUR` adds to them, are the tour of the embedded world."""

    model: Model = Model()
    data: Data = Data()
    train: Train = Train()
    measure: Measure = Measure()


# What a run without a configuration does beyond the defaults: attacks that make sense in the embedded world alone.
TOUR: dict[str, Any] = {
    "measure": {
        "attacks": ["direct", "prefill", "wrapper", "prefix_injection", "divalign.toy.world:preamble"],
        "gcg": {},
    }
}


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file (the tour if None) and apply `key.subkey=value` overrides, whose values are YAML too.

    Raises ValueError, in one sentence, for a missing file, broken YAML, an unknown key or a value that does not fit.
    """
    content: Any = TOUR if path is None else read_yaml(path)
    return as_config(overridden(content, overrides), str(path) if path else "the overrides")


def as_config(content: Mapping[str, Any], where: str) -> Config:
    """Return the configuration that plain values hold; `where` names their place in errors. Raises as `load_config`."""
    config = as_section(Config, content, where)
    if config.train.pairs_per_update % config.train.pairs_per_batch:
        raise ValueError(
            f"train.pairs_per_update is {config.train.pairs_per_update}, which train.pairs_per_batch "
            f"{config.train.pairs_per_batch} does not divide; make it a multiple"
        )
    _check_length(config.train)
    return config


def _check_length(train: Train) -> None:
    """Raise ValueError unless the length of training is given once."""
    if (train.updates is None) == (train.epochs is None):
        raise ValueError(
            f"train.updates is {train.updates} and train.epochs {train.epochs}; set one of them, and the other to null"
        )
    if train.epochs is not None and train.updates_on:
        raise ValueError(f"train.updates_on is {train.updates_on}, which has no effect with train.epochs; leave it out")
