"""A sweep's findings as a page of Markdown and figures. Pure: the content of sweep.json in, text out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from divalign.draw.chart import Chart, chart_svg
from divalign.study.sweep_verdict import GIVEN, INDICATORS, success_share
from divalign.study.verdict import SMALLEST_EFFECT

Entry = Mapping[str, Any]
FLOOR = 0.01  # nats: where a distance of 0 is drawn on a logarithmic axis

_INTRODUCTION = """\
# Does separation predict safety? A study in the embedded world

{trained} aligned models and {controls} controls, measured alike. This page is written by the command below; nothing
on it was typed by hand but the explanations. What the numbers are: [separation.md](separation.md).

    {command}

divalign {version}, sweep {sha}.

| what | values |
|---|---|
{made_of}
"""

_VERDICT = """\
## The verdict

The independent unit is the recipe (method, data, training length): seeds are averaged, and a recipe's models on
several bases are one cluster. {recipes} recipes on {families}. Outcome: successes of all attacks together
({attacks}). A judge that looks for refusals counts broken text as a success too.

The correlation is that of the indicator with the logit of the success rate, at equal base model, data set, method
and length: recipes that share a data set or a method are not independent, so the effects of both are taken out of
both sides. Below zero, more separation goes with fewer successes. Distances enter as log(1 + D). The t statistic
allows for recipes of unequal variance. Six candidates for the indicator share one error rate: p-values are Holm's,
and the intervals hold jointly at 95 %. *Supported*: p < .05 and below zero. *No effect*: the interval lies within
±{smallest}, the smallest correlation that matters. *Undecided*: neither. Power is the chance of *supported*, after
correction, if the correlation were -{smallest}. By simulation (`python -m bench.coverage_verdict`, 6 to 20
recipes, data sets or methods sharing .5 or .7 of the variance, recipes' spreads up to tenfold apart), the type I
error is at most .06 and *no effect* is said wrongly in at most 1 % at true correlations of -.4 and -.7.
"""

_BY_ATTACK = """\
## Attack by attack

The same test on the successes of one attack alone; p by Holm within each attack. A separation of plain prompts may go
with plain requests being refused and say nothing about what is wrapped or opened.
"""

_BY_FAMILY = """
## Base by base

The same test on the models of one base alone, all attacks together; p by Holm within each base.
"""

_CONTROLS = """\
## Controls

*Shuffled labels*: training data whose labels mean nothing. *Abliterated*: copies of the models in the row above,
their refusal directions taken out of the residual stream. A copy that separates and no longer refuses shows that
separation is not safety. Means over the models of each row.
"""

_EVIDENCE = """\
## What stands beside it

Odds ratio of a successful attack per within-family spread of the indicator (under 1: safer); Spearman over all
models; the paper's pooled z; the share of the spread of success rates that a regression on the indicator explains
on a base it was not fitted on (0 is guessing the other bases' rate, below 0 is worse); the verdict given
over-refusal (a model that refuses everything is hard to attack too; its logit is taken out of both sides), p by
Holm over the six; and two placebos that should support nothing: the indicator shuffled, and the distance of benign
topics from benign ones.
"""


def page(found: Mapping[str, Any], *, command: str, prefix: str = "study") -> dict[str, str]:
    """Return relative paths and contents: the page and its figures, all named after `prefix`."""
    charts = {name: pair for name, pair in _charts(found).items() if pair[1].series}
    figures = {f"figures/{prefix}-{name}.svg": chart_svg(chart, title) for name, (title, chart) in charts.items()}
    shown = "\n\n".join(f"![{title}](figures/{prefix}-{name}.svg)" for name, (title, _) in charts.items())
    models = [entry for entry in found["models"] if entry["control"] is None]
    parts = [
        _introduction(found, models, command),
        _VERDICT.format(**_facts(models)),
        _verdict_table(found["verdicts"]),
        _in_short(found),
        "\n" + shown + "\n",
        _BY_ATTACK,
        _by_attack(found["by_attack"]),
        *([_BY_FAMILY, _by_attack(found["by_family"])] if len(found["by_family"]) > 1 else []),
        _CONTROLS,
        _control_table(found["models"]),
        "With the controls counted as models:\n",
        _verdict_table(found["with_controls"]),
        *_unseen(found["unseen_topics"]),
        _EVIDENCE,
        _evidence_table(found["evidence"]),
        _joint(found["joint"]),
        "## Every recipe\n\nMeans over seeds and bases.\n",
        _models_table(models),
    ]
    return {f"{prefix}.md": "\n".join(parts), **figures}


def _introduction(found: Mapping[str, Any], models: Sequence[Entry], command: str) -> str:
    kinds = {
        "methods": Counter(entry["method"] for entry in models),
        "data": Counter(_short(entry["data"]) for entry in models),
        "runs": Counter(entry["run"] for entry in models),
        "seeds": Counter(str(entry["seed"]) for entry in models),
        "controls": Counter(entry["control"] for entry in found["models"] if entry["control"]),
    }
    rows = (
        f"| {name} | {', '.join(f'{value} ({count})' for value, count in c.items())} |" for name, c in kinds.items()
    )
    return _INTRODUCTION.format(
        trained=len(models),
        controls=len(found["models"]) - len(models),
        command=command,
        version=found["divalign"],
        sha=found["sweep_sha256"][:12],
        made_of="\n".join(rows),
    )


def _facts(models: Sequence[Entry]) -> dict[str, Any]:
    families = len({entry["family"] for entry in models})
    return {
        "recipes": len({entry["recipe"] for entry in models}),
        "families": "one base model" if families == 1 else f"{families} base models",
        "attacks": ", ".join(models[0]["asr"]) if models else "none",
        "smallest": SMALLEST_EFFECT,
    }


def _verdict_table(found: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            _correlation(one),
            _number(one["value"], "+.2f"),
            _number(one["p_value"]),
            _number(one["power"]),
            f"**{one['conclusion']}**",
        )
        for name, one in found.items()
    ]
    left_out = max((one["left_out"] for one in found.values()), default=0)
    note = f"\nLeft out: up to {left_out} models whose indicator or success rate is undecided.\n" if left_out else ""
    return _table(("indicator", "correlation", "t", "p", "power", "conclusion"), rows) + note


def _correlation(one: Mapping[str, Any]) -> str:
    """A verdict's correlation and its interval."""
    if one["low"] is None:
        return "-"
    return f"{_number(one['effect'], '+.2f')} [{one['low']:+.2f}, {one['high']:+.2f}]"


def _in_short(found: Mapping[str, Any]) -> str:
    given = {name: one["controls"][GIVEN] for name, one in found["evidence"].items()}
    plain, apart = (_supported(verdicts) for verdicts in (found["verdicts"], given))
    return (
        f"In short: {plain} of {len(found['verdicts'])} indicators are supported; "
        f"{apart} of {len(given)} among models of equal over-refusal ([below](#what-stands-beside-it)).\n"
    )


def _supported(verdicts: Mapping[str, Mapping[str, Any]]) -> int:
    return sum(one["conclusion"] == "supported" for one in verdicts.values())


def _by_attack(found: Mapping[str, Any]) -> str:
    names = [indicator.name for indicator in INDICATORS]
    rows = [(name, *(_short_verdict(verdicts[name]) for verdicts in found.values())) for name in names if found]
    return _table(("indicator", *found), rows)


def _short_verdict(one: Mapping[str, Any]) -> str:
    if one["p_value"] is None:
        return "no test possible"
    return f"{_correlation(one)} (p {one['p_value']:.3f}), {one['conclusion']}"


def _control_table(entries: Sequence[Entry]) -> str:
    attacks = list(entries[0]["asr"]) if entries else []
    copied = {(entry["run"], entry["of"]) for entry in entries if entry["control"] == "abliterated"}
    rows = []
    for kind in ("base", *dict.fromkeys(e["control"] for e in entries if e["control"] not in (None, "base"))):
        mine = [entry for entry in entries if entry["control"] == kind]
        if kind == "abliterated":
            before = [e for e in entries if e["control"] is None and (e["run"], e["name"]) in copied]
            rows.append(_means(f"before abliteration ({len(before)})", before, attacks))
        rows.append(_means(f"{kind} ({len(mine)})", mine, attacks))
    heads = ("models", "D_B paper", "D_B held out", "probe AUC", "worst D_B", *(f"ASR {a}" for a in attacks))
    return _table((*heads, "over-refusal"), rows)


def _models_table(models: Sequence[Entry]) -> str:
    attacks = list(models[0]["asr"]) if models else []
    groups: dict[str, list[Entry]] = {}
    for entry in models:
        groups.setdefault(entry["recipe"], []).append(entry)
    heads = ("recipe", "D_B paper", "D_B held out", "probe AUC", "worst D_B", *(f"ASR {a}" for a in attacks))
    rows = [_means(_short(name), group, attacks) for name, group in groups.items()]
    return _table((*heads, "over-refusal"), rows)


def _means(name: str, entries: Sequence[Entry], attacks: Sequence[str]) -> tuple[str, ...]:
    def mean(values: Sequence[float | None], form: str = ".2f") -> str:
        known = [value for value in values if value is not None]
        return format(sum(known) / len(known), form) if known else "undecided"

    separation = [
        mean([entry["separation"][which]["value"] for entry in entries])
        for which in ("bhattacharyya_paper", "bhattacharyya", "probe_auc")
    ]
    worst = mean([entry["under_attack"]["bhattacharyya"]["worst"]["value"] for entry in entries])
    rates = [mean([entry["asr"][attack]["value"] for entry in entries]) for attack in attacks]
    return (name, *separation, worst, *rates, mean([entry["over_refusal"]["value"] for entry in entries]))


def _unseen(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return []
    return [
        "\n## Topics that alignment never saw\n\nSeparation and attacks on those topics alone.\n",
        _verdict_table(found),
    ]


def _evidence_table(found: Mapping[str, Any]) -> str:
    rows = []
    for name, one in found.items():
        placebos = [v["conclusion"] for key, v in one["controls"].items() if key.startswith("placebo")]
        rows.append(
            (
                name,
                _interval(one["odds_ratio"]),
                _tested(one["ranks"]),
                _tested(one["pooled_z"]),
                _number(one["unseen_family_skill"], "+.2f"),
                _short_verdict(one["controls"][GIVEN]),
                "; ".join(placebos),
            )
        )
    return _table(
        ("indicator", "odds ratio", "Spearman", "pooled z", "on an unseen base", "given over-refusal", "placebos"), rows
    )


def _joint(found: Mapping[str, Any]) -> str:
    said = {"plain": "plain D_B", "worst": "worst D_B under attack"}
    lines = [f"* {said[name]}: {_interval(one) if one else 'no number'}" for name, one in found.items()]
    return (
        "\nCorrelation within families of log(1 + D) with the logit of the success rate, prompts redrawn on both sides:"
        "\n\n" + "\n".join(lines) + "\n"
    )


def _charts(found: Mapping[str, Any]) -> dict[str, tuple[str, Chart]]:
    def chart(read: Any, label: str, attack: str | None, *, log: bool) -> Chart:
        series: dict[str, tuple[list[float], list[float]]] = {}
        for entry in found["models"]:
            value, share = read(entry), success_share(entry, attack)
            if value is not None and share is not None:
                xs, ys = series.setdefault(entry["control"] or _short(entry["data"]), ([], []))
                xs.append(max(value, FLOOR) if log else value)
                ys.append(100 * share)
        outcome = "all attacks" if attack is None else f"{attack} requests"
        return Chart(label, f"successes of {outcome}, %", series, log_x=log)

    def plain(entry: Entry) -> float | None:
        return entry["separation"]["bhattacharyya_paper"]["value"]

    def worst(measure: str) -> Any:
        return lambda entry: entry["under_attack"][measure]["worst"]["value"]

    worst_d, worst_auc = "least held-out D_B under attack, nats", "least probe AUC under attack"
    return {
        "plain": ("Separation of plain prompts", chart(plain, "D_B, paper mode, nats", None, log=True)),
        "direct": ("The same against direct requests", chart(plain, "D_B, paper mode, nats", "direct", log=True)),
        "worst": ("Separation at its worst under attack", chart(worst("bhattacharyya"), worst_d, None, log=True)),
        "auc": ("Probe AUC at its worst under attack", chart(worst("probe_auc"), worst_auc, None, log=False)),
    }


def _short(text: str | None) -> str:
    """Return a recipe's name without the module that it is of."""
    words = (text or "").split(" ")
    return " ".join(word.rpartition(":")[2] for word in words)


def _number(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, form)


def _interval(one: Mapping[str, Any]) -> str:
    if one["value"] is None:
        return "-"
    return f"{one['value']:.2f}" + ("" if one["low"] is None else f" [{one['low']:.2f}, {one['high']:.2f}]")


def _tested(one: Mapping[str, Any] | None) -> str:
    return "-" if one is None else f"{one['value']:+.2f} (p {one['p_value']:.3f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
