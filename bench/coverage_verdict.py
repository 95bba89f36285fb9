"""Type I error, wrong "no effect", coverage and power of the verdict, by simulation over designs of recipes.

Models come from a crossed design: families x data sets x methods x lengths, seeds averaged. Separation and the logit of
the success rate are normal; a share of either's variance belongs to the data set or to the method, and half of the rest
to the recipe on whatever family. Alone: `python -m bench.coverage_verdict` (about 3 minutes on one core).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from bench.rows import Row
from divalign.core.association import Association, Cells, associate_all, nuisance
from divalign.core.stats import ALPHA
from divalign.study.verdict import SMALLEST_EFFECT

FULL, QUICK, CHUNK = 4000, 400, 500
CANDIDATES, AGREEMENT = 6, 0.8  # indicators tried, and the correlation of any two of them
ALONE = ("type I error", 0.0), ('wrong "no effect"', -0.4), ('wrong "no effect"', -0.7)
ROW = "{} | {} | {} | {:.3f} | {}"


class Design(NamedTuple):
    """Recipes: data sets x methods x lengths (all of them, or the first `recipes` in a fixed shuffled order)."""

    data: int
    methods: int
    lengths: int = 1
    families: int = 1
    recipes: int | None = None
    trials: int = 200

    def __str__(self) -> str:
        grid = f"{self.data} data x {self.methods} methods" + (f" x {self.lengths}" if self.lengths > 1 else "")
        count = self.recipes or self.data * self.methods * self.lengths
        return f"{count} recipes ({grid}), {self.families} base" + ("s" if self.families > 1 else "")

    def cells(self) -> Cells:
        """Cells of this design; their separations and successes are zeros."""
        grid = np.indices((self.data, self.methods, self.lengths)).reshape(3, -1).T
        chosen = np.random.default_rng(5).permutation(len(grid))[: self.recipes] if self.recipes else slice(None)
        factors = np.tile(grid[chosen], (self.families, 1))
        n, recipes = len(factors), len(factors) // self.families
        family, recipe = np.repeat(np.arange(self.families), recipes), np.tile(np.arange(recipes), self.families)
        zeros = np.zeros(n)
        return Cells(zeros, zeros, zeros + self.trials, family, recipe, np.zeros((n, 0)), factors)


class Variance(NamedTuple):
    """Shares of the variance that data set and method hold, and how the recipes' own spreads differ."""

    data: float = 0.0
    method: float = 0.0
    spread: str = "equal"

    def __str__(self) -> str:
        shares = [f"{share:g} by {name}" for name, share in (("data", self.data), ("method", self.method)) if share]
        return ", ".join([*shares, *([] if self.spread == "equal" else [self.spread])]) or "all independent"


SPREADS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "equal": lambda generator, studies, recipes: np.ones((1, recipes)),
    "one recipe fourfold": lambda generator, studies, recipes: 1 + 3.0 * (np.arange(recipes) == 0)[None],
    "one recipe tenfold": lambda generator, studies, recipes: 1 + 9.0 * (np.arange(recipes) == 0)[None],
    "half fourfold": lambda generator, studies, recipes: 1 + 3.0 * (np.arange(recipes) < recipes // 2)[None],
    "a third fourfold": lambda generator, studies, recipes: 1 + 3.0 * (np.arange(recipes) % 3 == 0)[None],
    "lognormal, sigma 1": lambda generator, studies, recipes: np.exp(generator.normal(size=(studies, recipes))),
    "lognormal, sigma 1.5": lambda generator, studies, recipes: np.exp(1.5 * generator.normal(size=(studies, recipes))),
}
SHARED = [Variance(), *(Variance(data=s) for s in (0.5, 0.7)), *(Variance(method=s) for s in (0.5, 0.7))]
UNEQUAL = [Variance(spread=spread) for spread in SPREADS if spread != "equal"]
SIX_TO_TWENTY = [
    Design(2, 3),
    Design(6, 1),
    Design(4, 3),
    Design(5, 4, recipes=14),
    Design(4, 4),
    Design(5, 4),
]


STUDY = Design(5, 4, lengths=2, families=3)  # configs/study.yaml


def rows(quick: bool) -> list[Row]:
    """Every part of the table; `quick` takes a tenth of the studies."""
    n = QUICK if quick else FULL
    designs = [design._replace(families=families) for families in (1, 3) for design in SIX_TO_TWENTY]
    both = Variance(data=0.35, method=0.35)
    mixed = Variance(data=0.5, spread="lognormal, sigma 1")
    return [
        *(row for design in designs for variance in (*SHARED, both) for row in alone("shared", design, variance, n)),
        *(row for design in designs for variance in (*UNEQUAL, mixed) for row in alone("unequal", design, variance, n)),
        *(row for design in designs[3:6] for row in _powers(design, Variance(data=0.5), n)),
        *(row for design in (designs[5], designs[11], STUDY) for row in _intervals(design, Variance(data=0.5), n)),
        *(row for design in (*designs[3:6], STUDY) for row in _candidates(design, Variance(data=0.5), n // 4)),
        *(row for design in (Design(6, 1), Design(20, 1), Design(5, 4), STUDY) for row in _given(design, n)),
    ]


def simulate(
    design: Design, variance: Variance, correlation: float, studies: int, generator: np.random.Generator
) -> tuple[Cells, np.ndarray, np.ndarray]:
    """Cells, separations and latent logits of studies with this correlation between the two."""
    cells = design.cells()
    spread = SPREADS[variance.spread](generator, studies, int(cells.recipe.max()) + 1)

    def varied() -> np.ndarray:
        own = generator.normal(size=(studies, len(cells.recipe)))
        luck = generator.normal(size=(studies, spread.shape[1]))[:, cells.recipe]
        rest = np.sqrt(0.5) * (luck + own) if design.families > 1 else own
        result = np.sqrt(1 - variance.data - variance.method) * rest * spread[:, cells.recipe]
        for share, levels in zip((variance.data, variance.method), cells.factors.T[:2], strict=True):
            result += np.sqrt(share) * generator.normal(size=(studies, levels.max() + 1))[:, levels]
        return result

    separation = varied()
    outcome = correlation * separation + np.sqrt(1 - correlation**2) * varied()
    return cells, separation, outcome


def _associations(
    design: Design, variance: Variance, correlation: float, n: int, seed: int = 0
) -> Iterator[Association]:
    """Associations of n studies, chunk by chunk."""
    generator = np.random.default_rng([seed, *map(int, np.frombuffer(f"{design}{variance}".encode(), np.uint8))])
    for start in range(0, n, CHUNK):
        cells, separation, outcome = simulate(design, variance, correlation, min(CHUNK, n - start), generator)
        successes = attacked(outcome, cells, generator)
        yield associate_all(separation, successes, cells.trials, nuisance(cells), cells.recipe)


def attacked(outcome: np.ndarray, cells: Cells, generator: np.random.Generator) -> np.ndarray:
    """Successful attacks where the logits of success vary as `outcome`, and families differ."""
    level = 0.6 * generator.normal(size=(len(outcome), int(cells.family.max()) + 1))[:, cells.family]
    chance = 1 / (1 + np.exp(np.clip(0.5 - level - 0.8 * outcome, -30, 30)))
    return generator.binomial(cells.trials.astype(int), chance).astype(float)


def _answers(one: Association, p_value: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the verdict is "supported" and where it is "no effect", as `verdicts` concludes."""
    low, high = one.interval(level)
    supported = (p_value < ALPHA) & (one.fit.t < 0)
    return supported, ~supported & (low > -SMALLEST_EFFECT) & (high < SMALLEST_EFFECT)


def _mean(parts: Iterator[np.ndarray]) -> float:
    return float(np.concatenate(list(parts)).mean())


def alone(part: str, design: Design, variance: Variance, n: int) -> Iterator[Row]:
    """Type I error (either sign) and the wrong "no effect" of one indicator."""
    for quantity, correlation in ALONE:
        found = _associations(design, variance, correlation, n)
        if correlation == 0:
            value = _mean(one.fit.p_value() < ALPHA for one in found)
        else:
            value = _mean(_answers(one, one.fit.p_value(), ALPHA)[1] for one in found)
            quantity = f"{quantity} at {correlation}"
        yield Row(f"{part} variance", f"{design}; {variance}", quantity, value, n)


def _powers(design: Design, variance: Variance, n: int) -> Iterator[Row]:
    """Power of one indicator, simulated and as the verdict states it."""
    for correlation in (-SMALLEST_EFFECT, -0.7, -0.9):
        found = list(_associations(design, variance, correlation, n))
        setting = f"{design}; {variance}"
        power = _mean(_answers(one, one.fit.p_value(), ALPHA)[0] for one in found)
        yield Row("power", setting, f"power at {correlation}", power, n)
        stated = _mean(one.power(correlation, ALPHA) for one in found)
        yield Row("power", setting, f"power at {correlation}, as stated", stated, n)


def _intervals(design: Design, variance: Variance, n: int) -> Iterator[Row]:
    """Coverage of the correlation's interval, and how often no effect is recognised as none."""
    for correlation in (0.0, -0.4, -0.7):
        found = list(_associations(design, variance, correlation, n))
        ends = [one.interval(ALPHA) for one in found]
        covered = _mean((low <= correlation) & (correlation <= high) for low, high in ends)
        yield Row("interval", f"{design}; {variance}", f"coverage at {correlation}", covered, n)
        if correlation == 0:
            none = _mean(_answers(one, one.fit.p_value(), ALPHA)[1] for one in found)
            yield Row("interval", f"{design}; {variance}", 'right "no effect" at 0', none, n)


def _candidates(design: Design, variance: Variance, n: int) -> Iterator[Row]:
    """Six indicators tried on one outcome: any false "supported", any wrong "no effect", power of one after Holm."""
    for correlation in (0.0, -0.4, -0.7):
        answers = [
            _one_of_six(design, variance, correlation, min(CHUNK, n - start), start) for start in range(0, n, CHUNK)
        ]
        supported, none = (np.concatenate(side, axis=1) for side in zip(*answers, strict=True))
        setting = f"{design}; {variance}"
        if correlation == 0:
            yield Row("six indicators", setting, 'any false "supported"', float(supported.any(axis=0).mean()), n)
            continue
        yield Row("six indicators", setting, f'any wrong "no effect" at {correlation}', float(none.any(0).mean()), n)
        yield Row("six indicators", setting, f"power at {correlation}, after Holm", float(supported[0].mean()), n)


def _one_of_six(
    design: Design, variance: Variance, correlation: float, n: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which of six indicators, all of this correlation with the outcome, are "supported" and "no effect"."""
    generator = np.random.default_rng([6, seed])
    cells, common, outcome = simulate(design, variance, correlation / np.sqrt(AGREEMENT), n, generator)
    successes, known = attacked(outcome, cells, generator), nuisance(cells)
    others = [simulate(design, variance, 0.0, n, generator)[1] for _ in range(CANDIDATES)]
    tried = [np.sqrt(AGREEMENT) * common + np.sqrt(1 - AGREEMENT) * other for other in others]
    found = [associate_all(one, successes, cells.trials, known, cells.recipe) for one in tried]
    corrected = holm_columns(np.array([one.fit.p_value() for one in found]))
    answers = [_answers(one, p, ALPHA / CANDIDATES) for one, p in zip(found, corrected, strict=True)]
    return np.array([supported for supported, _ in answers]), np.array([none for _, none in answers])


def holm_columns(p_values: np.ndarray) -> np.ndarray:
    """Holm's p-values of each column, a column holding the tests of one study."""
    order = np.argsort(p_values, axis=0)
    steps = np.take_along_axis(p_values, order, axis=0) * np.arange(len(p_values), 0, -1)[:, None]
    corrected = np.minimum(np.maximum.accumulate(steps, axis=0), 1)
    return np.take_along_axis(corrected, np.argsort(order, axis=0), axis=0)


def _given(design: Design, n: int) -> Iterator[Row]:
    """Given over-refusal: a covariate that drives both sides, and nothing else that links them."""
    for name, prompts in (("known exactly", None), ("measured on 400 prompts", 400), ("measured on 50 prompts", 50)):
        generator, wrong = np.random.default_rng(7), []
        for _ in range(n // 50):
            cells, separation, outcome = simulate(design, Variance(), 0.0, 50, generator)
            refusal = generator.normal(size=len(cells.recipe))
            measured = refusal if prompts is None else _measured(refusal, prompts, generator)
            successes = attacked(outcome - refusal, cells, generator)
            known = nuisance(cells._replace(covariates=measured[:, None]))
            found = associate_all(separation + refusal, successes, cells.trials, known, cells.recipe)
            wrong.append(found.fit.p_value() < ALPHA)
        setting = f"{design}; over-refusal drives both, {name}"
        yield Row("given over-refusal", setting, "type I error", float(np.concatenate(wrong).mean()), n // 50 * 50)


def _measured(refusal: np.ndarray, prompts: int, generator: np.random.Generator) -> np.ndarray:
    refused = generator.binomial(prompts, 1 / (1 + np.exp(-refusal)))
    return np.log((refused + 0.5) / (prompts - refused + 0.5))


def main() -> None:
    for row in rows(quick="--quick" in sys.argv):
        print(ROW.format(*row), flush=True)


if __name__ == "__main__":
    main()
