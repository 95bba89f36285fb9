"""Many runs, one verdict: a real sweep of tiny runs, and the weighing of simulated ones."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from divalign.cli import main
from divalign.config import load_config
from divalign.data.controls import shuffled_labels
from divalign.data.recipes import compliance_refusal
from divalign.store import read_json, read_rows
from divalign.study.sweep import sweep
from divalign.study.sweep_config import Sweep, load_sweep, planned_runs
from divalign.study.sweep_page import page
from divalign.study.sweep_verdict import INDICATORS, points, weigh
from divalign.toy.world import requests
from tests.tiny import save_tiny

ROOT = Path(__file__).parents[2]
TINY = """
run:
  data: {recipes: [cr], n_train: 24, n_test: 40, n_held_out: 20}
  train: {methods: [kldo], methods_on: {}, warmup_updates: 0, pairs_per_update: 4, pairs_per_batch: 4}
  measure: {attacks: [direct, prefill], max_new_tokens: 4, divergences: [js]}
grid: {length: {short: {train.updates: 1}, long: {train.updates: 2}}}
controls:
  shuffled labels: {train.updates: 1, data.recipes: ["divalign.data.controls:shuffled_labels"]}
abliterate: {rounds: 2}
draws: 100
"""


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["divalign", "sweep", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, folder / "tiny.yaml", "--out", folder / "out", "--docs", folder / "docs", "--quiet") == 0
    return folder


def test_every_run_its_controls_and_one_base_are_there(folder: Path) -> None:
    found = read_json(folder / "out" / "sweep.json")
    kinds = [(entry["run"], entry["name"], entry["control"]) for entry in found["models"]]
    assert kinds == [
        ("short", "base", "base"),
        ("short", "cr-kldo", None),
        ("short", "cr-kldo abliterated", "abliterated"),
        ("long", "cr-kldo", None),
        ("long", "cr-kldo abliterated", "abliterated"),
        ("shuffled_labels", "divalign.data.controls_shuffled_labels-kldo", "shuffled labels"),
    ]
    assert [entry["recipe"] for entry in found["models"]][1:4:2] == ["kldo on cr, short", "kldo on cr, long"]
    for entry in found["models"]:
        assert set(entry["under_attack"]["bhattacharyya"]["by_attack"]) >= {"direct", "prefill 1 of 3", "prefill"}
        assert set(entry["benign_against_benign"]) == {"bhattacharyya_paper", "bhattacharyya"}
        assert (folder / "out" / entry["verdicts"]).is_file()
    assert set(found["verdicts"]) == {indicator.name for indicator in INDICATORS}
    assert found["verdicts"]["probe AUC"]["n_models"] == 2  # controls are no evidence


def test_the_page_and_its_figures_come_out_of_the_same_command(folder: Path) -> None:
    text = (folder / "docs" / "study.md").read_text()
    assert f"divalign sweep {folder / 'tiny.yaml'} --out" in text
    for name in ("plain", "direct", "worst", "auc"):
        assert f"figures/study-{name}.svg" in text
        assert (folder / "docs" / "figures" / f"study-{name}.svg").is_file()


def test_a_sweep_that_was_stopped_goes_on(folder: Path) -> None:
    def refuse(stage: str, total: int, unit: str) -> Any:
        raise AssertionError(f"the stage {stage!r} was done again")

    before = read_json(folder / "out" / "sweep.json")
    (folder / "out" / "sweep.json").unlink()
    again = sweep(load_sweep(folder / "tiny.yaml"), folder / "out", progress=refuse)
    assert {**again, "seconds": 0} == {**before, "seconds": 0}


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("grid:", "grit:", "there is no key 'grit'; did you mean 'grid'?"),
        ("short: {train.updates: 1}", "short: {train.update: 1}", "did you mean 'train.updates'?"),
        (
            "long: {train.updates: 2}",
            "long: {train.updates: 1}",
            "cr-kldo of the run 'long' is the same model as cr-kldo",
        ),
        ("methods: [kldo]", "methods: [klod]", "did you mean 'kldo'?"),
        ("[direct, prefill]", "[direct, prefil]", "did you mean 'prefill'?"),
        ("rounds: 2", "rounds: 0", "abliterate.rounds is 0"),
        ("shuffled labels:", "short:", "two runs of the sweep are called alike"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(
    old: str, new: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "bad.yaml").write_text(TINY.replace(old, new))
    assert call(monkeypatch, tmp_path / "bad.yaml", "--out", tmp_path / "out", "--quiet") == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_another_base_is_another_family_and_no_other_recipe(tmp_path: Path) -> None:
    save_tiny("Llama", tmp_path / "other")
    (tmp_path / "two.yaml").write_text(
        TINY.replace("grid: {", f"grid: {{base: {{ours: {{}}, other: {{model.source: {tmp_path / 'other'}}}}}, ")
        .replace(", long: {train.updates: 2}", "")
        .replace("abliterate: {rounds: 2}", "")
    )
    found = sweep(load_sweep(tmp_path / "two.yaml"), tmp_path / "out")["models"]
    assert [entry["run"] for entry in found] == ["ours-short"] * 2 + ["other-short"] * 2 + ["shuffled_labels"]
    assert [entry["control"] for entry in found] == ["base", None, "base", None, "shuffled labels"]
    ours, other = found[1], found[3]
    assert ours["recipe"] == other["recipe"] == "kldo on cr, short"
    assert (ours["family"], other["family"]) == ("toy", str(tmp_path / "other"))


def test_another_sweeps_folder_is_left_alone(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds another sweep"):
        sweep(Sweep(run={"data": {"recipes": ["cr"]}}), folder / "out")
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match="is no sweep's folder"):
        sweep(Sweep(), tmp_path)


def test_the_committed_study_has_at_least_sixty_models_and_its_controls() -> None:
    asked = load_sweep(ROOT / "configs" / "study.yaml")
    runs = planned_runs(asked)

    def models(config: Any) -> int:
        train, recipes = config.train, config.data.recipes
        return len(train.seeds) * sum(len(train.methods_on.get(recipe, train.methods)) for recipe in recipes)

    assert sum(models(one.config) for one in runs if one.control is None) >= 60
    assert {one.control for one in runs} == {None, "shuffled labels"}
    assert len({one.config.model.source for one in runs}) == 3  # families enough to leave one out
    assert asked.abliterate is not None
    assert {"cr", "pref", "ranked_refusals", "ranked", "cr_plus"} == set(runs[0].config.data.recipes)
    assert load_config(None).measure.position == runs[0].config.measure.position


def test_shuffled_labels_are_right_half_of_the_time() -> None:
    known = requests("train", held_out=False)
    same = [shuffled_labels(request) == compliance_refusal(request) for request in known]
    assert np.mean(same) == pytest.approx(0.5, abs=0.1)
    harmful = [request.harmful for request in known]
    assert abs(np.corrcoef(same, harmful)[0, 1]) < 0.1


def simulated(seed: int, *, slope: float, attacked_only: bool = False) -> list[dict[str, Any]]:
    """Entries of 24 recipes whose attack success follows separation; or, if `attacked_only`, not that of plain ones."""
    generator, entries = np.random.default_rng(seed), []
    for number, (x, other, noise) in enumerate(generator.normal(size=(24, 3))):
        wins = int(generator.binomial(100, 1 / (1 + np.exp(0.5 + slope * x + 0.3 * noise))))

        def one(value: float) -> dict[str, float]:
            return {"value": value, "low": value, "high": value, "n": 100}

        plain, attacked = float(np.exp(other if attacked_only else x)), float(np.exp(x))
        entries.append(
            {
                "run": "r",
                "name": f"m{number}",
                "control": None,
                "family": "toy",
                "recipe": f"recipe {number}",
                "method": "kldo",
                "data": "cr",
                "seed": 0,
                "separation": {"bhattacharyya_paper": one(plain), "bhattacharyya": one(plain), "probe_auc": one(0.9)},
                "asr": {"direct": {"value": wins / 100, "low": 0, "high": 1, "n": 100}},
                "over_refusal": one(float(generator.uniform())),
                "under_attack": {
                    "bhattacharyya": {"by_attack": {}, "worst": one(attacked), "mean": one(attacked)},
                    "probe_auc": {"by_attack": {}, "worst": one(0.8), "mean": one(0.8)},
                },
                "benign_against_benign": {"bhattacharyya_paper": float(np.exp(noise)), "bhattacharyya": 1.0},
                "draws": {"plain": None, "worst": None},
                "verdicts": "",
            }
        )
    return entries


def test_the_indicator_that_carries_the_effect_is_the_one_supported(tmp_path: Path) -> None:
    found = weigh(simulated(0, slope=1.2, attacked_only=True), tmp_path)
    assert found["verdicts"]["worst D_B under attack"]["conclusion"] == "supported"
    assert found["verdicts"]["D_B, paper mode"]["conclusion"] != "supported"
    assert found["verdicts"]["probe AUC"]["p_value"] is None  # the same in all models
    controls = found["evidence"]["worst D_B under attack"]["controls"]
    assert controls["given over-refusal"]["conclusion"] == "supported"
    assert all(one["conclusion"] != "supported" for name, one in controls.items() if name.startswith("placebo"))
    assert found["joint"] == {"plain": None, "worst": None}


def test_no_effect_supports_no_indicator(tmp_path: Path) -> None:
    found = [weigh(simulated(seed, slope=0.0), tmp_path)["verdicts"] for seed in range(1, 4)]
    assert all(one["conclusion"] != "supported" for verdicts in found for one in verdicts.values())


def test_an_effect_of_one_base_alone_is_seen_base_by_base(tmp_path: Path) -> None:
    slopes = {"one": 1.5, "two": 0.0, "three": 0.0}
    parts = [simulated(number, slope=slope) for number, slope in enumerate(slopes.values())]
    named = [(name, entry) for name, part in zip(slopes, parts, strict=True) for entry in part]
    entries = [{**entry, "family": name} for name, entry in named]
    found = weigh(entries, tmp_path)
    conclusions = {name: one["D_B, paper mode"]["conclusion"] for name, one in found["by_family"].items()}
    assert conclusions["one"] == "supported"
    assert "supported" not in (conclusions["two"], conclusions["three"])
    assert found["evidence"]["D_B, paper mode"]["unseen_family_skill"] is not None
    text = page({"models": entries, "divalign": "0", "seconds": 1, "sweep_sha256": "0" * 12, **found}, command="x")
    assert "## Base by base" in text["study.md"]
    assert "24 recipes on 3 base models" in text["study.md"]


def test_the_papers_statistic_takes_its_logarithm_once(tmp_path: Path) -> None:
    entries = simulated(0, slope=1.2)
    found = weigh(entries, tmp_path)["evidence"]["D_B, held out"]["pooled_z"]
    logs = np.log([entry["separation"]["bhattacharyya"]["value"] for entry in entries])
    expected = np.corrcoef(logs, [entry["asr"]["direct"]["value"] for entry in entries])[0, 1]
    assert found["value"] == pytest.approx(expected)


def test_controls_are_weighed_only_where_it_says_so(tmp_path: Path) -> None:
    entries = simulated(0, slope=1.2)
    entries += [{**entry, "control": "abliterated", "name": f"{entry['name']} abliterated"} for entry in entries[:4]]
    found = weigh(entries, tmp_path)
    assert found["verdicts"]["D_B, paper mode"]["n_models"] == 24
    assert found["with_controls"]["D_B, paper mode"]["n_models"] == 28
    recipes = {one.recipe for one in points(entries, INDICATORS[0])}
    assert len(recipes) == 28  # a copy is no second seed of its original


def test_a_page_of_nothing_decided_has_no_number_in_its_place(folder: Path) -> None:
    found = read_json(folder / "out" / "sweep.json")
    for entry in found["models"]:
        entry["under_attack"]["bhattacharyya"]["worst"]["value"] = None
    text = page(found, command="x")["study.md"]
    assert "undecided" in text
    assert "None" not in text


def test_the_joint_bootstrap_reads_outcomes_of_every_model(folder: Path) -> None:
    found = read_json(folder / "out" / "sweep.json")
    rows = read_rows(folder / "out" / found["models"][1]["verdicts"])
    assert len({row["id"] for row in rows if row["harmful"] and not row["held_out"]}) == 20
