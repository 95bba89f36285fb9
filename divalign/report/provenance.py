"""Tables of where the numbers come from: judges, training data, contamination, cost, versions and hashes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from divalign.draw.numbers import percent, share
from divalign.records import JudgeRates
from divalign.report.compare import label
from divalign.report.facts import ModelFacts, RunFacts
from divalign.report.tables import Cell, Column, Table, TableRow, cell, number_cell
from divalign.report.words import NOT_MEASURED, attack_words, duration

ORDER = ("do not train", "look", "not measured", "fine")
URGENT, LEAKS = ORDER[:2], "leaks"
TERA = 1e12
OVERLAP = {
    "exact": "the same text",
    "normalised": "the same words in the same order",
    "contained": "all its words inside a training prompt",
    "paraphrased": "the same words but one; a guess",
}


def judges_table(models: Sequence[ModelFacts]) -> Table | None:
    """Return one row a model and judge: what it decided, and how often it errs where that is known."""
    rows = [
        TableRow(f"{label(model)}, {attack_words(judge.judge)}", _judge_cells(judge), model.name)
        for model in models
        if model.rates
        for judge in model.rates.judges
    ]
    heads = ("responses", "undecided, harmful", "address the judge", "sensitivity", "specificity")
    judges = [judge for model in models if model.rates for judge in model.rates.judges]
    doubts = dict.fromkeys(judge.errors.warning for judge in judges if judge.errors and judge.errors.warning)
    if not rows:
        return None
    return Table("Verdicts", tuple(map(Column, heads)), tuple(rows), tuple(map(_sentence, doubts)), "model, judge")


def _sentence(words: str | None) -> str:
    text = words or ""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _judge_cells(judge: JudgeRates) -> tuple[Cell, ...]:
    undecided = sum(attack.undecided for part in judge.parts.values() for attack in part.attacks.values())
    errors = (judge.errors.sensitivity, judge.errors.specificity) if judge.errors else (None, None)
    counts = (judge.responses, undecided, judge.addressed)
    return *(Cell(f"{count:,}", sort=count) for count in counts), *(cell(error, percent) for error in errors)


def agreement_table(models: Sequence[ModelFacts]) -> Table | None:
    """Return one row a model and pair of judges: same verdicts, kappa, and how many responses they differ on."""
    rows = [
        TableRow(
            f"{label(model)}: {' and '.join(map(attack_words, pair.judges))}",
            (
                cell(pair.observed, percent),
                cell(pair.kappa, share),
                Cell(f"{len(pair.disagreements):,}", sort=len(pair.disagreements)),
            ),
            model.name,
        )
        for model in models
        if model.rates
        for pair in model.rates.agreement
    ]
    heads = (Column("same verdict"), Column("kappa", "0 is chance"), Column("responses they differ on"))
    return Table("Judges compared", heads, tuple(rows), first="model, judges") if rows else None


def audit_tables(audits: Mapping[str, Mapping[str, Any]]) -> list[Table | None]:
    """Return the audits in two tables, one row a training set and check: what to look at and leaks, and the rest."""
    findings = [(name, finding) for name, content in audits.items() for finding in content["findings"]]
    first = [item for item in findings if item[1]["verdict"] in URGENT or item[1]["check"] == LEAKS]
    rest = [item for item in findings if item not in first]
    return [_audit_table("Audit of the training sets", first), _audit_table("Other checks of the audit", rest)]


def _audit_table(caption: str, findings: list[tuple[str, Mapping[str, Any]]]) -> Table | None:
    findings.sort(key=lambda item: ORDER.index(item[1]["verdict"]) if item[1]["verdict"] in ORDER else len(ORDER))
    rows = [
        TableRow(
            f"{name}, {finding['check']}",
            (Cell(finding["verdict"]), number_cell(finding["value"], blank=NOT_MEASURED), Cell(finding["words"])),
        )
        for name, finding in findings
    ]
    heads = (Column("verdict"), Column("value"), Column("result"))
    return Table(caption, heads, tuple(rows), first="file, check", prose=True) if rows else None


def overlap_table(overlap: Mapping[str, int] | None) -> Table | None:
    """Return the evaluation prompts that are in the training set, by kind of match."""
    if overlap is None:
        return None
    total = overlap.get("n", 0)
    rows = [
        TableRow(kind, (Cell(f"{count:,}", n=f"of {total:,}", sort=count), Cell(OVERLAP.get(kind, kind))))
        for kind, count in overlap.items()
        if kind != "n"
    ]
    return Table(
        "Evaluation prompts in the training set",
        (Column("prompts"), Column("meaning")),
        tuple(rows),
        first="match",
        prose=True,
    )


def cost_table(run: RunFacts) -> Table | None:
    """Return one row a model: seconds by stage as they were measured; tokens and operations from sizes alone."""
    seconds = stage_seconds(run.stages, [model.name for model in run.models])
    stages = list(dict.fromkeys(stage for spent in seconds.values() for stage in spent))
    trained = any(model.training for model in run.models)
    if not (seconds or run.cost or trained):
        return None
    heads = [Column(stage, "seconds") for stage in stages]
    heads += [Column("all stages", "seconds")] if stages else []
    heads += [Column("tokens", "from sizes"), Column("TFLOP", "from sizes")] if run.cost else []
    heads += [Column("updates"), Column("tokens per second", "training"), Column("MFU", "training")] if trained else []
    rows = []
    for model in run.models:
        spent = seconds.get(model.name, {})
        cells = [number_cell(spent.get(stage)) for stage in stages]
        cells += [number_cell(sum(spent.values()) if spent else None)] if stages else []
        cells += _sizes(run, model.name) if run.cost else []
        cells += _training_cells(model.training) if trained else []
        rows.append(TableRow(label(model), tuple(cells), model.name))
    return Table("Cost of each model", tuple(heads), tuple(rows))


def stage_seconds(stages: Mapping[str, float], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return seconds by model and stage from announcements such as "train cr-kldo"; what names no model is left out."""
    spent: dict[str, dict[str, float]] = {}
    for announced, seconds in stages.items():
        owners = [name for name in names if announced.endswith(f" {name}")]
        if owners:
            name = max(owners, key=len)
            spent.setdefault(name, {})[announced.removesuffix(f" {name}")] = seconds
    return spent


def _sizes(run: RunFacts, name: str) -> list[Cell]:
    jobs = [job for job in run.cost.stages if job.model == name] if run.cost else []
    tokens, operations = sum(job.tokens for job in jobs), sum(job.operations for job in jobs)
    return [number_cell(tokens if jobs else None), number_cell(operations / TERA if jobs else None)]


def _training_cells(training: Mapping[str, Any]) -> list[Cell]:
    mfu = training.get("mfu")
    speed = number_cell(training.get("tokens_per_second"))
    return [number_cell(training.get("updates")), speed, number_cell(mfu, percent)]


def version_rows(run: RunFacts, version: str) -> list[tuple[str, str]]:
    """Return what made the run and the page, and the hashes of what it worked on."""
    rows = [("run by", f"divalign {run.version}" if run.version else "divalign of unknown version")]
    rows += [("took", duration(run.seconds))] if run.seconds is not None else []
    rows += [("page by", f"divalign {version}"), ("config sha256", run.config_sha256 or "not recorded")]
    rows += [("base model", run.base)] if run.base else []
    rows += [("base model, content sha256", run.base_key)] if run.base_key else []
    rows += list(run.versions.items())
    judges = {(judge.judge, judge.judge_sha256) for m in run.models if m.rates for judge in m.rates.judges}
    rows += [(f"judge {name}, sha256", sha) for name, sha in sorted(judges)]
    return [*rows, *((f"{name}, sha256", sha) for name, sha in run.files)]
