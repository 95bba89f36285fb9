"""Several runs on one page: the tests are those of the judge stage, corrected over everything that is shown."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from divalign.core.stats import holm, paired_difference
from divalign.report.comparison import read_runs, run_change, write_comparison
from divalign.stages.rates import changes
from divalign.store import read_rows, write_bytes, write_rows
from tests.report.runs import entries, model_entry, results, write_results

PROMPTS = 40


def verdict_rows(name: str, direct: int, refused: int, judge: str = "j") -> list[dict[str, Any]]:
    """Verdicts on harmful and benign prompts, the first `direct` unsafe, the first `refused` refused."""
    return [
        {
            "id": f"{number}{side}",
            "attack": "direct",
            "prompt": f"{side} {number}",
            "harmful": side == "h",
            "cluster": f"{number}{side}",
            "response": "r",
            "unsafe": number < direct if side == "h" else number >= refused,
            "refused": number >= direct if side == "h" else number < refused,
            "judge": judge,
            "judge_sha256": judge,
        }
        for side in "hb"
        for number in range(PROMPTS)
    ]


def run_folder(folder: Path, models: dict[str, tuple[int, int]], judge: str = "j", config: str = "a: 1\n") -> Path:
    made = [model_entry("kldo", "cr", (3.0, direct / PROMPTS, 0.5, 0.5, 0.5, refused / PROMPTS, 1.0)) | {"name": name}
            for name, (direct, refused) in models.items()]  # fmt: skip
    write_results(folder, results(models=made))
    write_bytes(folder / "config.yaml", config.encode())
    for name, numbers in models.items():
        write_rows(folder / "models" / name / "verdicts.jsonl", verdict_rows(name, *numbers, judge))
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    first = run_folder(tmp_path / "v1", {"kldo-cr": (30, 2), "bco-cr": (20, 2), "gone": (1, 1)})
    second = run_folder(tmp_path / "v2", {"kldo-cr": (10, 2), "bco-cr": (20, 3)}, config="a: 2\n")
    return [first, second]


def test_changes_are_mcnemars_by_prompt_and_holms_over_the_whole_table(folders: list[Path]) -> None:
    first, second = read_runs(folders)
    compared = run_change(first, second, changes)
    assert (compared.before, compared.after) == ("v1", "v2")
    by_name = {entry.model.name: entry.changes for entry in compared.models}
    assert list(by_name) == ["kldo-cr", "bco-cr"]
    before, after = ([row["unsafe"] for row in verdict_rows("", direct, 2)[:PROMPTS]] for direct in (30, 10))
    expected = paired_difference(before, after)
    assert by_name["kldo-cr"]["direct"].change == expected.estimate
    assert by_name["kldo-cr"]["direct"].p_value == expected.p_value
    flat = [change for group in by_name.values() for change in group.values()]
    assert [change.p_holm for change in flat] == holm([change.p_value for change in flat])


def test_the_page_says_what_changed_and_what_was_set_anew(folders: list[Path]) -> None:
    path = write_comparison(folders, None, changes)
    text = path.read_text()
    assert path == folders[1] / "comparison.html"
    assert "<h1>From v1 to v2, 1 of 2 models changed measurably</h1>" in text
    assert re.search(r"▼ −50<small>", text)
    assert "-a: 1" in text
    assert "+a: 2" in text
    data = json.loads(re.findall(r'id="facts">(.*?)</script>', text)[0])
    assert set(data["models"]) == {"kldo-cr", "bco-cr", "gone"}


def test_a_model_has_its_trend_where_two_runs_have_it(folders: list[Path], tmp_path: Path) -> None:
    third = run_folder(tmp_path / "v3", {"kldo-cr": (5, 2)})
    text = write_comparison([*folders, third], tmp_path / "out.html", changes).read_text()
    trend = text[text.index('id="trend"') : text.index('id="changes"')]
    assert re.findall(r'<option value="\d"[^>]*>(.*?)</option>', trend) == ["kldo on CR", "kldo on CR"]
    assert trend.count("<figure>") == 2  # "gone" is in one run only
    assert [name in trend for name in ("v1, direct", "v2, direct", "v3, direct")] == [True] * 3
    assert text.count("<caption>From v1 to") == 2


def test_runs_of_two_judges_are_not_compared_and_say_so(tmp_path: Path) -> None:
    runs = [run_folder(tmp_path / name, {"kldo-cr": (30, 2)}, judge=name) for name in ("a", "b")]
    text = write_comparison(runs, None, changes).read_text()
    assert "no model could be tested by prompt" in text
    assert "no judge read both runs" in text


def test_a_superseded_version_of_a_judge_compares_no_runs(folders: list[Path]) -> None:
    for place, edited in enumerate([(0, 0), (40, 5)]):
        for name in ("kldo-cr", "bco-cr"):
            path = folders[place] / "models" / name / "verdicts.jsonl"
            rows = verdict_rows(name, *edited)
            write_rows(path, [*read_rows(path), *({**row, "judge_sha256": "edited"} for row in rows)])
    (entry, _) = run_change(*read_runs(folders), changes).models
    assert entry.changes["direct"].change.value == 1.0
    path = folders[0] / "models" / "kldo-cr" / "verdicts.jsonl"
    write_rows(path, read_rows(path)[: 2 * PROMPTS])
    (entry, _) = run_change(*read_runs(folders), changes).models
    assert not entry.changes
    assert "no judge read both runs' responses in the version that judged last" in entry.why


def test_other_prompts_are_not_compared_either(folders: list[Path]) -> None:
    path = folders[1] / "models" / "kldo-cr" / "verdicts.jsonl"
    write_rows(path, [row | {"id": f"other {row['id']}"} for row in read_rows(path)])
    text = write_comparison(folders, None, changes).read_text()
    assert "kldo on CR: the two folders share no prompt" in text
    assert "not tested" in text


@pytest.mark.parametrize("count", [1, 2])
def test_one_run_is_no_comparison_nor_is_one_run_twice(folders: list[Path], count: int) -> None:
    with pytest.raises(ValueError, match="expected two or more run folders, each once"):
        write_comparison(folders[:1] * count, None, changes)


def test_runs_without_a_common_model_are_refused(folders: list[Path], tmp_path: Path) -> None:
    write_results(tmp_path / "x", results(models=entries()[:1]))
    with pytest.raises(ValueError, match="no model is in two of the runs v1, x"):
        write_comparison([folders[0], tmp_path / "x"], None, changes)
