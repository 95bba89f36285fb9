from pathlib import Path

import numpy as np
import pytest

from divalign.study.evidence import evidence, odds_ratio, unseen_family_skill
from divalign.study.paper import PAPER_POINTS, paper_evidence
from divalign.study.sweep_verdict import INDICATORS, points, weigh
from divalign.study.verdict import ModelPoint, model_cells, verdict
from tests.study.test_sweep import simulated
from tests.study.test_verdict import study


def test_the_papers_numbers_come_out() -> None:
    found = paper_evidence()
    assert found.pooled_z.estimate.value == pytest.approx(-0.485, abs=5e-4)
    assert found.pooled_z.p_value == pytest.approx(0.030, abs=5e-4)
    assert found.within_bases.estimate.value == pytest.approx(-0.554, abs=5e-4)
    assert found.within_bases.p_value == pytest.approx(0.026, abs=5e-4)
    assert found.ranks.estimate.value == pytest.approx(0.014, abs=5e-4)
    assert found.ranks.p_value == pytest.approx(0.95, abs=0.005)


def test_the_papers_points_leave_its_claim_undecided() -> None:
    found = paper_evidence()
    for verdict_on in (found.by_method, found.by_model):
        assert verdict_on.conclusion == "undecided"
        assert verdict_on.effect == pytest.approx(-0.47, abs=0.01)
        assert verdict_on.low < -0.9
        assert verdict_on.high == pytest.approx(0.43, abs=0.01)
    assert found.by_method.p_value == pytest.approx(0.136, abs=1e-3)
    assert found.by_model.p_value == pytest.approx(0.186, abs=1e-3)


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
    found = odds_ratio(model_cells(points))
    assert found.value == pytest.approx(np.exp(-0.4), rel=0.05)
    assert found.low < np.exp(-0.4) < found.high
    assert found.n == 240


@pytest.mark.parametrize("wins", [(0, 0, 0, 0, 0, 0), (0, 0, 0, 100, 100, 100)])
def test_no_odds_ratio_where_none_is_finite(wins: tuple[int, ...]) -> None:
    points = [ModelPoint(str(x), "f", float(x), k, 100) for x, k in enumerate(wins)]
    assert odds_ratio(model_cells(points)).value is None


def test_separation_that_compares_across_families_predicts_unseen_ones() -> None:
    generator = np.random.default_rng(1)

    def points(offset: float) -> list[ModelPoint]:
        result = []
        for family in range(6):
            for model in range(8):
                x = generator.normal()
                wins = generator.binomial(100, 1 / (1 + np.exp(1.2 * x)))
                result.append(ModelPoint(f"{family}.{model}", str(family), float(x + offset * family), int(wins), 100))
        return result

    comparable, incomparable = (unseen_family_skill(model_cells(points(offset))) for offset in (0.0, 10.0))
    assert comparable > 0.8
    assert incomparable < 0.3
    assert unseen_family_skill(model_cells(study(0, families=2))) is None


def test_evidence_holds_verdict_neighbours_and_controls() -> None:
    points = study(4, correlation=0.8)
    noise = np.random.default_rng(2).normal(size=(2, 24)).tolist()
    found = evidence(points, covariates={"over-refusal": noise[0]}, placebos={"benign topics": noise[1]})
    assert found.verdict == verdict(points)
    assert found.verdict.conclusion == found.controls["given over-refusal"].conclusion == "supported"
    assert found.controls["placebo benign topics"].conclusion != "supported"
    assert found.controls["placebo shuffled within families"].conclusion != "supported"
    assert found.odds_ratio.high < 1
    assert found.within_families.estimate.value < -0.5
    assert found.ranks is not None
    assert found.pooled_z is None  # some of these separations are below zero: they have no logarithm


def test_evidence_from_nothing_is_nothing() -> None:
    found = evidence([])
    assert found.odds_ratio.value is None
    assert found.ranks is found.within_families is found.pooled_z is found.unseen_family_skill is None
    assert found.verdict.conclusion == "undecided"


def test_one_model_per_family_has_no_spread_to_standardise_by() -> None:
    points = [ModelPoint(str(x), str(x), x + 1.0, 10 * x, 100) for x in range(5)]
    assert evidence(points).pooled_z is None


def test_a_sweeps_entries_become_points_of_the_design() -> None:
    entries = simulated(0, slope=1.0)[:3]
    entries[0] |= {"method": "dpo", "data": "pref", "recipe": "dpo on pref, short"}
    entries[1] |= {"method": "dpo", "data": "pref", "recipe": "dpo on pref"}
    entries[2] |= {"method": "dpo", "data": "cr", "recipe": "dpo on cr, short", "control": "abliterated"}
    found = [(one.recipe, one.data, one.method, one.length) for one in points(entries, INDICATORS[0])]
    assert found == [
        ("dpo on pref, short", "pref", "dpo", "short"),
        ("dpo on pref", "pref", "dpo", None),
        ("dpo on cr, short abliterated", "cr", "dpo", "short abliterated"),
    ]


def test_undecided_over_refusal_is_left_out_of_the_verdict_given_it_alone(tmp_path: Path) -> None:
    entries = simulated(0, slope=1.2)
    entries[3]["over_refusal"] = {"value": None, "low": 0.0, "high": 1.0, "n": 0}
    found = weigh(entries, tmp_path)
    assert found["verdicts"]["D_B, held out"]["n_models"] == 24
    given = found["evidence"]["D_B, held out"]["controls"]["given over-refusal"]
    assert (given["n_models"], given["left_out"]) == (23, 1)


def test_verdicts_given_over_refusal_pay_for_all_indicators(tmp_path: Path) -> None:
    found = weigh(simulated(0, slope=1.2), tmp_path)["evidence"]
    given = {name: one["controls"]["given over-refusal"] for name, one in found.items()}
    assert given["D_B, held out"]["p_value"] > found["D_B, held out"]["alone"]["p_value"]
    assert given["probe AUC"]["p_value"] is None  # the same in all models
