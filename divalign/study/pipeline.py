"""A whole run: data, training, hidden states, separation, attacks, verdicts, divergences, results.json.

The run folder is the interface between the stages. Each leaves files that are found again by the hash of what they
were made from, so a run that was stopped anywhere goes on from there, and a finished one does no work.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from divalign import __version__
from divalign.config import Config, as_yaml
from divalign.core.divergences import find_divergence
from divalign.core.losses import find_method
from divalign.data.batching import encode_conversation, encode_row
from divalign.data.examples import Row
from divalign.data.recipes import find_recipe
from divalign.lm.load import LM, load_lm
from divalign.safety.attacks import find_attack
from divalign.safety.judges import find_judge
from divalign.store import cached_rows, digest, held, read_json, write_bytes, write_json
from divalign.study.align import align
from divalign.study.clock import Clock
from divalign.study.corpus import Corpus, openings, prompt_rows, read_corpus
from divalign.study.measure import Subject, attacked, divergences, separations
from divalign.study.plan import Aligned, base_key, file_name, model_source, plan, training_rows
from divalign.study.progress import Progress, silent
from divalign.study.searching import asked_of, check_room, options_of
from divalign.study.verdict import ModelPoint, attack_counts, in_words, log_distance, verdict

SCHEMA = 1


def run(config: Config, out: Path, *, progress: Progress = silent) -> dict[str, Any]:
    """Do what `config` says, in the folder `out`, and return the content of its results.json.

    Raises ValueError, before anything is written, for what cannot be run: names unknown to a table, missing files,
    one-class data, texts that do not fit the model, or a folder that holds a run with another configuration or in
    which another process is at work.
    """
    clock = Clock(out / "clock.json")
    corpora = {seed: read_corpus(config.data, seed=seed) for seed in config.train.seeds}
    corpus = corpora[config.train.seeds[0]]
    prompts, models = prompt_rows(corpus), plan(config, corpora)
    check_names(config)
    if _is_new(out, config):
        _check_model(config, corpus, prompts, models)
    with held(out):
        _claim(out, config)
        entries = _entries(models, corpus, prompts, config, out, clock.around(progress))
        results = {
            "schema": SCHEMA,
            "divalign": __version__,
            "config_sha256": digest(as_yaml(config)),
            "seconds": clock.seconds,
            **({"overlap": corpus.overlap} if corpus.overlap else {}),
            "models": entries,
            "verdict": _verdict(entries),
        }
        return _publish(out / "results.json", results)


def _entries(
    models: Sequence[Aligned], corpus: Corpus, prompts: Sequence[Row], config: Config, out: Path, progress: Progress
) -> list[dict[str, Any]]:
    """Train every model, then measure each, the base first, and return their entries of results.json."""
    cached_rows(out / "data" / "prompts.jsonl", digest(prompts), lambda: prompts)
    subjects = [(None, Subject("base", out / "models" / "base", base_key(config), cache(lambda: _base(config))))]
    subjects += [(model, _trained(model, config, out, progress)) for model in models]
    base = subjects[0][1]
    return [_entry(model, subject, base, corpus, prompts, config, out, progress) for model, subject in subjects]


def _base(config: Config, *, adapter: Path | None = None) -> LM:
    """Load a fresh copy of the base model, with an adapter of the run on it or none."""
    model = config.model
    return load_lm(
        model_source(config),
        adapter=adapter,
        dtype=model.dtype,
        device=model.device,
        revision=model.revision,
        chat_template=model.chat_template,
        trust_remote_code=model.trust_remote_code,
    )


def _trained(model: Aligned, config: Config, out: Path, progress: Progress) -> Subject:
    """Train a model where its folder lacks it, and say how to load it."""
    folder = out / "models" / model.name
    cached_rows(
        out / "data" / file_name(f"{model.recipe}-seed{model.seed}.jsonl"), digest(model.rows), lambda: model.rows
    )

    checkpoint = align(model, config, lambda: _base(config), folder, out / "cache", progress)

    @cache
    def load() -> LM:
        if config.train.lora is None:
            base = config.model
            return load_lm(
                str(checkpoint),
                dtype=base.dtype,
                device=base.device,
                chat_template=base.chat_template,
                trust_remote_code=base.trust_remote_code,
            )
        return _base(config, adapter=checkpoint)

    return Subject(model.name, folder, model.key, load)


def _entry(
    model: Aligned | None,
    subject: Subject,
    base: Subject,
    corpus: Corpus,
    prompts: Sequence[Row],
    config: Config,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Measure one model and return its entry of results.json."""
    found = separations(subject, prompts, config, progress)
    answers = attacked(subject, prompts, config, progress, searches=_searches(model, corpus, prompts, config))
    estimates: dict[str, Any] = {}
    if model is not None:
        rows = training_rows(corpus.test, model.recipe)
        estimates = divergences(subject, base, rows, config, out / "cache", progress)
    parts = {part: {**found[part], **answers[part]} for part in found}
    return {
        "name": subject.name,
        "method": model and model.method,
        "data": model and model.recipe,
        "seed": model.seed if model else None,
        **parts["test"],
        "divergence": estimates,
        **({"held_out": parts["held_out"]} if "held_out" in parts else {}),
    }


def _searches(model: Aligned | None, corpus: Corpus, prompts: Sequence[Row], config: Config) -> list[Row]:
    """Return the prompts for which a suffix is searched on this model, with their targets; none, as a rule."""
    asked = config.measure.gcg
    if asked is None or model is None or model.method not in asked.methods_on.get(model.recipe, ()):
        return []
    return asked_of(asked, prompts, openings(corpus))


def _verdict(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Test over the aligned models whether the seed's separation goes with fewer successes of all attacks together."""
    aligned = [entry for entry in entries if entry["method"] is not None]
    counts = attack_counts([entry["asr"] for entry in aligned])
    found = verdict([_point(entry, *count) for entry, count in zip(aligned, counts, strict=True)])
    return {**found._asdict(), "words": in_words(found)}


def _point(entry: dict[str, Any], successes: int, trials: int) -> ModelPoint:
    """A trained model as the verdict sees it; a distance enters by its logarithm."""
    method, data = entry["method"], entry["data"]
    separation = log_distance(entry["separation"]["bhattacharyya_paper"]["value"])
    recipe = f"{method} on {data}"
    return ModelPoint(entry["name"], "base", separation, successes, trials, recipe, data=data, method=method)


def check_names(config: Config) -> None:
    """Look every name up, so that a typing error is met before the training and not after it."""
    find_judge(config.measure.judge)
    for attack in config.measure.attacks:
        find_attack(attack)
    for name in config.measure.divergences:
        find_divergence(name)
    if config.measure.gcg is not None:
        find_judge(config.measure.gcg.ends)
        for recipe, methods in config.measure.gcg.methods_on.items():
            find_recipe(recipe)
            for method in methods:
                find_method(method)


def _check_model(config: Config, corpus: Corpus, prompts: Sequence[Row], models: Sequence[Aligned]) -> None:
    """Load the model and show it the longest texts, so that what does not fit is met before anything is written."""
    lm = _base(config)
    context = getattr(lm.model.config.get_text_config(), "max_position_embeddings", None) or config.train.max_length
    if config.train.max_length > context:
        raise ValueError(f"train.max_length is {config.train.max_length}, the model's context {context}; lower it")
    for rows in {(model.recipe, model.seed): model.rows for model in models}.values():
        for row in rows:
            encode_row(lm.tokenizer, row["prompt"], "?", max_length=config.train.max_length)
    attacks = {name: find_attack(name) for name in config.measure.attacks}
    for name, attack in attacks.items():
        for row in prompts:
            length = len(encode_conversation(lm.tokenizer, attack(row["prompt"])))
            if length + config.measure.max_new_tokens > context:
                raise ValueError(
                    f"prompt {row['id']} under the attack {name!r} is {length} tokens, which leaves no room for "
                    f"{config.measure.max_new_tokens} new ones in a context of {context}; leave it or the attack out"
                )
    searches = next(filter(None, (_searches(model, corpus, prompts, config) for model in models)), [])
    if config.measure.gcg is not None:
        most = config.measure.max_new_tokens
        check_room(lm, searches, options_of(config.measure.gcg), max_new_tokens=most, context=context)


def _is_new(out: Path, config: Config) -> bool:
    """Tell whether `out` is yet to become this configuration's run folder, or is so already.

    Raises ValueError where it belongs to another run or is something else.
    """
    path = out / "config.yaml"
    if path.is_file():
        if path.read_text(encoding="utf-8") != as_yaml(config):
            raise ValueError(
                f"{out} holds a run with another configuration (see {path}); choose another --out or delete the folder"
            )
        return False
    # A kill may leave a hidden file, and the lock is one.
    if out.exists() and (not out.is_dir() or any(path.name[0] != "." for path in out.iterdir())):
        raise ValueError(f"{out} exists and is no run folder; choose another --out")
    return True


def _claim(out: Path, config: Config) -> None:
    """Write the configuration, unless it is there; looked at again, as another process may have come first."""
    if not _is_new(out, config):
        return
    try:
        write_bytes(out / "config.yaml", as_yaml(config).encode())
    except OSError as error:
        raise ValueError(f"cannot write to {out}: {error.strerror}; choose an --out that you may write to") from error


def _publish(path: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Write results.json unless it says the same already, the seconds aside."""
    results = json.loads(json.dumps(results))
    try:
        before = read_json(path)
    except (OSError, ValueError):
        before = None
    if isinstance(before, dict) and {**before, "seconds": 0} == {**results, "seconds": 0}:
        return before
    write_json(path, results)
    return results
