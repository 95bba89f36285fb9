"""Measure one model: hidden states and separation, attacks and verdicts, held-out divergences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from divalign.config import Config
from divalign.core.clouds import project
from divalign.core.estimate import estimate_divergence
from divalign.core.separation import separation
from divalign.core.stats import Estimate
from divalign.data.batching import encode_row
from divalign.data.examples import Conversation, Row, user_says
from divalign.data.lexical import lexical_auc
from divalign.lm.generate import generate
from divalign.lm.hidden import hidden_states
from divalign.lm.load import LM
from divalign.lm.score import sequence_log_probs
from divalign.safety.attacks import find_attack
from divalign.safety.evaluate import Generate, attack_prompts, judge_rows, over_refusal, rates
from divalign.safety.journal import Journal, remembered
from divalign.safety.judges import find_judge
from divalign.store import cached_arrays, cached_json, cached_rows, digest
from divalign.study.progress import Progress
from divalign.study.searching import options_of, searched, started


class Subject(NamedTuple):
    """A model to be measured: its name, its folder in the run, its key, and how to load it."""

    name: str
    folder: Path
    key: str
    load: Callable[[], LM]


def separations(subject: Subject, prompts: Sequence[Row], config: Config, progress: Progress) -> dict[str, Any]:
    """Return `{"test": ..., "held_out": ...}`, each with the contract's five numbers and flags; leave plane.json."""
    key = digest("hidden", subject.key, prompts, config.measure.position)

    def states() -> dict[str, np.ndarray]:
        with progress(f"hidden states {subject.name}", len(prompts), "prompts") as advance:
            lm = subject.load()
            talks = [user_says(row["prompt"]) for row in prompts]
            size = config.measure.batch_size
            found = hidden_states(lm.model, lm.tokenizer, talks, batch_size=size, on_progress=advance)
        return {position: layers[-1] for position, layers in found.items()}

    states_of = cached_arrays(subject.folder / "hidden.safetensors", key, states)[config.measure.position]
    parts = {
        part: (np.array([row["held_out"] is held for row in prompts]))
        for part, held in (("test", False), ("held_out", True))
    }
    cached_json(subject.folder / "plane.json", digest("plane", key), lambda: _plane(states_of, prompts, parts))
    return cached_json(
        subject.folder / "separation.json",
        digest("separation", 3, key),  # 3: a perfect AUC rests on topics, not on their wordings
        lambda: {part: _separation(states_of, prompts, chosen) for part, chosen in parts.items() if chosen.any()},
    )


def attacked(
    subject: Subject, prompts: Sequence[Row], config: Config, progress: Progress, *, searches: Sequence[Row] = ()
) -> dict[str, Any]:
    """Return `{"test": ..., "held_out": ...}` with attack success rates and over-refusal; leave the records behind.

    `searches` are the prompts, with their targets, for which a suffix is searched: two attacks more, on these alone.
    """
    measure, judge = config.measure, find_judge(config.measure.judge)
    attacks = {name: find_attack(name) for name in measure.attacks}
    more = _suffixes(subject, searches, config, progress) if searches else []
    key = digest("responses", _made_from(subject, config), prompts, list(attacks), *([more] if more else []))
    asked = [row for row in prompts if row["harmful"]]
    benign = [row for row in prompts if not row["harmful"]]

    def respond() -> list[Row]:
        total = len(asked) * len(attacks) + len(benign)
        with progress(f"attacks {subject.name}", total, "responses") as advance, _journal(subject) as journal:
            write = _writer(subject, config, journal, advance)
            direct = {"direct": find_attack("direct")}
            return attack_prompts(write, attacks, asked) + attack_prompts(write, direct, benign) + more

    responses = cached_rows(subject.folder / "responses.jsonl", key, respond)
    judged = digest("verdicts", key, judge.id, judge.sha256)
    verdicts = cached_rows(subject.folder / "verdicts.jsonl", judged, lambda: judge_rows(judge, responses))
    return cached_json(
        subject.folder / "rates.json",
        digest("rates", 2, judged),  # 2: intervals know of the topics that prompts share
        lambda: _rates(verdicts),
    )


def _suffixes(subject: Subject, searches: Sequence[Row], config: Config, progress: Progress) -> list[Row]:
    """Return the responses to the unsearched suffix and to the searched ones; leave gcg.jsonl with the losses."""
    assert config.measure.gcg is not None
    options, ends, made_from = (
        options_of(config.measure.gcg),
        find_judge(config.measure.gcg.ends),
        _made_from(subject, config),
    )
    key = digest("gcg", made_from, list(searches), asdict(options), ends.sha256)

    def make() -> list[Row]:
        with _journal(subject) as journal:
            write = _writer(subject, config, journal, lambda _: None)
            found = searched(
                subject.load(), write, searches, subject.folder / "gcg", options=options, ends=ends,
                made_from=made_from, progress=progress, stage=f"gcg {subject.name}",
            )  # fmt: skip
            return started(write, searches, options) + found

    extra = {"target", "succeeded", "losses"}
    rows = cached_rows(subject.folder / "gcg.jsonl", key, make)
    return [{name: value for name, value in row.items() if name not in extra} for row in rows]


def _made_from(subject: Subject, config: Config) -> list[Any]:
    """Return what all responses of a model depend on besides the conversations."""
    return ["greedy", subject.key, config.measure.max_new_tokens]


def _journal(subject: Subject) -> Journal:
    return Journal(subject.folder / "responses.journal")


def _writer(subject: Subject, config: Config, journal: Journal, advance: Callable[[int], None]) -> Generate:
    """Return what writes the model's responses, with a memory; `advance` is told of each that comes."""
    sizes = {"batch_size": config.measure.batch_size, "max_new_tokens": config.measure.max_new_tokens}

    def write(
        conversations: Sequence[Conversation], *, on_response: Callable[[int, str], None], **options: Any
    ) -> list[str]:
        def on_each(index: int, text: str) -> None:
            on_response(index, text)
            advance(1)

        lm = subject.load()
        return generate(lm.model, lm.tokenizer, conversations, on_response=on_each, **sizes, **options)

    return remembered(write, journal, made_from=_made_from(subject, config))


def divergences(
    subject: Subject, base: Subject, rows: Sequence[Row], config: Config, cache: Path, progress: Progress
) -> dict[str, Any]:
    """Return each divergence's held-out estimate between the rows' chosen and rejected responses, critic r."""
    names = config.measure.divergences
    # 2: intervals reach as far as unseen prompts of the wrong sign
    key = digest("divergence", 2, subject.key, base.key, rows, config.train.beta, config.train.max_length, names)

    def make() -> dict[str, Any]:
        with progress(f"divergence {subject.name}", 2 * len(rows), "responses") as advance:
            aligned, unaligned = _log_ratios(subject, base, rows, config, cache, advance)
        clusters = [row["cluster"] for row in rows]
        return {
            name: estimate_divergence(aligned, unaligned, name, clusters=(clusters, clusters))._asdict()
            for name in names
        }

    return cached_json(subject.folder / "divergence.json", key, make)


def _log_ratios(
    subject: Subject, base: Subject, rows: Sequence[Row], config: Config, cache: Path, advance: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    lm, size = subject.load(), config.measure.batch_size
    pad, most = lm.tokenizer.pad_token_id, config.train.max_length
    encoded = [
        encode_row(lm.tokenizer, row["prompt"], row[side], max_length=most, prefill=row.get("prefill", ""))
        for side in ("chosen", "rejected")
        for row in rows
    ]
    reference = cached_arrays(
        cache / f"{digest('reference', base.key, encoded)}.safetensors",
        digest("reference", base.key, encoded),
        lambda: {"log_probs": sequence_log_probs(base.load().model, encoded, pad, batch_size=size)},
    )["log_probs"]
    policy = sequence_log_probs(lm.model, encoded, pad, batch_size=size, on_progress=advance)
    r = config.train.beta * (policy - reference)
    return r[: len(rows)], r[len(rows) :]


def _sides(prompts: Sequence[Row], chosen: np.ndarray) -> tuple[list[int], list[int]]:
    """Return the places of the benign and of the harmful prompts among those chosen."""
    places = np.flatnonzero(chosen).tolist()
    return [i for i in places if not prompts[i]["harmful"]], [i for i in places if prompts[i]["harmful"]]


def _separation(states: np.ndarray, prompts: Sequence[Row], chosen: np.ndarray) -> dict[str, Any]:
    safe, harmful = _sides(prompts, chosen)
    groups = ([prompts[i]["cluster"] for i in safe], [prompts[i]["cluster"] for i in harmful])
    texts = ([prompts[i]["prompt"] for i in safe], [prompts[i]["prompt"] for i in harmful])
    words = lexical_auc(*texts, groups=groups)
    paper = separation(states[safe], states[harmful], mode="paper", groups=groups)
    held = separation(states[safe], states[harmful], mode="heldout", groups=groups, lexical=words)
    found: dict[str, Estimate] = {
        "bhattacharyya_paper": paper.bhattacharyya,
        "silhouette_paper": paper.silhouette,
        "bhattacharyya": held.bhattacharyya,
        "probe_auc": held.probe_auc,
        "lexical_auc": words,
    }
    numbers = {name: value._asdict() for name, value in found.items()}
    return {"separation": numbers, "flags": sorted(paper.flags | held.flags)}


def _plane(states: np.ndarray, prompts: Sequence[Row], parts: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the paper's plane, fitted on the held-in prompts, with every prompt's place in it."""
    safe, harmful = _sides(prompts, parts["test"])
    others = np.flatnonzero(~parts["test"]).tolist()
    order = [*safe, *harmful, *others]
    rows = states[order].astype(np.float64)
    coordinates = project(rows @ rows.T, np.arange(len(order)) < len(safe) + len(harmful), 2)
    places = zip(order, coordinates.tolist(), strict=True)
    keep = ("harmful", "held_out", "prompt")
    return {"points": [{"x": x, "y": y, **{name: prompts[i][name] for name in keep}} for i, (x, y) in places]}


def _rates(verdicts: Sequence[Row]) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for part, held in (("test", False), ("held_out", True)):
        rows = [row for row in verdicts if row["held_out"] is held]
        if rows:
            success = {name: value._asdict() for name, value in rates([r for r in rows if r["harmful"]]).items()}
            parts[part] = {"asr": success, "over_refusal": over_refusal(rows)._asdict()}
    return parts
