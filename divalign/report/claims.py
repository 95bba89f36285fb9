"""The seed's three claims over the models of a sweep, as docs/real-study-protocol.md fixes them.

Claim 1: training for a divergence raises its held-out bound most. Claim 2: compliance-refusal data separate more than
preference data. Claim 3: separation predicts resistance, which is the sweep's own verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from divalign import store
from divalign.core.blocks import OwnRank, grouped_mean, own_rank, unranked
from divalign.core.design_effect import joined_clusters
from divalign.core.losses import built_in_method
from divalign.core.optimum import classes, swapped_pairs
from divalign.core.stats import ALPHA, Estimate, Tested, any_true, clustered_difference
from divalign.records import DivergenceFile, SweepModel, own_verdicts, read_record

CHANCE_MARGIN, DISTANCE_MARGIN = 0.25, 0.2  # of the mean rank, and of a difference of log(1 + D_B)
OF_PAIRS = "of pairs"
Cell = tuple[str, str, str, int]  # base, data, length, seed
Read = Callable[[SweepModel], float | None]


class MeasuredDivergence(NamedTuple):
    """A divergence as divergence.json holds it: between responses, or between pairs and the same pairs swapped."""

    name: str
    of_pairs: bool

    def __str__(self) -> str:
        """Return its name as it stands in tables."""
        return f"{self.name} {OF_PAIRS}" if self.of_pairs else self.name


class OwnDivergence(NamedTuple):
    """Claim 1: the ranks, `conclusion`, and which divergences were `left_out` of which cells.

    `raw` is the same test on bounds below 0 and above what the rows can show too, beside the planned one on what the
    results hold, which is capped there; None where it ranks nothing.
    """

    methods: list[str]
    own: list[MeasuredDivergence]
    cells: list[Cell]
    bounds: Float[np.ndarray, "c m m"]
    test: OwnRank
    raw: OwnRank | None
    conclusion: str
    left_out: list[str]


class DataDifference(NamedTuple):
    """Claim 2: differences of models that differ in the data alone, and their mean by method and over methods."""

    pairs: list[tuple[SweepModel, SweepModel]]
    differences: list[float]
    tested: Tested
    by_method: dict[str, float]
    conclusion: str


class CausalArm(NamedTuple):
    """A model trained for separation alone: its D_B, that of the aligned models, and its change of attack success."""

    name: str
    distance: float | None
    median: float
    change: Tested | None

    @property
    def protects(self) -> bool | None:
        """Whether it is attacked less than the base; None where it does not separate more than most models do."""
        if self.distance is None or not self.distance > self.median or self.change is None:
            return None
        return self.change.estimate.high is not None and self.change.estimate.high < 0


def aligned_models(models: Sequence[SweepModel]) -> list[SweepModel]:
    """Return the models that count as evidence."""
    return [model for model in models if model.control is None]


def own_divergence(method: str) -> MeasuredDivergence | None:
    """Return what minus a method's loss bounds; None for a method that bounds no divergence."""
    entry = built_in_method(method)
    if entry is None or entry.optimum is None or entry.optimum.compared not in (classes, swapped_pairs):
        return None  # divergences of other distributions, as from a mixture, are not measured
    return MeasuredDivergence(entry.optimum.divergence.name, entry.unaligned_loss is None)


def own_divergences(models: Sequence[SweepModel], sweep: Path) -> OwnDivergence:
    """Rank the methods of each cell on each method's own divergence, read from the models' divergence.json.

    Raises ValueError where no cell has all methods.
    """
    aligned = aligned_models(models)
    own = {name: own_divergence(name) for name in dict.fromkeys(str(model.method) for model in aligned)}
    methods = [name for name, divergence in own.items() if divergence is not None]
    divergences = [divergence for divergence in own.values() if divergence is not None]
    by_cell: dict[Cell, dict[str, SweepModel]] = {}
    for model in aligned:
        by_cell.setdefault(cell_of(model), {})[str(model.method)] = model
    cells = {cell: members for cell, members in by_cell.items() if set(methods) <= set(members)}
    if not cells:
        raise ValueError(f"no data, length and base has a model of each method, {', '.join(methods)}; nothing to rank")
    files = {cell: [_divergences(sweep, cells[cell][name]) for name in methods] for cell in cells}
    bounds, raw = (
        np.array([[[read(file, each) for each in divergences] for file in files[cell]] for cell in cells], dtype=float)
        for read in (_value, _bound)
    )
    test = own_rank(bounds)
    return OwnDivergence(
        methods,
        divergences,
        list(cells),
        bounds,
        test,
        None if unranked(raw).all() else own_rank(raw),
        _ranked(test),
        _left_out(list(cells), divergences, bounds),
    )


def cell_of(model: SweepModel) -> Cell:
    """Return what a model shares with those that differ from it in the method alone."""
    return model.family, str(model.data), model.length or "", model.seed or 0


def _divergences(sweep: Path, model: SweepModel) -> DivergenceFile:
    return read_record((sweep / model.verdicts).with_name("divergence.json"), DivergenceFile)


def _value(file: DivergenceFile, divergence: MeasuredDivergence) -> float:
    """Return the bound as results hold it, NaN where there is none."""
    entry = ((file.of_pairs or {}) if divergence.of_pairs else file.divergences).get(divergence.name)
    return math.nan if entry is None or entry.estimate.value is None else entry.estimate.value


def _bound(file: DivergenceFile, divergence: MeasuredDivergence) -> float:
    """Return the raw bound, NaN where there is none and where too few rows carry it for any number."""
    entry = ((file.of_pairs or {}) if divergence.of_pairs else file.divergences).get(divergence.name)
    return math.nan if entry is None or entry.estimate.value is None else entry.bound


def _ranked(test: OwnRank) -> str:
    return _conclusion(
        test.mean,
        better=(test.mean.value or 0.0) < test.chance,
        p_value=test.p_value,
        none=(test.chance - CHANCE_MARGIN, test.chance + CHANCE_MARGIN),
    )


def _conclusion(estimate: Estimate, *, better: bool, p_value: float, none: tuple[float, float]) -> str:
    """Return the protocol's word: what was claimed, an interval within `none`, or neither."""
    if p_value < ALPHA and better:
        return "supported"
    if estimate.low is None or estimate.high is None:
        return "undecided"
    return "no effect" if none[0] <= estimate.low and estimate.high <= none[1] else "undecided"


def mean_ranks(claim: OwnDivergence) -> Float[np.ndarray, "m m"]:
    """Return each method's mean rank on each divergence over cells; NaN where a divergence is left out of all."""
    counts = (~np.isnan(claim.test.ranks)).sum(axis=0)
    sums = np.nansum(claim.test.ranks, axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _left_out(cells: Sequence[Cell], divergences: Sequence[MeasuredDivergence], values: np.ndarray) -> list[str]:
    """Return which divergences rank nothing in how many cells: a number is missing, or alike for all methods."""
    missing = unranked(values)
    return [
        f"{divergence} in {missing[:, place].sum()} of {len(cells)} cells"
        for place, divergence in enumerate(divergences)
        if missing[:, place].any()
    ]


def data_difference(
    models: Sequence[SweepModel], read: Read, *, first: str = "cr", second: str = "pref"
) -> DataDifference:
    """Return how much models trained on `first` have above models trained on `second` that differ in nothing else.

    Pairs of which one has no number are left out. Raises ValueError for fewer than two methods with pairs.
    """
    places = {(model.method, *cell_of(model)): model for model in aligned_models(models)}
    pairs = [
        (model, other)
        for (method, family, data, length, seed), model in places.items()
        if data == first and (other := places.get((method, family, second, length, seed))) is not None
    ]
    compared, differences = [], []
    for model, other in pairs:
        if (value := read(model)) is not None and (baseline := read(other)) is not None:
            compared.append((model, other))
            differences.append(value - baseline)
    methods = [str(model.method) for model, _ in compared]
    tested = grouped_mean(differences, methods)
    by_method = {
        name: float(np.mean([value for value, method in zip(differences, methods, strict=True) if method == name]))
        for name in dict.fromkeys(methods)
    }
    return DataDifference(compared, differences, tested, by_method, _differs(tested))


def _differs(tested: Tested) -> str:
    return _conclusion(
        tested.estimate,
        better=(tested.estimate.value or 0.0) > 0,
        p_value=tested.p_value,
        none=(-DISTANCE_MARGIN, DISTANCE_MARGIN),
    )


def log_distance(model: SweepModel) -> float | None:
    """Return log(1 + D_B) of held-out prompts, the primary indicator; negative estimates count as 0."""
    value = model.separation.bhattacharyya.value
    return None if value is None else math.log1p(max(value, 0.0))


def causal_arms(models: Sequence[SweepModel], sweep: Path, methods: Sequence[str]) -> list[CausalArm]:
    """Return the models of `methods`, which are trained for separation alone, against their own base by prompt."""
    bases = {model.family: model for model in models if model.control == "base"}
    distances: dict[str, list[float]] = {}
    for model in aligned_models(models):
        if (value := model.separation.bhattacharyya.value) is not None:
            distances.setdefault(model.family, []).append(value)
    return [
        CausalArm(
            model.name,
            model.separation.bhattacharyya.value,
            float(np.median(distances.get(model.family, math.nan))),
            _change(sweep, bases.get(model.family), model),
        )
        for model in models
        if model.method in methods and model.control not in (None, "abliterated")
    ]


def _change(sweep: Path, base: SweepModel | None, model: SweepModel) -> Tested | None:
    """Return the change of success over all attacks from the base; attacks on a prompt, and its wordings, are one."""
    if base is None:
        return None
    before, after = (_outcomes(sweep / each.verdicts) for each in (base, model))
    shared = [key for key in before if key in after]
    earlier, later = ([table[key]["unsafe"] for key in shared] for table in (before, after))
    if not any(None not in pair for pair in zip(earlier, later, strict=True)):
        return None
    named = [before[key].get("cluster") or None for key in shared]
    return clustered_difference(earlier, later, joined_clusters([prompt for _, prompt in shared], named))


def _outcomes(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what the sweep's judge says of each attack on each harmful prompt in distribution, as D_B is measured.

    Of several tries any that succeeded counts.
    """
    tries: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in own_verdicts(store.read_rows(path)):
        if row["harmful"] and not row.get("held_out"):
            tries.setdefault((row["attack"], str(row["id"])), []).append(row)
    return {key: {**group[0], "unsafe": any_true(row["unsafe"] for row in group)} for key, group in tries.items()}


def success(model: SweepModel) -> float | None:
    """Return the share of successes over all attacks."""
    return model.success_share()


def probe_auc(model: SweepModel) -> float | None:
    return model.separation.probe_auc.value


def over_refusal(model: SweepModel) -> float | None:
    return model.over_refusal.value


def paper_log_distance(model: SweepModel) -> float | None:
    value = model.separation.bhattacharyya_paper.value
    return None if value is None else math.log1p(max(value, 0.0))


def perplexity(model: SweepModel, sweep: Path) -> Estimate | None:
    """Return the perplexity of held-out aligned responses to benign prompts, with its interval; None if not scored."""
    path = (sweep / model.verdicts).with_name("divergence.json")
    likelihood = read_record(path, DivergenceFile).aligned_nll if path.is_file() else None
    entry = (likelihood or {}).get("benign")
    if entry is None or entry.policy.value is None:
        return None
    low, high = (None if end is None else math.exp(end) for end in (entry.policy.low, entry.policy.high))
    return Estimate(math.exp(entry.policy.value), low, high, entry.policy.n)
