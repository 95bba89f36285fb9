"""The paper's evidence that separation predicts safety: its 20 points, its statistics and our verdict on them.

Bhattacharyya distances of five base models after four methods on compliance-refusal data (paper mode, on training
prompts), and successful GCG attacks of 100 AdvBench prompts each. Success counts are the table of the figure's second
page; distances are read off the figure's vector drawing and agree with the five that the paper prints.
Source: arXiv 2502.00657 section 5.2.3 and the scatter plot in its repository (rhaldarpurdue/KLDO).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from divalign.core.association import fixed_effects
from divalign.core.stats import Tested, pearson, spearman
from divalign.study.evidence import standardised
from divalign.study.verdict import ModelPoint, PredictionTest, log_distance, model_cells, verdict

METHODS_TRIED = ("dpo", "kto", "kldo", "bco")
DISTANCES_AND_SUCCESSES = {
    "Llama-3.2-1B": ((2.91, 40), (3.71, 72), (5.75, 31), (6.50, 42)),
    "Archangel-7B": ((3.67, 70), (4.06, 38), (4.42, 6), (3.43, 8)),
    "gemma-2-2b": ((1.20, 25), (1.76, 12), (10.13, 10), (2.91, 6)),
    "Mistral-7B": ((2.02, 94), (5.01, 85), (5.98, 31), (8.94, 32)),
    "Qwen2.5-1.5B": ((4.10, 48), (4.25, 54), (9.19, 29), (11.77, 43)),
}
PAPER_POINTS = tuple(
    ModelPoint(
        f"{base} {method}", base, distance, successes, 100, recipe=method, data="compliance-refusal", method=method
    )
    for base, row in DISTANCES_AND_SUCCESSES.items()
    for method, (distance, successes) in zip(METHODS_TRIED, row, strict=True)
)
IN_SHORT = (
    "Two of four methods have the larger distances and the fewer successes on most bases. That is one observation "
    "about four methods, made on five bases. Even if they were 20 independent models, the correlation could lie "
    "anywhere between -1 and +0.43: one model (gemma-2-2b, kldo) holds a third of what varies within bases. Whether "
    "it is the distance that makes a model hard to attack, these points cannot tell."
)


class PaperEvidence(NamedTuple):
    """What can be computed from the paper's 20 points.

    pooled_z: the published correlation, log distance with success rates standardised within base models.
    within_bases: the same with the bases' mean log distances taken out too. ranks: Spearman of raw numbers over all
    20. by_method: our verdict on log(1 + D), the four methods as the units that were tried. by_model: the same test if
    all 20 models were independent experiments, which four methods on each of five bases are not.
    """

    pooled_z: Tested
    within_bases: Tested
    ranks: Tested
    by_method: PredictionTest
    by_model: PredictionTest


def paper_evidence(*, seed: int = 0) -> PaperEvidence:
    """Compute the published statistic, two that speak against it, and the verdict; docs/separation.md reads them."""
    cells = model_cells(PAPER_POINTS)
    rates, logs = cells.successes / cells.trials, np.log(cells.separation)
    z = standardised(rates, cells)
    points = [point._replace(separation=log_distance(point.separation)) for point in PAPER_POINTS]
    independent = [point._replace(recipe=None, method=None) for point in points]
    return PaperEvidence(
        pooled_z=pearson(logs, z),
        within_bases=fixed_effects(logs, z, cells.family),
        ranks=spearman(cells.separation, rates),
        by_method=verdict(points, seed=seed),
        by_model=verdict(independent, seed=seed),
    )
