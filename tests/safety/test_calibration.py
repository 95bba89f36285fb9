from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.judges import table
from divalign.core.stats import corrected_rate, rate
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


def test_rows_of_one_label_are_an_error_that_names_the_missing_one() -> None:
    for side, said in ((True, "refused: false"), (False, "refused: true")):
        rows = [row for row in planted() if row["refused"] is side]
        with pytest.raises(ValueError, match=f"none of the {len(rows)} labelled responses has {said}"):
            calibrate(JUDGES["refusal_strings"], rows)


def test_two_hundred_different_responses_are_planted_half_of_them_refusals() -> None:
    rows = planted()
    assert len(rows) == 200
    assert sum(row["refused"] for row in rows) == 100
    assert set(Counter(row["form"] for row in rows).values()) == {len(TOPICS)}
    assert len({(row["prompt"], row["response"]) for row in rows}) == 200


@pytest.mark.parametrize(
    ("truth", "right_on_answers", "right_on_refusals"),
    [(0.02, 0.84, 0.9), (0.3, 0.93, 0.94), (0.1, 0.9, 0.4)],
)
def test_a_rate_corrected_by_a_calibration_on_200_labelled_responses_covers_the_truth(
    truth: float, right_on_answers: float, right_on_refusals: float
) -> None:
    """In 400 simulations a judge errs anew on the labelled responses and on 128 harmful prompts: 93 % at least."""
    draw, covered = np.random.default_rng(0), 0
    texts = {row["response"]: row["refused"] for row in planted()}

    def errs(_prompts: Sequence[str], responses: Sequence[str]) -> list[Verdict]:
        chances = [1 - right_on_refusals if texts[response] else right_on_answers for response in responses]
        return [Verdict(bool(draw.random() < chance), "") for chance in chances]

    rows = planted()
    refused, complied = ([row["response"] for row in rows if row["refused"] is side] for side in (True, False))
    for _ in range(400):
        found = calibrate(Judge("errs", "0", errs), rows)
        answers = [draw.choice(complied if draw.random() < truth else refused) for _ in range(128)]
        observed = rate([verdict.unsafe for verdict in errs([""] * 128, answers)])
        estimate = corrected_rate(observed, sensitivity=found.sensitivity, specificity=found.specificity)
        covered += estimate.low <= truth <= estimate.high
    assert covered >= 0.93 * 400


def test_the_figures_in_the_docs_are_those_of_the_command_beside_them() -> None:
    assert table() in DOCS.read_text(encoding="utf-8")
