"""Sweeps in which the answers to the seed's three claims are planted."""

from pathlib import Path

import numpy as np

from divalign.core.stats import Estimate
from divalign.records import AlignedLikelihood, DivergenceFile, DivergenceRecord, SweepModel, SweepRecord
from divalign.store import write_json
from divalign.study.sweep_verdict import weigh
from tests.study.sweep_models import around, changed, simulated

METHODS = ("kldo", "bco", "kto", "dpo")
NAMES = ("kl", "js", "tv")


def bound(value: float | None) -> DivergenceRecord:
    low = None if value is None else value - 0.1
    return DivergenceRecord(
        estimate=Estimate(value, low, None if value is None else value + 0.1, 90),
        bound=-1.0 if value is None else value,
        lower=low,
        ceiling=None,
        effective_sample_size=50.0,
        flags=[],
    )


def sweep(folder: Path, *, own: float, difference: float, seed: int = 0) -> list[SweepModel]:
    """Write 4 methods x cr and pref x 5 lengths, `own` added to each method's bound on its own divergence and
    `difference` to log(1 + D_B) on cr."""
    generator, models = np.random.default_rng(seed), []
    template = simulated(0, slope=0.0)[0]
    for data in ("cr", "pref"):
        for length in "abcde":
            for number, method in enumerate(METHODS):
                name = f"{data}-{method}-{length}"
                noise = generator.normal(size=4)
                noise[number] += own
                write_json(
                    folder / "runs" / name / "divergence.json",
                    DivergenceFile(
                        divergences={each: bound(float(noise[place])) for place, each in enumerate(NAMES)},
                        of_pairs={"js": bound(float(noise[3]))},
                        aligned_nll={"benign": AlignedLikelihood(policy=around(1.0), reference=around(0.5))},
                    ).plain(),
                )
                distance = float(np.expm1(1.0 + difference * (data == "cr") + 0.05 * generator.normal()))
                models.append(
                    changed(
                        template,
                        run=length, name=name, method=method, data=data, length=length, seed=0,
                        recipe=f"{method} on {data}, {length}",
                        separation=template.separation.model_copy(update={"bhattacharyya": around(distance)}),
                        asr={"direct": Estimate(float(generator.integers(20, 80)) / 100, 0.0, 1.0, 100)},
                        verdicts=f"runs/{name}/verdicts.jsonl",
                    )
                )  # fmt: skip
    return models


def write_record(folder: Path, models: list[SweepModel]) -> None:
    """Write the sweep.json of these models."""
    record = SweepRecord(divalign="0", sweep_sha256="0" * 64, seconds=1.0, models=models, **dict(weigh(models, folder)))
    write_json(folder / "sweep.json", record.plain())
