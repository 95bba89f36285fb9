"""A figure for each of the seed's three claims over a sweep, and its numbers as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

import numpy as np

from divalign.draw.chart import Chart, chart_svg
from divalign.records import SweepModel, SweepRecord
from divalign.report import claims
from divalign.report.study_tables import short_name


def claim_figures(record: SweepRecord, first: claims.OwnDivergence, second: claims.DataDifference) -> dict[str, str]:
    """Return each claim's figure as SVG and its numbers as CSV, by the end of their file names."""
    ranks = claims.mean_ranks(first)
    ranked_at_all = np.flatnonzero(~np.isnan(ranks).any(axis=0)).tolist()
    names = [f"{first.own[place]}, {first.methods[place]}'s" for place in ranked_at_all]
    charts = {
        "claim1": (
            "Mean rank of each method on each divergence",
            Chart(
                "divergence",
                "mean rank, 1 is largest",
                {method: (names, ranks[row, ranked_at_all].tolist()) for row, method in enumerate(first.methods)},
            ),
        ),
        "claim2": ("Models that differ in the data alone", _paired_chart(second)),
        "claim3": ("Attack success against separation", _success_chart(record.models)),
    }
    files = {f"{name}.svg": chart_svg(chart, title) for name, (title, chart) in charts.items()}
    ranked = [
        (*cell, method, str(divergence), first.bounds[c, i, j], first.test.ranks[c, i, j])
        for c, cell in enumerate(first.cells)
        for i, method in enumerate(first.methods)
        for j, divergence in enumerate(first.own)
    ]
    files["claim1.csv"] = _csv(("base", "data", "length", "seed", "method", "divergence", "bound", "rank"), ranked)
    pairs = [
        (model.method, model.length, model.seed, claims.log_distance(model), claims.log_distance(other))
        for model, other in second.pairs
    ]
    files["claim2.csv"] = _csv(("method", "length", "seed", "cr", "pref"), pairs)
    models = [
        (
            m.control or "", m.method, m.data, m.length, m.separation.bhattacharyya.value, m.success_share(),
            m.success_share(no_refusal=True), m.over_refusal.value,
        )
        for m in record.models
    ]  # fmt: skip
    heads = ("control", "method", "data", "length", "distance", "success", "no_refusal", "over_refusal")
    files["claim3.csv"] = _csv(heads, models)
    return files


def _paired_chart(claim: claims.DataDifference) -> Chart:
    series: dict[str, tuple[list[float], list[float]]] = {}
    for model, other in claim.pairs:
        xs, ys = series.setdefault(str(model.method), ([], []))
        xs.append(claims.log_distance(other) or 0.0)
        ys.append(claims.log_distance(model) or 0.0)
    labels = ("log(1 + D_B), preference data", "log(1 + D_B), compliance-refusal data")
    return Chart(*labels, series, diagonal=True, alike=True)


def _success_chart(models: Sequence[SweepModel]) -> Chart:
    series: dict[str, tuple[list[float], list[float]]] = {}
    for model in models:
        distance, success = claims.log_distance(model), model.success_share()
        if distance is not None and success is not None:
            xs, ys = series.setdefault(model.control or short_name(model.data), ([], []))
            xs.append(distance)
            ys.append(100 * success)
    return Chart("log(1 + D_B), held out", "successes of all attacks, %", series)


def _csv(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([heads, *rows])
    return text.getvalue()
