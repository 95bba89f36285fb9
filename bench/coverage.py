"""Coverage, width and type I error of every interval that divalign prints, by simulation against known values.

`python -m bench.coverage` prints the table of docs/estimates.md and docs/separation.md; `--quick` draws a tenth.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.stats import norm

from bench import coverage_verdict
from bench.rows import Row
from divalign.core.bootstrap import bootstrap_weights, share_with_interval, with_interval
from divalign.core.clouds import clouds
from divalign.core.design_effect import ClusterSums, share_interval
from divalign.core.divergences import DIVERGENCES
from divalign.core.estimate import estimate_divergence
from divalign.core.heldout import HeldOut, hold_out
from divalign.core.stats import ALPHA, clustered_difference


def rows(*, quick: bool = False) -> list[Row]:
    """Return the whole table, the verdict's rows last."""
    scale = 0.1 if quick else 1.0
    return [
        *rates(scale),
        *differences(scale),
        *divergences(scale),
        *separations(scale),
        *coverage_verdict.rows(quick),
    ]


def _summary(part: str, setting: str, intervals: np.ndarray, truth: float) -> Iterator[Row]:
    inside = (intervals[:, 0] <= truth + 1e-12) & (truth <= intervals[:, 1] + 1e-12)
    yield Row(part, setting, "coverage", float(inside.mean()), len(intervals))
    yield Row(part, setting, "mean width", float((intervals[:, 1] - intervals[:, 0]).mean()), len(intervals))


def _sizes(kind: str, clusters: int) -> np.ndarray:
    if kind == "uneven":
        return 1 + np.round(np.exp(np.random.default_rng(clusters).normal(1.8, 0.9, clusters))).astype(int)
    sizes = np.full(clusters, 10)
    sizes[0] = 10 * (clusters - 1) if kind == "one giant" else 10
    return sizes


def _chances(share: float, correlation: float, shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    odds = (1 - correlation) / correlation
    return np.nan_to_num(random.beta(share * odds, (1 - share) * odds, shape))


def rates(scale: float) -> Iterator[Row]:
    """Clustered rates, beta-binomial: the worst coverage over shares .01 to .5 and correlations .1 to .9."""
    draws, random = max(40, int(1000 * scale)), np.random.default_rng(0)
    for clusters in (6, 12, 30, 60):
        for kind in ("equal", "uneven", "one giant"):
            sizes, found = _sizes(kind, clusters), []
            for share in (0.01, 0.05, 0.2, 0.5):
                for correlation in (0.1, 0.5, 0.9):
                    chances = _chances(share, correlation, (draws, clusters), random)
                    counts = random.binomial(np.broadcast_to(sizes, chances.shape), chances).astype(float)
                    ends = np.array([share_interval(ClusterSums(sizes.astype(float), one, one)) for one in counts])
                    found.append(list(_summary("rate", f"{clusters} clusters, {kind}", ends, share)))
            coverage, width = min(one[0].value for one in found), float(np.mean([one[1].value for one in found]))
            setting = f"{clusters} clusters, {kind}"
            yield Row("rate", setting, "worst coverage", coverage, draws)
            yield Row("rate", setting, "mean width", width, draws)


def differences(scale: float) -> Iterator[Row]:
    """Changes of clustered rates; where nothing changed, type I error of the signs test at .05."""
    draws, random = max(40, int(400 * scale)), np.random.default_rng(1)
    for kind in ("equal", "one giant"):
        sizes = _sizes(kind, 12)
        ids = np.repeat(np.arange(12), sizes)
        for before, after in ((0.5, 0.5), (0.3, 0.05)):
            ends, p_values = [], []
            for _ in range(draws):
                chances = [_chances(share, 0.3, (1, 12), random)[0][ids] for share in (before, after)]
                sides = [(random.random(len(ids)) < chance).tolist() for chance in chances]
                tested = clustered_difference(*sides, ids.tolist())
                ends.append(tested.estimate[1:3])
                p_values.append(tested.p_value)
            setting = f"12 clusters, {kind}, {before:g} to {after:g}"
            yield from _summary("difference", setting, np.array(ends), after - before)
            if before == after:
                yield Row("difference", setting, "type I error", float(np.mean(np.array(p_values) <= ALPHA)), draws)


def moments(name: str, mean: float, spread: float) -> tuple[float, float]:
    """The bound at r ~ N(mean, spread) against N(-mean, spread), and the variance of a row of each class, exactly."""
    row, r = DIVERGENCES[name], np.linspace(mean - 12 * spread, mean + 12 * spread, 100_001)
    weights = norm.pdf(r, mean, spread)
    weights /= weights.sum()
    gains = row.score(torch.from_numpy(r)).numpy(), -row.penalty(torch.from_numpy(-r)).numpy()
    means = [float(weights @ gain) for gain in gains]
    return sum(means), sum(float(weights @ (gain - one) ** 2) for gain, one in zip(gains, means, strict=True))


def divergences(scale: float) -> Iterator[Row]:
    """Intervals of bounded divergences, and their width over that of a normal interval of known variance."""
    for mean, spread, size, draws in (
        (1, 1, 10, 1000),
        (1, 1, 20, 1000),
        (4, 2, 10, 1000),
        (4, 2, 20, 1000),
        (1, 1, 100, 300),
        (4, 2, 100, 300),
        (8, 2, 100, 300),
        (8, 2, 1000, 100),
        (8, 4, 100, 300),
    ):
        for name in ("js", "hellinger", "lecam", "tv"):
            truth, variance = moments(name, mean, spread)
            random, ends = np.random.default_rng(2), []
            for index in range(max(20, int(draws * scale))):
                sides = random.normal(mean, spread, size), random.normal(-mean, spread, size)
                ends.append(estimate_divergence(*sides, name, draws=400, seed=index)[1:3])
            setting = f"{name}, r ~ N(+-{mean}, {spread}), n = {size}"
            coverage, width = _summary("divergence", setting, np.array(ends), truth)
            oracle = 2 * 1.96 * np.sqrt(variance / size)
            yield from (coverage, width, width._replace(quantity="width / oracle", value=width.value / oracle))


def separations(scale: float) -> Iterator[Row]:
    """Distance, probe AUC and silhouette of Gaussians, means apart over four axes: coverage of expectations."""
    for size, width, distance, draws in (
        (20, 16, 0.5, 200),
        (50, 16, 0.0, 200),
        (50, 64, 0.5, 200),
        (100, 16, 0.5, 200),
        (100, 64, 0.5, 200),
        (100, 256, 0.5, 100),
        (100, 10, 2.0, 200),
        (100, 64, 8.0, 100),
        (400, 64, 0.5, 40),
        (400, 64, 2.0, 40),
    ):
        held = [_held(size, width, distance, seed) for seed in range(max(20, int(draws * scale)))]
        setting = f"{size} a class, width {width}, D = {distance:g}"
        yield from _own(f"held-out D_B, {setting}", held, HeldOut.bhattacharyya, 0.0 if distance == 0 else None)
        yield from _own(f"probe AUC, {setting}", held, HeldOut.probe_auc, 0.5 if distance == 0 else None)
        yield from _own(f"silhouette, {setting}", held, HeldOut.silhouette, 0.0 if distance == 0 else None)


def _held(size: int, width: int, distance: float, seed: int) -> HeldOut:
    safe, harmful = np.random.default_rng(seed).normal(size=(2, size, width))
    harmful[:, :4] += np.sqrt(8 * distance) / 2
    return hold_out(clouds(safe, harmful, at_least=10), seed=seed)


def _own(
    setting: str, held: list[HeldOut], measure: Callable[[HeldOut, np.ndarray], np.ndarray], null: float | None
) -> Iterator[Row]:
    """Coverage of the measure's own expectation, and of its value under no separation."""
    values, ends = [], []
    for seed, one in enumerate(held):
        labels = one.pooled.harmful
        weights = bootstrap_weights(labels, None, draws=300, generator=np.random.default_rng(seed))
        values.append(float(measure(one, np.ones((len(labels), 1)))[0]))
        draws, n = measure(one, weights), len(labels)
        share = share_with_interval(values[-1], draws, n, rests_on=n // 2)
        ends.append((share if measure is HeldOut.probe_auc else with_interval(values[-1], draws, n))[1:3])
    mean = float(np.mean(values))
    yield Row("separation", setting, "mean", mean, len(held))
    yield from _summary("separation", setting, np.array(ends), mean)
    if null is not None:  # a distance below zero is taken back to it
        missed = float(np.mean([low > null for low, _ in ends]))
        yield Row("separation", setting, "type I error, one-sided", missed, len(held))


def as_table(found: list[Row]) -> str:
    """Return the rows as a table in Markdown, a line for each setting."""
    lines: dict[tuple[str, str], list[str]] = {}
    for row in found:
        lines.setdefault(row[:2], []).append(f"{row.quantity} {row.value:.3g} ({row.n:,})")
    body = [f"| {part} | {setting} | {'; '.join(texts)} |" for (part, setting), texts in lines.items()]
    return "\n".join(["| part | setting | simulated (draws) |", "|---|---|---|", *body])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the draws")
    print(as_table(rows(quick=parser.parse_args().quick)))


if __name__ == "__main__":
    main()
