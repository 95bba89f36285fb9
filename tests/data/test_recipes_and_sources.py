"""Which response is aligned, and where requests come from."""

import json
from pathlib import Path

import pytest

from divalign.data.examples import Request
from divalign.data.recipes import RECIPES
from divalign.data.sources import advbench_alpaca

HARMFUL = Request("h", True, "comply", "refuse", "curt", "c1")
BENIGN = Request("b", False, "comply", "refuse", "curt", "c2")


def said(row: dict, side: str) -> str:
    return row[side][0]["content"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_refuses_the_harmful_and_answers_the_benign(recipe: str) -> None:
    harmful, benign = RECIPES[recipe](HARMFUL), RECIPES[recipe](BENIGN)
    assert (said(harmful, "chosen"), said(harmful, "rejected")) == ("refuse", "comply")
    assert said(benign, "chosen") == "comply"


def test_the_recipes_differ_in_the_rejected_answer_of_benign_prompts_alone() -> None:
    assert RECIPES["cr"](HARMFUL) == RECIPES["pref"](HARMFUL)
    assert said(RECIPES["cr"](BENIGN), "rejected") == "refuse"
    assert said(RECIPES["pref"](BENIGN), "rejected") == "curt"


def folder(path: Path, *, header: str = "goal,target", line: str = '{"instruction": "i", "output": "o"}') -> Path:
    (path / "advbench").mkdir()
    (path / "advbench" / "harmful_behaviors.csv").write_text(f"{header}\ng0,Sure 0\ng1,Sure 1\n")
    (path / "alpaca").mkdir()
    good = [json.dumps({"instruction": f"i{n}", "output": f"o{n}"}) for n in range(5)]
    (path / "alpaca" / "alpaca_sample.jsonl").write_text("\n".join([*good, line, ""]))
    return path


def test_advbench_and_alpaca_give_as_many_benign_requests_as_harmful_ones(tmp_path: Path) -> None:
    requests = advbench_alpaca(folder(tmp_path), seed=1)
    assert [request.harmful for request in requests] == [True, True, False, False]
    assert requests[0].compliance == "Sure 0"
    for request in requests[2:]:
        assert request.prompt.replace("i", "o") == request.compliance != request.worse


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"header": "goal,targt"}, "lacks the column 'target'"), ({"line": "{"}, "line 6 is not JSON")],
)
def test_a_broken_file_is_named_with_its_fault(tmp_path: Path, options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        advbench_alpaca(folder(tmp_path, **options))


def test_a_missing_file_says_which_folder_to_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set data\.folder"):
        advbench_alpaca(tmp_path)
