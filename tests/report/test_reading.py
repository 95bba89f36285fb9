import json
from pathlib import Path
from typing import Any

import pytest

from divalign.core.stats import Estimate
from divalign.report.reading import number, read_run
from tests.report.runs import entries, results, write_results, write_run


def test_a_whole_run_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, count=10))
    assert [model.name for model in run.models] == [entry["name"] for entry in entries()]
    assert run.models[1].in_distribution.separation["bhattacharyya_paper"].value == 104.0
    assert run.models[1].divergence["kl"] == Estimate(None, None, None, 192)
    assert [len(model.plane) for model in run.models] == [20] * 11
    assert [len(model.metrics) for model in run.models] == [0] + [40] * 10
    assert len(run.models[0].responses) == 30
    assert run.verdict is not None
    assert run.verdict.conclusion == "underpowered"
    assert run.config.startswith("model: toy")


def test_absent_and_undecided_stay_apart_and_neither_becomes_zero(tmp_path: Path) -> None:
    entry = {"name": "base", "method": None, "asr": {"direct": {"value": None, "low": 0.0, "high": 1.0, "n": 0}}}
    write_results(tmp_path, {"schema": 1, "models": [entry | {"over_refusal": None, "divergence": None}]})
    in_distribution = read_run(tmp_path).models[0].in_distribution
    assert in_distribution.asr["direct"].value is None
    assert "prefill" not in in_distribution.asr
    assert in_distribution.over_refusal is None


def test_the_least_a_run_may_hold_is_enough(tmp_path: Path) -> None:
    write_results(tmp_path, {"schema": 1, "models": []})
    run = read_run(tmp_path)
    assert (run.models, run.verdict, run.seconds, run.config) == ((), None, None, "")


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -float("inf")])
def test_what_is_no_finite_number_is_unknown(value: float | None) -> None:
    assert number(value) is None


@pytest.mark.parametrize("value", ["1", True, [1]])
def test_what_is_no_number_at_all_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="expected a number or null"):
        number(value)


def test_several_seeds_show_in_the_titles_and_one_does_not(tmp_path: Path) -> None:
    one = [{"name": "base", "method": None, "seed": None}, {"name": "a", "method": "kldo", "data": "cr", "seed": 0}]
    write_results(tmp_path, {"schema": 1, "models": one})
    assert [model.title for model in read_run(tmp_path).models] == ["base", "kldo"]
    more = [*one, {"name": "b", "method": "kldo", "data": "cr", "seed": 1}]
    write_results(tmp_path, {"schema": 1, "models": more})
    assert [model.title for model in read_run(tmp_path).models] == ["base", "kldo seed 0", "kldo seed 1"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "got no results.json"),
        ("{", "does not hold what was expected"),
        ("[]", "got schema [], expected 1"),
        ('{"models": []}', "got schema None, expected 1"),
        ('{"schema": 2, "models": []}', "got schema 2, expected 1"),
        ('{"schema": 1}', "lacks the field 'models'"),
        ('{"schema": 1, "models": [{}]}', "lacks the field 'name'"),
        ('{"schema": 1, "models": [{"name": "../up"}]}', "expected the plain name of a folder"),
        ('{"schema": 1, "models": [{"name": ".."}]}', "expected the plain name of a folder"),
        ('{"schema": 1, "models": [{"name": "a", "asr": {"direct": {"value": "0"}}}]}', "expected a number or null"),
        ('{"schema": 1, "models": [{"name": "a", "asr": {"direct": {}}}]}', "lacks the field 'value'"),
        ('{"schema": 1, "models": [{"name": "a", "asr": [1]}]}', "does not hold what was expected"),
    ],
)
def test_a_foreign_folder_is_refused_with_what_was_expected(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"results\.json") as caught:
        read_run(tmp_path)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plane.json", '{"points": [{"x": 1.0}]}'),
        ("plane.json", '{"points": [{"x": 1.0, "y": NaN, "harmful": true}]}'),
        ("plane.json", "torn"),
        ("metrics.jsonl", '{"loss": 0.1}\n'),
        ("metrics.jsonl", '{"step": null}\n'),
        ("verdicts.jsonl", '{"attack": "direct"}\n'),
    ],
)
def test_a_bad_file_of_a_model_is_named(tmp_path: Path, name: str, content: str) -> None:
    write_results(tmp_path, results())
    (tmp_path / "models" / "base").mkdir(parents=True)
    (tmp_path / "models" / "base" / name).write_text(content)
    with pytest.raises(ValueError, match=f"base/{name}"):
        read_run(tmp_path)


def test_metrics_keep_numbers_and_drop_words(tmp_path: Path) -> None:
    write_results(tmp_path, {"schema": 1, "models": [{"name": "a", "method": "kldo", "data": "cr"}]})
    rows = [{"step": 1, "rewards/chosen": 0.5, "note": "text"}, {"step": 2, "rewards/chosen": float("nan")}]
    (tmp_path / "models" / "a").mkdir(parents=True)
    (tmp_path / "models" / "a" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_run(tmp_path).models[0].metrics == (
        {"step": 1.0, "rewards/chosen": 0.5},
        {"step": 2.0, "rewards/chosen": None},
    )
