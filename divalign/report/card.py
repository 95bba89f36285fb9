"""The card of a model: what was measured on what, and what that does not show; as Markdown for the Hub and as JSON.

A card reports numbers and their limits. It never concludes that a model is safe: a run shows which of these attacks on
these prompts succeeded, and nothing about others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from divalign import store
from divalign.core.stats import Estimate
from divalign.draw.numbers import Form, percent, significant
from divalign.records import CardNumber, CardRecord
from divalign.report.facts import ModelFacts, PartFacts, RunFacts
from divalign.report.headline import command
from divalign.report.markdown import code, line, plain, table
from divalign.report.quantities import ASR, ASR_NO_REFUSAL, OVER_REFUSAL, SEPARATION, Quantity, aligned_of, base_of
from divalign.report.reading import read_mapping, read_run
from divalign.report.words import DATA, attack_words, missing, spelled

FrontMatter = Callable[[CardRecord], str]
HUB_ID = re.compile(r"[\w-]+/[\w.-]+")
TOPICS, OTHER_TOPICS = "topics of the training data", "held-out topics"
RATES = ("asr.", "asr_no_refusal.", "over_refusal")


def card_schema() -> dict[str, Any]:
    """Return the JSON schema of card.json."""
    return CardRecord.model_json_schema(by_alias=True)


def write_cards(
    run: Path, front_matter: FrontMatter, models: Sequence[str] = (), *, out: Path | None = None
) -> list[Path]:
    """Write card.md and card.json of each named model, of every aligned one without names; return their paths.

    They go into the model's folder, `RUN/models/NAME`, or for a single model into `out`. Raises ValueError for a model
    that the run does not have, and for `out` with several models.
    """
    facts = read_run(run)
    chosen = _chosen(facts, models)
    if out is not None and len(chosen) > 1:
        raise ValueError(f"--out takes one card, got {len(chosen)} models; name one with --model")
    source = _source(run / "models" / "base" / "model.json")
    paths = []
    for model in chosen:
        folder, record = out or run / "models" / model.name, card(facts, model, source)
        store.write_json(folder / "card.json", record.plain())
        text = front_matter(record) + card_markdown(record)
        store.write_bytes(folder / "card.md", text.encode("utf-8", errors="replace"))
        paths += [folder / "card.md", folder / "card.json"]
    return paths


def _chosen(run: RunFacts, names: Sequence[str]) -> list[ModelFacts]:
    by_name = {model.name: model for model in run.models}
    for name in names:
        if name not in by_name:
            raise ValueError(f"the run has no model {name!r}; it has {', '.join(by_name)}")
    return [by_name[name] for name in names] or aligned_of(run.models) or list(run.models)


def _source(path: Path) -> str | None:
    """Return what the base was loaded from; of a local folder only its name, as a card is passed on."""
    source = str(read_mapping(path).get("source") or "")
    return (source if HUB_ID.fullmatch(source) else Path(source).name) or None


def card(run: RunFacts, model: ModelFacts, source: str | None) -> CardRecord:
    """Return the card of one model of a run."""
    base = base_of(run.models)
    parts = [(TOPICS, "", model.in_distribution, base.in_distribution if base else None)]
    if model.held_out:
        parts.append((OTHER_TOPICS, "held_out.", model.held_out, base.held_out if base else None))
    judges = model.rates.judges if model.rates else []
    return CardRecord(
        divalign=run.version,
        model=model.name,
        base=source,
        method=model.method,
        data=model.data,
        seed=model.seed,
        config_sha256=run.config_sha256,
        judges={judge.judge: judge.judge_sha256 for judge in judges},
        files=dict(run.files),
        overlap=dict(run.overlap) if run.overlap is not None else None,
        numbers=[number for part in parts for number in _numbers(*part)],
        limits=list(limits(run, model)),
        reproduce=command(run),
    )


def _numbers(prompts: str, prefix: str, part: PartFacts, before: PartFacts | None) -> Iterator[CardNumber]:
    now, earlier = _entries(part), _entries(before) if before else {}
    for name, (estimate, quantity) in now.items():
        yield CardNumber(
            name=f"{prefix}{name}",
            estimate=estimate,
            base=earlier[name][0] if name in earlier else None,
            meaning=quantity.label if name == "over_refusal" else f"{quantity.label}, {quantity.unit}",
            direction=quantity.direction,
            prompts=prompts,
        )


def _entries(part: PartFacts) -> dict[str, tuple[Estimate, Quantity]]:
    """Return a part's numbers by their names in results.json, each with what it is."""
    rates = {f"asr.{name}": (rate, ASR) for name, rate in part.asr.items()}
    rates |= {f"asr_no_refusal.{name}": (rate, ASR_NO_REFUSAL) for name, rate in part.asr_no_refusal.items()}
    if part.over_refusal is not None:
        rates["over_refusal"] = part.over_refusal, OVER_REFUSAL
    named = {name: quantity for name, quantity in SEPARATION.items() if name in part.separation}
    return rates | {f"separation.{name}": (part.separation[name], quantity) for name, quantity in named.items()}


def limits(run: RunFacts, model: ModelFacts) -> Iterator[str]:
    """Yield what the numbers do not show, a sentence each."""
    names = [attack_words(name) for name in model.in_distribution.asr]
    yield f"Only these attacks were run: {', '.join(names) or 'none'}. Others may succeed more often."
    if not any(name.startswith("gcg") for name in model.in_distribution.asr):
        yield "No white-box search was run against this model."
    yield "An upper end of an interval is what the data allow; a rate of 0 does not mean that no prompt succeeds."
    yield from _judge_limits(model)
    if model.held_out is None:
        yield "Topics outside the training data were not measured."
    if run.marked:
        yield f"{run.trained_on} evaluation prompts are in the training set, so the rates measure memory too."
    elif run.overlap is None:
        yield "Matches of evaluation prompts with the training set were not counted."
    count = len(aligned_of(run.models))
    if count > 1:
        yield f"It is one of {count} models of a run; the best of many looks better than it is."
    yield "Separation says that the model tells prompts apart, not that it refuses."


def _judge_limits(model: ModelFacts) -> Iterator[str]:
    judges = model.rates.judges if model.rates else []
    undecided = sum(response.unsafe is None for response in model.responses)
    if undecided:
        yield f"{undecided} of {len(model.responses)} responses are undecided and in no rate."
    if len({judge.judge for judge in judges}) < 2:
        yield "One judge read the responses, so disagreement between judges is not known."
    if not any(judge.errors for judge in judges):
        yield "How often the judge errs on this model's responses is not known."


def card_markdown(record: CardRecord) -> str:
    """Return the card's text, without front matter."""
    lines = [
        f"# Safety evaluation of {plain(record.model)}",
        "",
        _origin(record),
        "",
        "## What was measured",
        "",
        table(("number", "value", "base", "prompts", "direction"), map(_row, record.numbers)),
        f"Values with 95 % confidence intervals. Judges: {', '.join(map(plain, record.judges)) or 'not recorded'}.",
        "",
        "## On what",
        "",
        *(f"* {code(name)}, sha256 {code(sha)}" for name, sha in record.files.items()),
        f"* {_overlap(record.overlap)}",
        "",
        "## Limits",
        "",
        *(f"* {plain(limit)}" for limit in record.limits),
        "",
        "## Reproduce",
        "",
        f"    {line(record.reproduce)}",
        "",
        f"divalign {plain(record.divalign)}, configuration sha256 {code(record.config_sha256)}.",
    ]
    return "\n".join(lines) + "\n"


def _origin(record: CardRecord) -> str:
    start = f"Base model: {plain(record.base or 'not recorded')}."
    if record.method is None:
        return f"{start} Not trained in this run."
    data = DATA.get(record.data or "", record.data or "unknown")
    return f"{start} Trained with {plain(record.method)} on {plain(data)} data, seed {record.seed}."


def _row(number: CardNumber) -> Sequence[str]:
    form = percent if number.name.removeprefix("held_out.").startswith(RATES) else significant
    return (
        code(number.name),
        _value(number.estimate, form),
        _value(number.base, form),
        number.prompts,
        number.direction,
    )


def _value(estimate: Estimate | None, form: Form) -> str:
    return missing(estimate) if estimate is None else spelled(estimate, form)


def _overlap(overlap: dict[str, int] | None) -> str:
    if overlap is None:
        return "Evaluation prompts in the training set: not counted."
    counts = ", ".join(f"{count} {plain(kind)}" for kind, count in overlap.items() if kind != "n")
    return f"Evaluation prompts in the training set, of {overlap.get('n', 0)}: {counts}."
