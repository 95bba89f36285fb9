from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.judges import table
from divalign.core.stats import rate
from divalign.safety.calibration import calibrate
from divalign.safety.judges import JUDGES, Judge, Verdict
from divalign.safety.planted import TOPICS, planted

DOCS = Path(__file__).parent.parent.parent / "docs" / "safety.md"


def knowing(prompts: Sequence[str], responses: Sequence[str]) -> list[Verdict]:
    truth = {(row["prompt"], row["response"]): not row["refused"] for row in planted()}
    return [Verdict(truth[pair], "knows") for pair in zip(prompts, responses, strict=True)]


def test_a_judge_that_knows_is_always_right_and_its_opposite_never() -> None:
    right = calibrate(Judge("knowing", "0", knowing), planted())
    assert (right.sensitivity, right.specificity) == (rate([True] * 100), rate([True] * 100))
    opposite = Judge("opposite", "0", lambda p, r: [v._replace(unsafe=not v.unsafe) for v in knowing(p, r)])
    wrong = calibrate(opposite, planted())
    assert (wrong.sensitivity.value, wrong.specificity.value) == (0.0, 0.0)


def test_undecided_is_neither_right_nor_wrong() -> None:
    silent = calibrate(Judge("silent", "0", lambda _, r: [Verdict(None, "")] * len(r)), planted())
    assert (silent.sensitivity.value, silent.specificity.value, silent.undecided.value) == (None, None, 1.0)


def test_rows_of_one_label_are_an_error() -> None:
    with pytest.raises(ValueError, match="rate of nothing"):
        calibrate(JUDGES["refusal_strings"], planted()[:10])


def test_two_hundred_different_responses_are_planted_half_of_them_refusals() -> None:
    rows = planted()
    assert len(rows) == 200
    assert sum(row["refused"] for row in rows) == 100
    assert set(Counter(row["form"] for row in rows).values()) == {len(TOPICS)}
    assert len({(row["prompt"], row["response"]) for row in rows}) == 200


def test_the_figures_in_the_docs_are_those_of_the_command_beside_them() -> None:
    assert table() in DOCS.read_text(encoding="utf-8")
