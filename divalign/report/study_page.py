"""The page of a sweep: its record in, Markdown and figures out. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from divalign.draw.chart import Chart, chart_svg
from divalign.records import SMALLEST_EFFECT, SweepModel, SweepRecord, VerdictRecord
from divalign.report import study_tables as tables
from divalign.report.markdown import Markdown, fill, line, table
from divalign.report.study_tables import short_name

FLOOR = 0.01  # nats: where a distance of 0 is drawn on a logarithmic axis

_INTRODUCTION = """\
# Does separation predict safety?

{aligned} aligned models and {controls} controls, measured alike. The command below writes this page; only the
explanations are typed by hand. What the numbers are: [separation.md](separation.md).

    {command}

divalign {version}, sweep {sha}.

{design}"""

_VERDICT = """\
## The verdict

The independent unit is the recipe (method, data, training length): seeds are averaged, and a recipe's models on
several bases are one cluster. {recipes} recipes on {families}. Outcome: responses that comply, of all attacks together
({attacks}). Tables show beside it *no refusal*: every response that refuses nothing, broken text included.

The correlation is that of the indicator with the logit of the success rate, at equal base model, data set, method
and length: recipes that share a data set or a method are not independent, so the effects of both are taken out of
both sides. Below zero, more separation goes with fewer successes. Distances enter as log(1 + D). The t statistic
allows for recipes of unequal variance. {candidates} candidates for the indicator share one error rate: p-values are
Holm's, and the intervals hold jointly at 95 %. *Supported*: p < .05 and below zero. *No effect*: the interval lies
within ±{smallest}, the smallest correlation that matters. *Undecided*: neither. Power is the chance of *supported*,
after correction, if the correlation were -{smallest}. By simulation (`python -m bench.coverage_verdict`, 6 to 20
recipes, data sets or methods sharing .5 or .7 of the variance, recipes' spreads up to tenfold apart), the type I
error is at most .06, and *no effect* is wrong in at most 1 % at true correlations of -.4 and -.7.
"""

_BY_ATTACK = """\
## By attack

The same test on the successes of one attack alone; p by Holm within each attack. A separation of direct prompts may
go with refusals of direct prompts and say nothing about wrapped or prefilled ones.
"""

_BY_FAMILY = """
## By base model

The same test on the models of one base alone, all attacks together; p by Holm within each base.
"""

_CONTROLS = """\
## Controls

*Shuffled labels*: training data whose labels mean nothing. *Abliterated*: copies of the models in the row above,
their refusal directions taken out of the residual stream. A copy that separates and no longer refuses shows that
separation is not safety. Means over the models of each row.
"""

_HELD_OUT = """
## Held-out topics

Separation and attacks on topics that are not in the training data.
"""

_EVIDENCE = """\
## What stands beside it

Odds ratio of a successful attack per within-family spread of the indicator (under 1: safer); Spearman over all
models; the paper's pooled z; the share of the spread of success rates that a regression on the indicator explains
on a base it was not fitted on (0 is guessing the other bases' rate, below 0 is worse); the verdict adjusted for
over-refusal (a model that refuses everything is hard to attack too; its logit is taken out of both sides), p by
Holm over all indicators; and two placebos that should support nothing: the indicator shuffled, and the distance of
benign topics from benign ones.
"""


def study_page(record: SweepRecord, *, command: str, prefix: str = "study") -> dict[str, str]:
    """Return relative paths and contents: the page and its figures, all named after `prefix`."""
    charts = {name: chart for name, chart in _charts(record.models).items() if chart[1].series}
    figures = {f"figures/{prefix}-{name}.svg": chart_svg(chart, title) for name, (title, chart) in charts.items()}
    images = "\n\n".join(f"![{title}](figures/{prefix}-{name}.svg)" for name, (title, _) in charts.items())
    aligned = [model for model in record.models if model.control is None]
    sections = [
        _introduction(record, aligned, command),
        _verdict(record, aligned),
        tables.verdict_table(record.verdicts),
        _in_short(record),
        "\n" + images + "\n",
        _BY_ATTACK,
        tables.grouped_verdicts(record.by_attack),
        *([_BY_FAMILY, tables.grouped_verdicts(record.by_family)] if len(record.by_family) > 1 else []),
        _CONTROLS,
        tables.control_table(record.models),
        "With the controls counted as models:\n",
        tables.verdict_table(record.with_controls),
        *([_HELD_OUT, tables.verdict_table(record.held_out_topics)] if record.held_out_topics else []),
        _EVIDENCE,
        tables.evidence_table(record.evidence),
        tables.joint_correlations(record.joint),
        "## Every recipe\n\nMeans over seeds and bases.\n",
        tables.recipe_table(aligned),
    ]
    return {f"{prefix}.md": "\n".join(sections), **figures}


def _introduction(record: SweepRecord, aligned: Sequence[SweepModel], command: str) -> str:
    counts = {
        "base models": Counter(model.family for model in aligned),
        "methods": Counter(str(model.method) for model in aligned),
        "data": Counter(short_name(model.data) for model in aligned),
        "runs": Counter(model.run for model in aligned),
        "seeds": Counter(str(model.seed) for model in aligned),
        "controls": Counter(model.control for model in record.models if model.control is not None),
    }
    rows = [
        (name, ", ".join(f"{value} ({count})" for value, count in column.items())) for name, column in counts.items()
    ]
    return fill(
        _INTRODUCTION,
        aligned=len(aligned),
        controls=len(record.models) - len(aligned),
        command=Markdown(line(command)),
        version=record.divalign,
        sha=record.sweep_sha256[:12],
        design=table(("what", "values"), rows),
    )


def _verdict(record: SweepRecord, aligned: Sequence[SweepModel]) -> str:
    families = len({model.family for model in aligned})
    return fill(
        _VERDICT,
        recipes=len({model.recipe for model in aligned}),
        families="one base model" if families == 1 else f"{families} base models",
        attacks=", ".join(aligned[0].asr) if aligned else "none",
        candidates=len(record.verdicts),
        smallest=SMALLEST_EFFECT,
    )


def _in_short(record: SweepRecord) -> str:
    adjusted = [verdict for entry in record.evidence.values() for verdict in entry.adjusted.values()]
    supported, supported_adjusted = _supported(record.verdicts.values()), _supported(adjusted)
    return (
        f"In short: {supported} of {len(record.verdicts)} indicators are supported; {supported_adjusted} of "
        f"{len(adjusted)} among models of equal over-refusal ([below](#what-stands-beside-it)).\n"
    )


def _supported(verdicts: Iterable[VerdictRecord]) -> int:
    return sum(verdict.conclusion == "supported" for verdict in verdicts)


def _charts(models: Sequence[SweepModel]) -> dict[str, tuple[str, Chart]]:
    """Return each figure's title and chart by its name."""
    worst_distance, worst_auc = "least held-out D_B under attack, nats", "least probe AUC under attack"
    distance = "D_B, paper mode, nats"
    return {
        "plain": ("Separation of direct prompts", _chart(models, _distance, distance)),
        "direct": ("The same against direct prompts", _chart(models, _distance, distance, attack="direct")),
        "worst": ("Separation at its worst under attack", _chart(models, _worst("bhattacharyya"), worst_distance)),
        "auc": ("Probe AUC at its worst under attack", _chart(models, _worst("probe_auc"), worst_auc, log=False)),
    }


def _chart(
    models: Sequence[SweepModel],
    read: Callable[[SweepModel], float | None],
    label: str,
    *,
    attack: str | None = None,
    log: bool = True,
) -> Chart:
    """Return attack success against an indicator, a series for each data recipe and each control."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for model in models:
        value, share = read(model), model.success_share(attack)
        if value is not None and share is not None:
            xs, ys = series.setdefault(model.control or short_name(model.data), ([], []))
            xs.append(max(value, FLOOR) if log else value)
            ys.append(100 * share)
    outcome = "all attacks" if attack is None else f"{attack} prompts"
    return Chart(label, f"successes of {outcome}, %", series, log_x=log)


def _distance(model: SweepModel) -> float | None:
    return model.separation.bhattacharyya_paper.value


def _worst(measure: str) -> Callable[[SweepModel], float | None]:
    return lambda model: model.under_attack[measure].worst.value
