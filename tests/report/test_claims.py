"""The seed's three claims over a sweep: planted answers are found, and what is not there is not."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from divalign.core.stats import Estimate
from divalign.records import DivergenceFile
from divalign.report import claims
from divalign.report.claims_page import write_claims_page
from divalign.store import write_json, write_rows
from tests.report.claim_sweeps import NAMES, bound, sweep, write_record
from tests.study.sweep_models import around, changed


def test_a_method_that_rises_most_on_its_own_divergence_is_found(tmp_path: Path) -> None:
    claim = claims.own_divergences(sweep(tmp_path, own=4.0, difference=0.0), tmp_path)
    assert list(map(str, claim.own)) == ["kl", "js", "tv", "js of pairs"]
    assert claim.conclusion == "supported"
    assert claim.test.mean.value is not None
    assert claim.test.mean.value < 1.2


def test_a_method_that_does_not_is_not(tmp_path: Path) -> None:
    found = [claims.own_divergences(sweep(tmp_path, own=0.0, difference=0.0, seed=k), tmp_path) for k in range(20)]
    assert sum(claim.conclusion == "supported" for claim in found) <= 3
    worst = claims.own_divergences(sweep(tmp_path, own=-4.0, difference=0.0), tmp_path)
    assert worst.test.p_value < 0.05
    assert worst.conclusion == "undecided"  # the wrong way round supports nothing


def test_a_missing_bound_leaves_its_divergence_out_of_the_cell_for_all_methods(tmp_path: Path) -> None:
    models = sweep(tmp_path, own=4.0, difference=0.0)
    path = tmp_path / "runs" / "cr-bco-a" / "divergence.json"
    file = DivergenceFile.model_validate_json(path.read_text())
    write_json(path, file.model_copy(update={"divergences": file.divergences | {"kl": bound(None)}}).plain())
    claim = claims.own_divergences(models, tmp_path)
    assert claim.left_out == ["kl in 1 of 10 cells"]
    assert np.isnan(claim.test.ranks).sum() == 4
    assert claim.raw is not None
    assert np.isnan(claim.raw.ranks).sum() == 4  # too few rows carry its raw bound


def test_bounds_that_are_all_zero_rank_nothing_and_are_listed(tmp_path: Path) -> None:
    models = sweep(tmp_path, own=4.0, difference=0.0)
    for model in models:
        path = (tmp_path / model.verdicts).with_name("divergence.json")
        file = DivergenceFile.model_validate_json(path.read_text())
        write_json(path, file.model_copy(update={"divergences": file.divergences | {"kl": bound(0.0)}}).plain())
    claim = claims.own_divergences(models, tmp_path)
    assert claim.left_out == ["kl in 10 of 10 cells"]
    assert claim.test.mean.value is not None
    assert claim.test.mean.value < 1.2  # the other three; with kl at 2.5 it would be 1.5


def test_cells_that_all_agree_have_no_interval_and_are_not_called_no_effect(tmp_path: Path) -> None:
    models = sweep(tmp_path, own=0.0, difference=0.0)
    for model in models:
        worst_on_two = {"kldo": 1.0, "bco": 2.0, "kto": 3.0, "dpo": 4.0}[str(model.method)]
        path = (tmp_path / model.verdicts).with_name("divergence.json")
        file = DivergenceFile.model_validate_json(path.read_text())
        update = {"divergences": dict.fromkeys(NAMES, bound(worst_on_two)), "of_pairs": {"js": bound(worst_on_two)}}
        write_json(path, file.model_copy(update=update).plain())
    claim = claims.own_divergences(models, tmp_path)
    assert claim.test.mean == (2.5, None, None, 10)
    assert claim.conclusion == "undecided"


def test_a_divergence_that_no_cell_has_is_left_out_of_the_page(tmp_path: Path) -> None:
    models = sweep(tmp_path, own=4.0, difference=0.0)
    for model in models:
        path = (tmp_path / model.verdicts).with_name("divergence.json")
        file = DivergenceFile.model_validate_json(path.read_text())
        write_json(path, file.model_copy(update={"of_pairs": None}).plain())
    write_record(tmp_path, models)
    page = write_claims_page(tmp_path, tmp_path / "mine.md", lambda _models, _rho: None).read_text()
    assert "js of pairs in 10 of 10 cells" in page
    assert "| dpo |" in page
    assert "| cells | 10 | 10 | 10 | 0 |" in page
    assert "(kl in 10, js in 10, tv in 10 cells)" in page
    assert "tokens, means of each method's models: not measured." in page


def test_a_difference_between_data_sets_is_found_over_methods(tmp_path: Path) -> None:
    models = sweep(tmp_path, own=0.0, difference=0.8)
    claim = claims.data_difference(models, claims.log_distance)
    assert (claim.conclusion, len(claim.pairs), claim.tested.estimate.n) == ("supported", 20, 4)
    assert claim.tested.estimate.value == pytest.approx(0.8, abs=0.1)
    none = claims.data_difference(sweep(tmp_path, own=0.0, difference=0.0), claims.log_distance)
    assert none.conclusion == "no effect"
    assert (
        claims.data_difference(sweep(tmp_path, own=0.0, difference=-0.8), claims.log_distance).conclusion == "undecided"
    )


def outcomes(success: float, count: int = 40, *, wordings: int = 1) -> list[dict[str, Any]]:
    return [
        {
            "id": f"p{k}",
            "harmful": True,
            "attack": "direct",
            "unsafe": k < success * count,
            "judge": "j",
            "cluster": f"request {k // wordings}",
        }
        for k in range(count)
    ]


def test_a_model_that_separates_and_answers_everything_does_not_protect(tmp_path: Path) -> None:
    models = sweep(tmp_path, own=0.0, difference=0.0)
    base = changed(models[0], name="base", control="base", method=None, data=None, verdicts="base/verdicts.jsonl")
    for name, success in (("base", 0.9), ("open", 0.9), ("resists", 0.1)):
        write_rows(tmp_path / name / "verdicts.jsonl", outcomes(success))
    far = models[0].separation.model_copy(update={"bhattacharyya": around(50.0)})
    near = models[0].separation.model_copy(update={"bhattacharyya": around(0.1)})
    arms = [
        changed(
            base,
            name=name,
            control="separation alone",
            method="separate",
            separation=separation,
            verdicts=f"{file}/verdicts.jsonl",
        )
        for name, separation, file in (("far", far, "open"), ("far resists", far, "resists"), ("near", near, "open"))
    ]
    found = claims.causal_arms([base, *models, *arms], tmp_path, ["separate"])
    assert [arm.protects for arm in found] == [False, True, None]
    unknown = models[0].separation.model_copy(update={"bhattacharyya": Estimate(None, None, None, 200)})
    undecided = [changed(model, separation=unknown) for model in models]
    assert [arm.protects for arm in claims.causal_arms([base, *undecided, *arms], tmp_path, ["separate"])] == [None] * 3


def test_wordings_of_one_request_are_one_piece_of_evidence_for_a_causal_arm(tmp_path: Path) -> None:
    models = sweep(tmp_path, own=0.0, difference=0.0)
    base = changed(models[0], name="base", control="base", method=None, data=None, verdicts="base/verdicts.jsonl")
    arm = changed(base, name="arm", control="separation alone", method="separate", verdicts="arm/verdicts.jsonl")
    changes = []
    for wordings in (1, 10):
        for name, success in (("base", 0.75), ("arm", 0.25)):
            write_rows(tmp_path / name / "verdicts.jsonl", outcomes(success, wordings=wordings))
        (found,) = claims.causal_arms([base, *models, arm], tmp_path, ["separate"])
        changes.append(found.change)
    assert [change.estimate.value for change in changes] == [-0.5, -0.5]
    assert changes[0].p_value < 1e-4
    assert changes[1].p_value == 0.5  # two requests changed


def test_an_outcome_that_is_undecided_everywhere_stands_so_on_the_page(tmp_path: Path) -> None:
    models = [
        changed(model, over_refusal=Estimate(None, 0.0, 1.0, 0)) for model in sweep(tmp_path, own=4.0, difference=0.8)
    ]
    write_record(tmp_path, models)
    page = write_claims_page(tmp_path, tmp_path / "mine.md", lambda _models, _rho: None).read_text()
    assert "| over-refusal | undecided | - |" in page


def test_the_page_has_its_answers_figures_and_numbers(tmp_path: Path) -> None:
    models = sweep(tmp_path, own=4.0, difference=0.8)
    base = changed(models[0], name="base", control="base", method=None, data=None)
    write_record(tmp_path, [base, *models])
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "mine-protocol.md").write_text("# Protocol\n")
    page = write_claims_page(tmp_path, tmp_path / "docs" / "mine.md", lambda _models, _rho: 0.5).read_text()
    assert page.count("**supported**") >= 2
    assert "[The protocol](mine-protocol.md)" in page
    assert "Power against a correlation of -0.7: 0.50" in page
    figures = tmp_path / "docs" / "figures"
    assert {path.name for path in figures.iterdir()} == {
        f"mine-claim{n}.{end}" for n in (1, 2, 3) for end in ("svg", "csv")
    }
    rows = list(csv.DictReader((figures / "mine-claim1.csv").open()))
    assert len(rows) == 10 * 16
    assert "2.72 [2.72, 2.72]" in page  # perplexity, e^1
    with pytest.raises(ValueError, match=r"no sweep\.json"):
        write_claims_page(tmp_path / "docs", tmp_path / "x.md", lambda _models, _rho: None)


def verdict(name: str, unsafe: bool, *, place: int = 0, held_out: bool = False) -> dict[str, Any]:
    return {"id": name, "attack": "best_of_n(2)", "try": place, "prompt": name, "harmful": True, "held_out": held_out,
            "unsafe": unsafe, "judge": "j", "cluster": name}  # fmt: skip


def test_a_causal_arm_is_compared_with_its_own_base_by_prompt_in_distribution(tmp_path: Path) -> None:
    """Both succeed in one of two tries on each prompt, held-out ones aside; another base never does."""
    models, folders = sweep(tmp_path, own=0.0, difference=0.0), {}
    for name, first, held_out in (("base", True, True), ("arm", False, False), ("other", None, False)):
        rows = [
            verdict(f"p{number}", unsafe=first is not None and (first is (place == 0)), place=place)
            for number in range(40)
            for place in (0, 1)
        ]
        rows += [verdict(f"h{number}", unsafe=held_out, held_out=True) for number in range(40)]
        write_rows(tmp_path / name / "verdicts.jsonl", rows)
        folders[name] = f"{name}/verdicts.jsonl"
    base = changed(models[0], name="base", control="base", method=None, data=None, verdicts=folders["base"])
    other = changed(base, family="another", verdicts=folders["other"])
    arm = changed(base, name="arm", control="separation alone", method="separate", verdicts=folders["arm"])
    (found,) = claims.causal_arms([other, base, *models, arm], tmp_path, ["separate"])
    assert found.change is not None
    assert (found.change.estimate.value, found.change.estimate.n, found.change.p_value) == (0.0, 40, 1.0)


def test_a_method_has_a_divergence_of_its_own_where_that_one_is_measured() -> None:
    found = {name: claims.own_divergence(name) for name in ("kldo", "bco", "dpo", "nca", "rdro", "dpo(0.2)", "sft")}
    names = {name: own and (own.name, own.of_pairs) for name, own in found.items()}
    assert names == {
        "kldo": ("kl", False), "bco": ("js", False), "dpo": ("js", True),
        "nca": None, "rdro": None, "dpo(0.2)": None, "sft": None,
    }  # fmt: skip
