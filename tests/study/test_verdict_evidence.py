from pathlib import Path

import numpy as np
import pytest

from divalign.core.stats import Estimate
from divalign.study.evidence import evidence, held_out_family_skill, odds_ratio
from divalign.study.paper import PAPER_POINTS, paper_evidence
from divalign.study.sweep_verdict import INDICATORS, points, weigh
from divalign.study.verdict import ModelPoint, model_cells, verdict
from tests.study.sweep_models import changed, simulated
from tests.study.test_verdict import study


def test_the_papers_numbers_come_out() -> None:
    result = paper_evidence()
    assert result.pooled_z.estimate.value == pytest.approx(-0.485, abs=5e-4)
    assert result.pooled_z.p_value == pytest.approx(0.030, abs=5e-4)
    assert result.within_bases.estimate.value == pytest.approx(-0.554, abs=5e-4)
    assert result.within_bases.p_value == pytest.approx(0.026, abs=5e-4)
    assert result.ranks.estimate.value == pytest.approx(0.014, abs=5e-4)
    assert result.ranks.p_value == pytest.approx(0.95, abs=0.005)


def test_the_papers_points_leave_its_claim_undecided() -> None:
    result = paper_evidence()
    for verdict_on in (result.by_method, result.by_model):
        assert verdict_on.conclusion == "undecided"
        assert verdict_on.effect == pytest.approx(-0.47, abs=0.01)
        assert verdict_on.low < -0.9
        assert verdict_on.high == pytest.approx(0.43, abs=0.01)
    assert result.by_method.p_value == pytest.approx(0.136, abs=1e-3)
    assert result.by_model.p_value == pytest.approx(0.186, abs=1e-3)


def test_the_paper_table_is_five_bases_by_four_methods() -> None:
    assert len(PAPER_POINTS) == len({point.name for point in PAPER_POINTS}) == 20
    mean = {m: np.mean([p.separation for p in PAPER_POINTS if p.recipe == m]) for m in ("dpo", "kto", "kldo", "bco")}
    assert list(mean.values()) == pytest.approx([2.78, 3.76, 7.09, 6.71], abs=0.01)  # the table's own means


def test_the_odds_ratio_recovers_a_planted_slope() -> None:
    generator, points = np.random.default_rng(0), []
    separation = generator.normal(size=(6, 40))
    separation -= separation.mean(axis=1, keepdims=True)
    for (family, model), x in np.ndenumerate(separation / separation.std()):
        wins = generator.binomial(200, 1 / (1 + np.exp(0.5 + 0.4 * x - 0.5 * family)))
        points.append(ModelPoint(f"{family}.{model}", str(family), float(x + family), int(wins), 200))
    result = odds_ratio(model_cells(points))
    assert result.value == pytest.approx(np.exp(-0.4), rel=0.05)
    assert result.low < np.exp(-0.4) < result.high
    assert result.n == 240


@pytest.mark.parametrize("wins", [(0, 0, 0, 0, 0, 0), (0, 0, 0, 100, 100, 100)])
def test_no_odds_ratio_where_none_is_finite(wins: tuple[int, ...]) -> None:
    points = [ModelPoint(str(x), "f", float(x), k, 100) for x, k in enumerate(wins)]
    assert odds_ratio(model_cells(points)).value is None


def test_separation_that_compares_across_families_predicts_held_out_ones() -> None:
    generator = np.random.default_rng(1)

    def points(offset: float) -> list[ModelPoint]:
        result = []
        for family in range(6):
            for model in range(8):
                x = generator.normal()
                wins = generator.binomial(100, 1 / (1 + np.exp(1.2 * x)))
                result.append(ModelPoint(f"{family}.{model}", str(family), float(x + offset * family), int(wins), 100))
        return result

    comparable, incomparable = (held_out_family_skill(model_cells(points(offset))) for offset in (0.0, 10.0))
    assert comparable > 0.8
    assert incomparable < 0.3
    assert held_out_family_skill(model_cells(study(0, families=2))) is None


def test_evidence_holds_the_verdict_adjusted_ones_and_placebos() -> None:
    points = study(4, correlation=0.8)
    noise = np.random.default_rng(2).normal(size=(2, 24)).tolist()
    result = evidence(points, covariates={"over-refusal": noise[0]}, placebos={"benign topics": noise[1]})
    assert result.verdict == verdict(points)
    assert result.verdict.conclusion == result.adjusted["over-refusal"].conclusion == "supported"
    assert result.placebos["benign topics"].conclusion != "supported"
    assert result.placebos["shuffled within families"].conclusion != "supported"
    assert result.odds_ratio.high < 1
    assert result.within_families.estimate.value < -0.5
    assert result.ranks is not None
    assert result.pooled_z is None  # some of these separations are below zero: they have no logarithm


def test_evidence_from_nothing_is_nothing() -> None:
    result = evidence([])
    assert result.odds_ratio.value is None
    assert result.ranks is result.within_families is result.pooled_z is result.held_out_family_skill is None
    assert result.verdict.conclusion == "undecided"


def test_one_model_per_family_has_no_spread_to_standardise_by() -> None:
    points = [ModelPoint(str(x), str(x), x + 1.0, 10 * x, 100) for x in range(5)]
    assert evidence(points).pooled_z is None


def test_a_sweeps_models_become_points_of_the_design() -> None:
    first, second, third = simulated(0, slope=1.0)[:3]
    models = [
        changed(first, method="dpo", data="pref", recipe="dpo on pref, short", length="short"),
        changed(second, method="dpo", data="pref", recipe="dpo on pref", length=None),
        changed(third, method="dpo", data="cr", recipe="dpo on cr, short", length="short", control="abliterated"),
        changed(third, method="dpo", data="cr", recipe="dpo on cr", length=None, control="abliterated"),
    ]
    assert [(point.recipe, point.data, point.method, point.length) for point in points(models, INDICATORS[0])] == [
        ("dpo on pref, short", "pref", "dpo", "short"),
        ("dpo on pref", "pref", "dpo", None),
        ("dpo on cr, short abliterated", "cr", "dpo", "short abliterated"),
        ("dpo on cr abliterated", "cr", "dpo", "abliterated"),
    ]


def test_undecided_over_refusal_is_left_out_of_the_adjusted_verdict_alone(tmp_path: Path) -> None:
    models = simulated(0, slope=1.2)
    models[3] = changed(models[3], over_refusal=Estimate(None, 0.0, 1.0, 0))
    record = weigh(models, tmp_path)
    assert record.verdicts["D_B, held out"].n_models == 24
    adjusted = record.evidence["D_B, held out"].adjusted["over-refusal"]
    assert (adjusted.n_models, adjusted.left_out) == (23, 1)


def test_verdicts_adjusted_for_over_refusal_pay_for_all_indicators(tmp_path: Path) -> None:
    evidence_of = weigh(simulated(0, slope=1.2), tmp_path).evidence
    adjusted = {name: entry.adjusted["over-refusal"] for name, entry in evidence_of.items()}
    p_value, unadjusted = adjusted["D_B, held out"].p_value, evidence_of["D_B, held out"].verdict.p_value
    assert p_value is not None
    assert unadjusted is not None
    assert p_value > unadjusted
    assert adjusted["probe AUC"].p_value is None  # the same in all models
