import json
from pathlib import Path
from typing import Any

import pytest

from divalign.core.stats import Estimate
from divalign.report.quantities import upper_bounds
from divalign.report.reading import number, read_number, read_run
from divalign.report.tables import divergence_table
from divalign.store import write_json, write_rows
from tests.report.runs import entries, facts, results, single, verdicts, write_results, write_run


def test_a_whole_run_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, count=10))
    assert [model.name for model in run.models] == [entry["name"] for entry in entries()]
    assert run.models[1].in_distribution.separation["bhattacharyya_paper"].value == 104.0
    assert run.models[1].divergence["kl"] == Estimate(None, None, None, 192)
    assert [len(model.plane) for model in run.models] == [20] * 11
    assert [len(model.metrics) for model in run.models] == [0] + [40] * 10
    assert len(run.models[0].responses) == 30
    assert run.verdict is not None
    assert run.verdict.conclusion == "undecided"
    assert run.config.startswith("model: toy")


def test_what_is_no_finite_number_in_a_record_is_unknown(tmp_path: Path) -> None:
    entry = entries()[0]
    entry["asr"] = {"direct": {"value": float("nan"), "low": 0.0, "high": float("inf"), "n": 9}}
    write_results(tmp_path, results(models=[entry]))
    part = read_run(tmp_path).models[0].in_distribution
    assert part.asr == {"direct": Estimate(None, 0.0, None, 9)}


def test_the_upper_bound_of_ones_own_divergence_is_read_from_its_record(tmp_path: Path) -> None:
    entry = entries()[1]
    entry["divergence"] = {"my_lab:mine": single(1.0), "js": single(1.0)}
    write_results(tmp_path, results(models=[entry]))
    blank = {"bound": 1.0, "lower": None, "effective_sample_size": 9.0, "flags": []}
    divergences = {"my_lab:mine": {"estimate": single(1.0), "ceiling": 4.0, **blank}}
    write_json(tmp_path / "models" / "kldo-cr" / "divergence.json", {"schema": 2, "divergences": divergences})
    run = read_run(tmp_path)
    assert upper_bounds(run.models) == {"my_lab:mine": 4.0, "js": pytest.approx(1.386, abs=1e-3)}
    table = divergence_table(run.models)
    assert table is not None
    assert [column.name for column in table.columns] == ["my_lab:mine (of 4)", "js (of 1.386)"]


def test_only_the_first_judges_verdicts_are_shown(tmp_path: Path) -> None:
    write_results(tmp_path, results(models=entries()[:1]))
    rows = [row | {"judge": judge} for judge in ("a", "b") for row in verdicts(["p", "q"], ["r"], entries()[0])]
    write_rows(tmp_path / "models" / "base" / "verdicts.jsonl", rows)
    assert len(read_run(tmp_path).models[0].responses) == len(rows) / 2


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -float("inf")])
def test_what_is_no_finite_number_is_unknown(value: float | None) -> None:
    assert number(value) is None


@pytest.mark.parametrize("value", ["1", True, [1]])
def test_what_is_no_number_at_all_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="expected a number or null"):
        number(value)


def test_several_seeds_show_in_the_titles_and_one_does_not() -> None:
    base, aligned, other = entries()[:3]
    assert [model.title for model in facts(models=[base, aligned]).models] == ["base", "kldo"]
    seeds = [base | {"seed": None}, aligned, other | {"seed": 1}]
    assert [model.title for model in facts(models=seeds).models] == ["base", "kldo seed 0", "bco seed 1"]


def test_models_whose_prompts_leaked_are_marked_and_the_base_is_not() -> None:
    run = facts(models=entries()[:2], overlap={"exact": 2, "paraphrased": 5, "n": 100})
    assert (run.trained_on, [model.title for model in run.models]) == (2, ["base", "kldo ‡"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schema": 1}, "has schema 1, this version reads 2"),
        ({"schema": None}, "has schema None, this version reads 2"),
        ({"models": [{}]}, "models.0.name: Field required"),
        ({"models": [entries()[0] | {"name": "../up"}]}, "expected the plain name of a folder"),
        ({"models": [entries()[0] | {"name": ".."}]}, "expected the plain name of a folder"),
        (
            {"models": [entries()[0] | {"over_refusal": {"value": "0", "low": 0, "high": 0, "n": 1}}]},
            "a number or null",
        ),
        ({"models": [entries()[0] | {"over_refusal": {}}]}, "value, low, high and n"),
    ],
)
def test_a_foreign_folder_is_refused_with_what_was_expected(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    write_results(tmp_path, results(**changes))
    with pytest.raises(ValueError, match=r"results\.json") as caught:
        read_run(tmp_path)
    assert says in str(caught.value)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_folder_without_readable_results_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"results\.json"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plane.json", '{"points": [{"x": 1.0}]}'),
        ("plane.json", '{"points": [{"x": 1.0, "y": NaN, "harmful": true}]}'),
        ("plane.json", "torn"),
        ("metrics.jsonl", '{"loss": 0.1}\n'),
        ("metrics.jsonl", '{"step": null}\n'),
        ("verdicts.jsonl", '{"attack": "direct"}\n'),
        ("model.json", "[]"),
        ("attack.json", "[1]"),
    ],
)
def test_a_bad_file_of_a_model_is_named(tmp_path: Path, name: str, content: str) -> None:
    write_results(tmp_path, results())
    (tmp_path / "models" / "base").mkdir(parents=True)
    (tmp_path / "models" / "base" / name).write_text(content)
    with pytest.raises(ValueError, match=f"base/{name}"):
        read_run(tmp_path)


def test_a_speed_that_is_no_number_is_refused_with_its_file(tmp_path: Path) -> None:
    for content in ("[]", '{"tokens_per_second": "fast"}'):
        (tmp_path / "training.json").write_text(content)
        with pytest.raises(ValueError, match=r"training\.json .*expected"):
            read_number(tmp_path / "training.json", "tokens_per_second")
    assert read_number(tmp_path / "none.json", "tokens_per_second") is None


def test_metrics_keep_numbers_and_drop_words(tmp_path: Path) -> None:
    write_results(tmp_path, results(models=entries()[1:2]))
    rows = [{"step": 1, "rewards/chosen": 0.5, "note": "text"}, {"step": 2, "rewards/chosen": float("nan")}]
    (tmp_path / "models" / "kldo-cr").mkdir(parents=True)
    (tmp_path / "models" / "kldo-cr" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_run(tmp_path).models[0].metrics == (
        {"step": 1.0, "rewards/chosen": 0.5},
        {"step": 2.0, "rewards/chosen": None},
    )
