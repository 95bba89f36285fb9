"""The tables of a sweep's page, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from divalign.core.stats import Estimate
from divalign.records import CorrelationRecord, EvidenceRecord, SweepModel, VerdictRecord
from divalign.report.markdown import Markdown, plain, strong, table

MISSING = Markdown("-")
JOINT = {"direct": "D_B of direct prompts", "worst": "worst D_B under attack"}


def verdict_table(verdicts: Mapping[str, VerdictRecord]) -> Markdown:
    """Return one row an indicator: correlation with its interval, t, p, power, conclusion."""
    rows = [
        (
            name,
            _correlation(verdict),
            _number(verdict.value, "+.2f"),
            _number(verdict.p_value),
            _number(verdict.power),
            strong(verdict.conclusion),
        )
        for name, verdict in verdicts.items()
    ]
    left_out = max((verdict.left_out for verdict in verdicts.values()), default=0)
    note = f"\nLeft out: up to {left_out} models whose indicator or success rate is undecided.\n" if left_out else ""
    return Markdown(table(("indicator", "correlation", "t", "p", "power", "conclusion"), rows) + note)


def grouped_verdicts(groups: Mapping[str, Mapping[str, VerdictRecord]]) -> Markdown:
    """Return one row an indicator, one column a group of verdicts (an attack, a base model)."""
    indicators = dict.fromkeys(name for verdicts in groups.values() for name in verdicts)
    rows = [(name, *(_in_short(verdicts[name]) for verdicts in groups.values())) for name in indicators]
    return table(("indicator", *groups), rows)


def control_table(models: Sequence[SweepModel]) -> Markdown:
    """Return one row a control; above the abliterated copies, the models that they are copies of."""
    originals = {(model.run, model.of) for model in models if model.control == "abliterated"}
    rows = []
    for control in _controls(models):
        group = [model for model in models if model.control == control]
        if control == "abliterated":
            before = [model for model in models if model.control is None and (model.run, model.name) in originals]
            rows.append((f"before abliteration ({len(before)})", before))
        rows.append((f"{control} ({len(group)})", group))
    return _means_table("models", rows)


def recipe_table(models: Sequence[SweepModel]) -> Markdown:
    """Return one row a recipe."""
    groups: dict[str, list[SweepModel]] = {}
    for model in models:
        groups.setdefault(model.recipe, []).append(model)
    return _means_table("recipe", [(short_name(name), group) for name, group in groups.items()])


def evidence_table(evidence: Mapping[str, EvidenceRecord]) -> Markdown:
    """Return one row an indicator: what stands beside its verdict."""
    covariates = dict.fromkeys(name for entry in evidence.values() for name in entry.adjusted)
    heads = ("indicator", "odds ratio", "Spearman", "pooled z", "on a held-out base")
    rows = [
        (
            name,
            _interval(entry.odds_ratio),
            _tested(entry.ranks),
            _tested(entry.pooled_z),
            _number(entry.held_out_family_skill, "+.2f"),
            *(_in_short(entry.adjusted[covariate]) for covariate in covariates),
            "; ".join(verdict.conclusion for verdict in entry.placebos.values()),
        )
        for name, entry in evidence.items()
    ]
    return table((*heads, *(f"adjusted for {name}" for name in covariates), "placebos"), rows)


def joint_correlations(joint: Mapping[str, Estimate | None]) -> str:
    """Return the correlations with prompts resampled, as a list."""
    lines = [
        f"* {plain(JOINT.get(name, name))}: {'no number' if estimate is None else _interval(estimate)}"
        for name, estimate in joint.items()
    ]
    return (
        "\nCorrelation within families of log(1 + D) with the logit of the success rate, prompts resampled on both "
        "sides:\n\n" + "\n".join(lines) + "\n"
    )


def short_name(text: str | None) -> str:
    """Return a recipe's name without the module that it is of."""
    return " ".join(word.rpartition(":")[2] for word in (text or "").split(" "))


def _controls(models: Sequence[SweepModel]) -> list[str]:
    """Return the kinds of controls, the base first."""
    names = dict.fromkeys(model.control for model in models if model.control not in (None, "base"))
    return ["base", *(name for name in names if name is not None)]


def _means_table(first: str, groups: Sequence[tuple[str, Sequence[SweepModel]]]) -> Markdown:
    """Return means over each group's models; undecided numbers are left out of them."""
    attacks = next((list(model.asr) for _, group in groups for model in group), [])
    heads = (first, "D_B paper", "D_B held out", "probe AUC", "worst D_B", *(f"ASR {name}" for name in attacks))
    rows = [(name, *_means(group, attacks)) for name, group in groups]
    return table((*heads, "no refusal", "over-refusal"), rows)


def _means(models: Sequence[SweepModel], attacks: Sequence[str]) -> list[str]:
    columns: list[list[float | None]] = [
        [model.separation.bhattacharyya_paper.value for model in models],
        [model.separation.bhattacharyya.value for model in models],
        [model.separation.probe_auc.value for model in models],
        [model.under_attack["bhattacharyya"].worst.value for model in models],
        *([model.asr[attack].value for model in models] for attack in attacks),
        [model.success_share(no_refusal=True) for model in models],
        [model.over_refusal.value for model in models],
    ]
    return [_mean(column) for column in columns]


def _mean(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    return f"{sum(numbers) / len(numbers):.2f}" if numbers else "undecided"


def _correlation(verdict: VerdictRecord) -> Markdown:
    """Return a verdict's correlation and its interval."""
    if verdict.low is None or verdict.high is None:
        return MISSING
    return Markdown(f"{_number(verdict.effect, '+.2f')} [{verdict.low:+.2f}, {verdict.high:+.2f}]")


def _in_short(verdict: VerdictRecord) -> Markdown:
    if verdict.p_value is None:
        return Markdown("no test possible")
    return Markdown(f"{_correlation(verdict)} (p {verdict.p_value:.3f}), {plain(verdict.conclusion)}")


def _number(value: float | None, form: str = ".3f") -> str:
    return MISSING if value is None else format(value, form)


def _interval(estimate: Estimate) -> Markdown:
    if estimate.value is None:
        return MISSING
    interval = "" if estimate.low is None or estimate.high is None else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    return Markdown(f"{estimate.value:.2f}{interval}")


def _tested(correlation: CorrelationRecord | None) -> str:
    if correlation is None:
        return MISSING
    return f"{_number(correlation.estimate.value, '+.2f')} (p {correlation.p_value:.3f})"
