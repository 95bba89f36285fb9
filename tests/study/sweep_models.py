"""Models of a sweep made up for the tests, with a planted effect of separation on attack success."""

from __future__ import annotations

import numpy as np

from divalign.core.stats import Estimate
from divalign.records import AttackSeparation, BenignDistances, SeparationDraws, SeparationNumbers, SweepModel


def around(value: float) -> Estimate:
    return Estimate(value, value, value, 100)


def simulated(seed: int, *, slope: float, attacked_only: bool = False) -> list[SweepModel]:
    """Models of 24 recipes whose attack success follows separation; if `attacked_only`, not that of direct prompts."""
    generator = np.random.default_rng(seed)
    models = []
    for number, (x, other, noise) in enumerate(generator.normal(size=(24, 3))):
        wins = int(generator.binomial(100, 1 / (1 + np.exp(0.5 + slope * x + 0.3 * noise))))
        plain, attacked = float(np.exp(other if attacked_only else x)), float(np.exp(x))
        models.append(
            SweepModel(
                run="r",
                name=f"m{number}",
                control=None,
                family="toy",
                recipe=f"recipe {number}",
                length=f"length {number}",
                method="kldo",
                data="cr",
                seed=0,
                separation=SeparationNumbers(
                    bhattacharyya_paper=around(plain),
                    silhouette_paper=around(0.5),
                    bhattacharyya=around(plain),
                    probe_auc=around(0.9),
                    lexical_auc=around(0.8),
                ),
                flags=[],
                asr={"direct": Estimate(wins / 100, 0.0, 1.0, 100)},
                asr_no_refusal={"direct": Estimate(min(1.0, wins / 100 + 0.05), 0.0, 1.0, 100)},
                over_refusal=around(float(generator.uniform())),
                divergence={},
                under_attack={
                    "bhattacharyya": AttackSeparation(by_attack={}, worst=around(attacked), mean=around(attacked)),
                    "probe_auc": AttackSeparation(by_attack={}, worst=around(0.8), mean=around(0.8)),
                },
                benign_against_benign=BenignDistances(bhattacharyya_paper=float(np.exp(noise)), bhattacharyya=1.0),
                draws=SeparationDraws(direct=None, worst=None),
                verdicts="verdicts.jsonl",
            )
        )
    return models


def changed(model: SweepModel, **changes: object) -> SweepModel:
    return model.model_copy(update=changes)
