"""A sweep's models weighed together: candidates for the indicator side by side, their controls, and what stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from divalign.core.association import joint_bootstrap
from divalign.core.stats import Estimate, Tested
from divalign.store import read_rows
from divalign.study.evidence import Evidence, evidence, pooled_z
from divalign.study.verdict import ModelPoint, Verdict, attack_counts, in_words, log_distance, model_cells, verdicts

Entry = Mapping[str, Any]
GIVEN = "given over-refusal"


class Indicator(NamedTuple):
    """A candidate: what it is called, how it is read off a model's entry, and its placebo's name or None.

    A distance enters as log(1 + D), see `log_distance`.
    """

    name: str
    read: Callable[[Entry], float | None]
    placebo: str | None = None

    @property
    def distance(self) -> bool:
        return self.placebo is not None

    def number(self, entry: Entry) -> float | None:
        return log_distance(self.read(entry)) if self.distance else self.read(entry)


def _plain(name: str) -> Callable[[Entry], float | None]:
    return lambda entry: entry["separation"][name]["value"]


def _attacked(measure: str, which: str) -> Callable[[Entry], float | None]:
    return lambda entry: entry["under_attack"][measure][which]["value"]


INDICATORS = (
    Indicator("D_B, paper mode", _plain("bhattacharyya_paper"), "bhattacharyya_paper"),
    Indicator("D_B, held out", _plain("bhattacharyya"), "bhattacharyya"),
    Indicator("probe AUC", _plain("probe_auc")),
    Indicator("worst D_B under attack", _attacked("bhattacharyya", "worst"), "bhattacharyya"),
    Indicator("mean D_B under attack", _attacked("bhattacharyya", "mean"), "bhattacharyya"),
    Indicator("worst probe AUC under attack", _attacked("probe_auc", "worst")),
)


def weigh(entries: Sequence[Entry], out: Path) -> dict[str, Any]:
    """Return the verdicts of a sweep as plain values: by indicator, attack and base, with controls, on unseen topics.

    Controls (the base, shuffled labels, abliterated copies) are left out of every verdict but the one that says so.
    """
    models = [entry for entry in entries if entry["control"] is None]
    attacks = list(models[0]["asr"]) if models else []
    families = list(dict.fromkeys(entry["family"] for entry in models))
    return {
        "verdicts": _verdicts(models, None),
        "by_attack": {attack: _verdicts(models, attack) for attack in attacks},
        "by_family": {one: _verdicts([entry for entry in models if entry["family"] == one], None) for one in families},
        "with_controls": _verdicts([entry for entry in entries if entry["control"] != "base"], None),
        "unseen_topics": _unseen(models),
        "evidence": _evidences(models),
        "joint": {name: _joint(models, name, out) for name in ("plain", "worst")},
    }


def points(entries: Sequence[Entry], indicator: Indicator, *, attack: str | None = None) -> list[ModelPoint]:
    """Return the models with an indicator and the successes of one attack, or of all together."""
    rates = [{name: Estimate(**rate) for name, rate in entry["asr"].items()} for entry in entries]
    counts = attack_counts(rates, attack)
    return [_point(entry, indicator.number(entry), *count) for entry, count in zip(entries, counts, strict=True)]


def _point(entry: Entry, separation: float | None, successes: int, trials: int) -> ModelPoint:
    """A model with its place in the design; an abliterated copy is no second seed of its original."""
    method, data = entry["method"], entry["data"]
    length = entry["recipe"].removeprefix(f"{method} on {data}").removeprefix(", ")
    copied = " abliterated" if entry["control"] == "abliterated" else ""
    recipe, length = entry["recipe"] + copied, (length + copied).strip()
    name = f"{entry['run']} {entry['name']}"
    return ModelPoint(name, entry["family"], separation, successes, trials, recipe, data, method, length or None)


def success_share(entry: Entry, attack: str | None = None) -> float | None:
    """Return the share of successful attacks, of one kind or of all together; None where nothing was decided."""
    wins, trials = _counts(entry["asr"], attack)
    return wins / trials if trials else None


def _counts(rates: Mapping[str, Any], attack: str | None) -> tuple[int, int]:
    kept = [rate for name, rate in rates.items() if attack in (None, name) and rate["value"] is not None]
    return sum(round(rate["value"] * rate["n"]) for rate in kept), sum(rate["n"] for rate in kept)


def _verdicts(entries: Sequence[Entry], attack: str | None) -> dict[str, Any]:
    found = verdicts({one.name: points(entries, one, attack=attack) for one in INDICATORS})
    return {name: _plain_verdict(one) for name, one in found.items()}


def _unseen(entries: Sequence[Entry]) -> dict[str, Any]:
    """Test separation and success on topics that alignment never saw, where the runs have them."""
    parts = [{**entry, **entry["held_out"]} for entry in entries if "held_out" in entry]
    plain = INDICATORS[:3]
    found = verdicts({one.name: points(parts, one) for one in plain}) if parts else {}
    return {name: _plain_verdict(one) for name, one in found.items()}


def _evidences(entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """What stands beside each indicator; the verdicts given over-refusal are corrected for all indicators together."""
    refusal = [_refusal_logit(entry["over_refusal"]) for entry in entries]
    given = verdicts({one.name: points(entries, one) for one in INDICATORS}, covariates={"over-refusal": refusal})
    found = {one.name: _evidence(entries, one) for one in INDICATORS}
    for name, one in found.items():
        one["controls"] = {GIVEN: _plain_verdict(given[name]), **one["controls"]}
    return found


def _refusal_logit(rate: Mapping[str, Any]) -> float | None:
    """Logit of the over-refusal rate, the scale on which attack success is compared; None where undecided."""
    if rate["value"] is None or not rate["n"]:
        return None
    refused = rate["value"] * rate["n"]
    return float(np.log((refused + 0.5) / (rate["n"] - refused + 0.5)))


def _evidence(entries: Sequence[Entry], indicator: Indicator) -> dict[str, Any]:
    models = points(entries, indicator)
    placebos = {}
    if indicator.placebo is not None:
        placebos = {"benign against benign topics": [_placebo(entry, indicator.placebo) for entry in entries]}
    found = evidence(models, placebos=placebos)
    if indicator.distance:  # the paper takes the logarithm itself
        raw = [one._replace(separation=indicator.read(entry)) for one, entry in zip(models, entries, strict=True)]
        found = found._replace(pooled_z=pooled_z(model_cells(raw)))
    return _plain_evidence(found)


def _placebo(entry: Entry, distance: str) -> float | None:
    return log_distance(entry["benign_against_benign"][distance])


def _joint(entries: Sequence[Entry], name: str, out: Path) -> dict[str, Any] | None:
    """Return the within-family correlation with prompts redrawn on both sides; None where it has no number."""
    known = [entry for entry in entries if entry["draws"][name] is not None]
    if len(known) < 4:
        return None
    columns = np.log1p(np.array([entry["draws"][name] for entry in known]))
    outcomes = [_by_prompt(read_rows(out / entry["verdicts"])) for entry in known]
    prompts = sorted(set.intersection(*(set(one) for one in outcomes)))
    table = np.array([[one[prompt] for prompt in prompts] for one in outcomes])
    families = [entry["family"] for entry in known]
    family = np.array([families.index(one) for one in families])
    family = np.unique(family, return_inverse=True)[1]
    try:
        found = joint_bootstrap(columns[:, 0], columns[:, 1:].T, table, family)
    except ValueError:
        return None
    return found._asdict()


def _by_prompt(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the share of attacks that succeeded on each harmful prompt of a topic held in; nan where none decided."""
    outcomes: dict[str, list[float]] = {}
    for row in rows:
        if row["harmful"] and not row["held_out"]:
            outcomes.setdefault(row["id"], [])
            if row["unsafe"] is not None:
                outcomes[row["id"]].append(float(row["unsafe"]))
    return {name: float(np.mean(found)) if found else float("nan") for name, found in outcomes.items()}


def _plain_verdict(found: Verdict) -> dict[str, Any]:
    return {**found._asdict(), "words": in_words(found)}


def _plain_evidence(found: Evidence) -> dict[str, Any]:
    tested = {name: getattr(found, name) for name in ("ranks", "within_families", "pooled_z")}
    return {
        "odds_ratio": _finite(found.odds_ratio),
        **{name: None if one is None else _tested(one) for name, one in tested.items()},
        "unseen_family_skill": found.unseen_family_skill,
        "alone": _plain_verdict(found.verdict),
        "controls": {name: _plain_verdict(one) for name, one in found.controls.items()},
    }


def _tested(one: Tested) -> dict[str, Any]:
    return {**_finite(one.estimate), "p_value": one.p_value}


def _finite(one: Estimate) -> dict[str, Any]:
    """JSON has no infinity: a number without an end has no interval."""
    ends = one.value, one.low, one.high
    kept = [end if end is not None and np.isfinite(end) else None for end in ends]
    return dict(zip(("value", "low", "high"), kept, strict=True)) | {"n": one.n}
