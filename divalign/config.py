"""A run's configuration: YAML to typed objects. An unknown key is an error that names the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


Kind = TypeVar("Kind", bound=Section)
Value = TypeVar("Value")


def _no_switch(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("switch", "Input should be a number")
    return value


def _each_once(values: tuple[Value, ...]) -> tuple[Value, ...]:
    twice = [value for value in dict.fromkeys(values) if values.count(value) > 1]
    if twice:
        raise PydanticCustomError("twice", "Name {value} once", {"value": repr(twice[0])})
    return values


# YAML reads yes and on as true, which pydantic takes for 1. Only whole numbers are strict: YAML reads 4e-4 as a text.
Whole = Annotated[int, Strict()]
Real = Annotated[float, BeforeValidator(_no_switch)]
Seed = Annotated[int, Strict(), Field(ge=0, lt=2**32)]
Each = Annotated[tuple[Value, ...], AfterValidator(_each_once)]


class Model(Section):
    """The base model that every method starts from."""

    source: str = Field(default="toy", description="'toy' for the embedded model, a local folder, or a hub id")
    revision: str | None = Field(default=None, description="hub revision; pin it for results that can be repeated")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="weights are loaded and trained in this type"
    )
    device: str = Field(default="cpu", description="torch device: cpu, cuda, cuda:1, mps")
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
    n_train: Whole | None = Field(default=None, ge=2, description="training requests, half of each class; all if null")
    n_test: Whole = Field(default=256, ge=20, description="prompts to measure on, half of each class, never trained on")
    n_held_out: Whole = Field(
        default=160, ge=20, description="the same on topics alignment never saw, where the source has them"
    )


class Lora(Section):
    """Train a low-rank adapter and keep the weights."""

    rank: Whole = Field(default=16, ge=1)
    alpha: Real = Field(default=32.0, gt=0)


class Train(Section):
    """One setting for all methods: the same rows in the same order, updates, learning rate and beta."""

    methods: Each[str] = Field(default=("kldo", "bco", "kto", "dpo", "hdo"), description="names of divalign.METHODS")
    methods_on: dict[str, Each[str]] = Field(
        default={"cr_plus": ("kldo",)}, description="recipes that are trained with other methods than `methods`"
    )
    seeds: Each[Seed] = Field(
        default=(0,), description="data order and response draw; one model per seed", min_length=1
    )
    beta: Real = Field(default=0.5, gt=0)
    updates: Whole = Field(default=60, ge=1, description="optimizer steps")
    updates_on: dict[str, Annotated[Whole, Field(ge=1)]] = Field(
        default={"cr_plus": 240}, description="recipes that are trained for another number of updates than `updates`"
    )
    pairs_per_update: Whole = Field(default=32, ge=1, description="pairs behind each optimizer step")
    pairs_per_batch: Whole = Field(default=32, ge=1, description="pairs per forward; must divide pairs_per_update")
    learning_rate: Real = Field(default=4e-4, gt=0)
    warmup_updates: Whole = Field(default=6, ge=0, description="linear warm-up, then a cosine to 0")
    max_length: Whole = Field(default=256, ge=8, description="tokens of prompt and response")
    lora: Lora | None = Field(default=None, description="null: all weights are trained")
    log_every: Whole = Field(default=5, ge=1, description="updates per row of metrics.jsonl")


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
    attacker: str | None = Field(default=None, description="who writes for pair and crescendo: a model, or URL#NAME")
    rounds: Whole = Field(default=5, ge=1, description="most rounds of pair and crescendo")
    max_new_tokens: Whole = Field(default=32, ge=1)
    batch_size: Whole = Field(default=128, ge=1)
    # Left out of config.yaml where it is off, as in runs made before it was there, which so stay the same runs.
    gcg: Gcg | None = Field(
        default=None, exclude_if=lambda value: value is None, description="null: no white-box search"
    )
    position: Literal["instruction", "generation"] = Field(
        default="generation", description="where hidden states are read; the paper: instruction"
    )
    divergences: Each[str] = Field(default=("js", "tv", "hellinger", "lecam", "kl"), description="names of DIVERGENCES")


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
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f"--set {override!r} has no '='; write --set key.subkey=value")
        content = with_value(content, key, _parse(value, f"--set {override}"))
    return as_config(content, str(path) if path else "the overrides")


def as_config(content: Mapping[str, Any], where: str) -> Config:
    """Return the configuration that plain values hold; `where` names their place in errors. Raises as `load_config`."""
    config = as_section(Config, content, where)
    if config.train.pairs_per_update % config.train.pairs_per_batch:
        raise ValueError(
            f"train.pairs_per_update is {config.train.pairs_per_update}, which train.pairs_per_batch "
            f"{config.train.pairs_per_batch} does not divide; make it a multiple"
        )
    return config


def as_section(section: type[Kind], content: Mapping[str, Any], where: str) -> Kind:
    """Return plain values as a section. Raises ValueError, in one sentence, for an unknown key or an unfit value."""
    try:
        return section.model_validate(content)
    except ValidationError as error:
        raise ValueError(_first(error, where, _keys(section))) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML file's keys. Raises ValueError where it is missing, broken or something else."""
    content = _parse(_read(path), str(path)) or {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected keys such as model: and train:")
    return content


def with_value(content: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return `content` with the value at the dotted key, the rest shared.

    Raises ValueError where the key leads into what has no keys.
    """
    return _with(content, key.split("."), value, key)


def as_yaml(config: BaseModel) -> str:
    """Return the resolved configuration as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"no configuration at {path}; configs/ in the repository holds complete ones")
    return path.read_text(encoding="utf-8")


class _Keys(yaml.SafeLoader):
    """YAML that refuses a mapping with a key twice, of which PyYAML keeps the last without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in names:
                raise yaml.YAMLError(f"the key {key.value!r} stands twice, again in line {key.start_mark.line + 1}")
            names.add(str(key.value))
        return node


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Keys)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not YAML: {' '.join(str(error).split())}") from None


def _with(content: Mapping[str, Any], keys: list[str], value: Any, key: str) -> dict[str, Any]:
    head, *rest = keys
    if not rest:
        return {**content, head: value}
    inner = content.get(head)
    if not (inner is None or isinstance(inner, dict)):
        raise ValueError(f"{key} cannot be set: {head} is {inner!r}, expected keys below it")
    return {**content, head: _with(inner or {}, rest, value, key)}


def _first(error: ValidationError, where: str, keys: Sequence[str]) -> str:
    """Turn pydantic's first complaint into a sentence that says what to change."""
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        return f"{where}: {place} is {fault['input']!r}; {fault['msg'][0].lower()}{fault['msg'][1:]}"
    nearest = difflib.get_close_matches(place, keys, n=1, cutoff=0.3)
    return (
        f"{where}: there is no key {place!r}; did you mean {nearest[0]!r}?"
        if nearest
        else (f"{where}: there is no key {place!r}; known: {', '.join(keys)}")
    )


def _keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Return every dotted key of a section."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys += _keys(kind, f"{prefix}{name}.")
    return keys
