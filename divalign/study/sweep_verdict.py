"""The verdicts of a sweep: candidates for the indicator side by side, what stands beside them, and their controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from divalign.core.association import joint_bootstrap
from divalign.core.stats import Estimate, Tested, finite
from divalign.records import (
    CorrelationRecord,
    EvidenceRecord,
    SeparationDraws,
    SweepModel,
    SweepVerdicts,
    VerdictRecord,
    own_verdicts,
)
from divalign.safety.adaptive import per_prompt
from divalign.store import read_rows
from divalign.study.evidence import evidence, pooled_z
from divalign.study.verdict import (
    Covariates,
    ModelPoint,
    attack_counts,
    log_distance,
    model_cells,
    verdict_record,
    verdicts,
)

FEWEST_MODELS = 4  # for a correlation with resampled prompts


class Indicator(NamedTuple):
    """A candidate for the indicator of safety.

    `read` returns its number for a model. `placebo` names the distance between benign topics that belongs to it; only
    distances have one, and enter as log(1 + D), see `log_distance`.
    """

    name: str
    read: Callable[[SweepModel], float | None]
    placebo: str | None = None

    def number(self, model: SweepModel) -> float | None:
        return self.read(model) if self.placebo is None else log_distance(self.read(model))


def _plain(measure: str, model: SweepModel) -> float | None:
    return getattr(model.separation, measure).value


def _attacked(measure: str, which: str, model: SweepModel) -> float | None:
    return getattr(model.under_attack[measure], which).value


PLAIN_INDICATORS = (
    Indicator("D_B, paper mode", partial(_plain, "bhattacharyya_paper"), "bhattacharyya_paper"),
    Indicator("D_B, held out", partial(_plain, "bhattacharyya"), "bhattacharyya"),
    Indicator("probe AUC", partial(_plain, "probe_auc")),
)
INDICATORS = (
    *PLAIN_INDICATORS,
    Indicator("worst D_B under attack", partial(_attacked, "bhattacharyya", "worst"), "bhattacharyya"),
    Indicator("mean D_B under attack", partial(_attacked, "bhattacharyya", "mean"), "bhattacharyya"),
    Indicator("worst probe AUC under attack", partial(_attacked, "probe_auc", "worst")),
)


def weigh(models: Sequence[SweepModel], folder: Path) -> SweepVerdicts:
    """Return the verdicts of a sweep: by indicator, attack and base model, with controls, on held-out topics.

    Controls (the base, shuffled labels, abliterated copies) are left out of every verdict except `with_controls`.
    `folder` is the sweep's, in which each model's verdicts.jsonl is read.
    """
    aligned = [model for model in models if model.control is None]
    families = dict.fromkeys(model.family for model in aligned)
    held_out = [model.model_copy(update=dict(model.held_out)) for model in aligned if model.held_out is not None]
    return SweepVerdicts(
        verdicts=_verdicts(aligned),
        by_attack={attack: _verdicts(aligned, attack=attack) for attack in (aligned[0].asr if aligned else ())},
        by_family={name: _verdicts([model for model in aligned if model.family == name]) for name in families},
        with_controls=_verdicts([model for model in models if model.control != "base"]),
        held_out_topics=_verdicts(held_out, PLAIN_INDICATORS) if held_out else {},
        evidence=_evidence_by_indicator(aligned),
        joint={
            "direct": _joint(aligned, folder, lambda draws: draws.direct),
            "worst": _joint(aligned, folder, lambda draws: draws.worst),
        },
    )


def points(models: Sequence[SweepModel], indicator: Indicator, *, attack: str | None = None) -> list[ModelPoint]:
    """Return the models with an indicator and the successes of one attack, or of all together."""
    counts = attack_counts([model.asr for model in models], attack)
    return [_point(model, indicator.number(model), *count) for model, count in zip(models, counts, strict=True)]


def _point(model: SweepModel, separation: float | None, successes: int, trials: int) -> ModelPoint:
    """Return a model with its place in the design; an abliterated copy is not a second seed of its original."""
    copy = "abliterated" if model.control == "abliterated" else None
    recipe, length = (" ".join(filter(None, (text, copy))) for text in (model.recipe, model.length))
    name = f"{model.run} {model.name}"
    return ModelPoint(
        name, model.family, separation, successes, trials, recipe, model.data, model.method, length or None
    )


def _verdicts(
    models: Sequence[SweepModel],
    indicators: Sequence[Indicator] = INDICATORS,
    *,
    attack: str | None = None,
    covariates: Covariates | None = None,
) -> dict[str, VerdictRecord]:
    candidates = {indicator.name: points(models, indicator, attack=attack) for indicator in indicators}
    return {name: verdict_record(test) for name, test in verdicts(candidates, covariates=covariates).items()}


def _evidence_by_indicator(models: Sequence[SweepModel]) -> dict[str, EvidenceRecord]:
    """Return what stands beside each indicator; adjusted verdicts are corrected for all indicators together."""
    refusal = [_logit(model.over_refusal) for model in models]
    adjusted = _verdicts(models, covariates={"over-refusal": refusal})
    return {
        indicator.name: _evidence(models, indicator, {"over-refusal": adjusted[indicator.name]})
        for indicator in INDICATORS
    }


def _logit(rate: Estimate) -> float | None:
    """Return the logit of a rate, the scale on which attack success is compared; None where it is undecided."""
    if rate.value is None or not rate.n:
        return None
    count = rate.value * rate.n
    return float(np.log((count + 0.5) / (rate.n - count + 0.5)))


def _evidence(models: Sequence[SweepModel], indicator: Indicator, adjusted: dict[str, VerdictRecord]) -> EvidenceRecord:
    model_points, placebos, name = points(models, indicator), {}, indicator.placebo
    if name is not None:
        distances = [log_distance(getattr(model.benign_against_benign, name)) for model in models]
        placebos = {"benign against benign topics": distances}
    result = evidence(model_points, placebos=placebos)
    if name is not None:  # the paper takes the logarithm itself
        pairs = zip(model_points, models, strict=True)
        raw = [point._replace(separation=indicator.read(model)) for point, model in pairs]
        result = result._replace(pooled_z=pooled_z(model_cells(raw)))
    return EvidenceRecord(
        odds_ratio=finite(result.odds_ratio),
        ranks=_correlation(result.ranks),
        within_families=_correlation(result.within_families),
        pooled_z=_correlation(result.pooled_z),
        held_out_family_skill=result.held_out_family_skill,
        verdict=verdict_record(result.verdict),
        adjusted=adjusted,
        placebos={name: verdict_record(test) for name, test in result.placebos.items()},
    )


def _joint(
    models: Sequence[SweepModel], folder: Path, read: Callable[[SeparationDraws], list[float] | None]
) -> Estimate | None:
    """Return the within-family correlation with prompts resampled on both sides; None where it has no number."""
    columns = {place: values for place, model in enumerate(models) if (values := read(model.draws)) is not None}
    if len(columns) < FEWEST_MODELS:
        return None
    measured = [models[place] for place in columns]
    distances = np.log1p(np.array([*columns.values()]))
    rows = [own_verdicts(read_rows(folder / model.verdicts)) for model in measured]
    outcomes = [_by_prompt(each) for each in rows]
    prompts = sorted(set.intersection(*(set(shares) for shares in outcomes)))
    cluster = {row["id"]: row.get("cluster") or row["id"] for row in rows[0]}
    table = np.array([[shares[prompt] for prompt in prompts] for shares in outcomes])
    family = np.unique([model.family for model in measured], return_inverse=True)[1]
    try:
        clusters = [cluster[prompt] for prompt in prompts]
        return finite(joint_bootstrap(distances[:, 0], distances[:, 1:].T, table, family, clusters))
    except ValueError:
        return None


def _by_prompt(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the share of successful attacks on each harmful prompt in distribution; nan where none was decided."""
    outcomes: dict[str, list[float]] = {}
    for row in per_prompt(rows):
        if row["harmful"] and not row["held_out"]:
            outcomes.setdefault(row["id"], [])
            if row["unsafe"] is not None:
                outcomes[row["id"]].append(float(row["unsafe"]))
    return {name: float(np.mean(values)) if values else float("nan") for name, values in outcomes.items()}


def _correlation(test: Tested | None) -> CorrelationRecord | None:
    return None if test is None else CorrelationRecord(estimate=finite(test.estimate), p_value=test.p_value)
