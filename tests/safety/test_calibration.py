import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.judges import annotator_table, external_table, planted_table
from divalign.core.stats import corrected_rate, rate
from divalign.safety.calibration import (
    Calibration,
    JudgeCounts,
    calibrate,
    calibration_for,
    corrected,
    external_counts,
    pooled_models,
)
from divalign.safety.judges import DEFAULT_JUDGE, JUDGES, Judge, Verdict
from divalign.safety.labelled import LABELLED, calibration_rows, labelled_models, labelled_responses
from divalign.safety.planted import TOPICS, planted

DOCS = Path(__file__).parent.parent.parent / "docs" / "safety.md"


def knowing(prompts: Sequence[str], responses: Sequence[str]) -> list[Verdict]:
    truth = {(row["prompt"], row["response"]): not row["refused"] for row in planted()}
    return [Verdict(truth[pair], "knows") for pair in zip(prompts, responses, strict=True)]


def test_a_judge_that_knows_is_always_right_and_its_opposite_never() -> None:
    right = calibrate(Judge("knowing", "0", knowing), planted())
    sure = rate([True] * 50)._replace(n=100)  # two responses of each form
    assert (right.sensitivity, right.specificity) == (sure, sure)
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
    assert set(Counter(row["cluster"] for row in rows).values()) == {len(TOPICS)}
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


def labels_by_prompt(draw: np.random.Generator, right_on_answers: float, right_on_refusals: float) -> list[dict]:
    """Four responses to each of 50 prompts, on which a judge is right together: as many labels tell less."""
    rows = []
    for prompt in range(50):
        refused = prompt % 2 == 0
        right = draw.random() < (right_on_refusals if refused else right_on_answers)
        rows += [{"prompt": str(right), "response": "", "refused": refused, "cluster": prompt}] * 4
    return rows


def test_labels_that_share_a_prompt_count_as_few_in_a_correction() -> None:
    """In 200 simulations the interval covers the truth; with each label counted as one it would in under 85 %."""
    draw, covered, naive = np.random.default_rng(0), 0, 0
    judge = Judge("by prompt", "0", lambda prompts, _: [Verdict(prompt == "True", "") for prompt in prompts])
    for _ in range(200):
        rows = labels_by_prompt(draw, 0.8, 0.8)
        flipped = [{**row, "prompt": str((row["prompt"] == "True") != row["refused"])} for row in rows]
        calibration = calibrate(judge, flipped)
        unsafe = [bool(draw.random() < 0.3 * 0.8 + 0.7 * 0.2) for _ in range(400)]
        estimates = [
            corrected([{}] * 400, unsafe, one) for one in (calibration, calibration._replace(independent=None))
        ]
        covered += estimates[0] is None or estimates[0].low <= 0.3 <= estimates[0].high
        naive += estimates[1] is None or estimates[1].low <= 0.3 <= estimates[1].high
    assert covered >= 0.93 * 200
    assert naive < 0.85 * 200


@pytest.mark.parametrize(
    ("truth", "sensitivity", "specificity", "deviation"), [(0.02, 0.95, 0.95, 0.03), (0.3, 0.9, 0.85, 0.06)]
)
def test_a_correction_by_other_models_covers_the_truth_of_a_new_one(
    truth: float, sensitivity: float, specificity: float, deviation: float
) -> None:
    """A judge errs anew on each model: its rates there are normal. Counts that are pooled cover under 80 %."""
    draw, covered, pooled_covered = np.random.default_rng(0), 0, 0
    for _ in range(200):
        rates = np.clip(draw.normal((sensitivity, specificity), deviation, (4, 2)), 0.5, 1)
        counts = [
            JudgeCounts(f"model {m}", 210, int(draw.binomial(210, s)), 210, int(draw.binomial(210, p)))
            for m, (s, p) in enumerate(rates[:3])
        ]
        complied = draw.random(200) < truth
        unsafe = [
            bool(called)
            for called in np.where(complied, draw.random(200) < rates[3, 0], draw.random(200) >= rates[3, 1])
        ]
        calibration = pooled_models("errs", counts)
        estimate = corrected([{}] * 200, unsafe, calibration)
        sums = [
            sum(getattr(one, name) for one in counts)
            for name in ("called_unsafe", "complied", "called_safe", "refused")
        ]
        simple = calibration._replace(
            sensitivity=rate([True] * sums[0] + [False] * (sums[1] - sums[0])),
            specificity=rate([True] * sums[2] + [False] * (sums[3] - sums[2])),
        )
        naive = corrected([{}] * 200, unsafe, simple)
        covered += estimate is None or estimate.low <= truth <= estimate.high
        pooled_covered += naive is None or naive.low <= truth <= naive.high
    assert covered >= 0.93 * 200
    assert pooled_covered < 0.8 * 200


def test_labels_of_one_prompt_are_one_cluster_where_they_name_none() -> None:
    rows = [
        {"prompt": f"prompt {number}", "response": f"{refused} {number} {place}", "refused": refused}
        for number in range(50)
        for place in range(4)
        for refused in (True, False)
    ]
    errs = Judge("errs", "0", lambda prompts, responses: [
        Verdict(response.startswith("False") == (int(prompt.split()[1]) % 5 > 0), "")
        for prompt, response in zip(prompts, responses, strict=True)
    ])  # fmt: skip
    assert calibrate(errs, rows).independent == (50, 50)


def test_one_cluster_says_nothing_after_a_correction_either() -> None:
    calibration = Calibration("j", *[rate([True] * 190 + [False] * 10)] * 2, rate([False] * 200))
    rows = [{"prompt": f"p{number}", "cluster": "one"} for number in range(100)]
    found = corrected(rows, [True] * 90 + [False] * 10, calibration)
    assert found is not None
    assert (found.low, found.high) == (0.0, 1.0)


def test_labels_of_the_judged_model_come_first_and_other_models_warn() -> None:
    judge = JUDGES[DEFAULT_JUDGE]
    own = calibration_for(judge, planted())
    assert own == calibrate(judge, planted())
    assert own is not None
    assert own.warning is None
    others = calibration_for(judge)
    assert others is not None
    assert "none of which is the judged one" in (others.warning or "")
    assert others.sensitivity.n < 100 < sum(one.complied for one in external_counts(judge))
    assert calibration_for(Judge(judge.id, "0" * 64, judge.decide)) is None


@pytest.mark.parametrize("judge", JUDGES.values(), ids=JUDGES)
def test_the_counts_that_come_with_the_package_are_of_these_judges(judge: Judge) -> None:
    """Where this fails a judge has changed: `python -m bench.judges --write` measures it again."""
    assert len(external_counts(judge)) == 3


def test_the_planted_figures_in_the_docs_are_those_of_the_command_beside_them() -> None:
    assert planted_table() in DOCS.read_text(encoding="utf-8")


DATA = os.environ.get("DIVALIGN_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="DIVALIGN_DATA names no folder with labelled responses")


@needs_data
def test_the_figures_on_labelled_responses_in_the_docs_are_those_of_the_command() -> None:
    docs, folder = DOCS.read_text(encoding="utf-8"), Path(DATA or "") / LABELLED
    assert annotator_table(folder) in docs
    assert external_table(folder) in docs


@needs_data
def test_leaving_one_model_out_the_default_judge_is_right_on_most_of_it() -> None:
    """By the package's counts, measured with a classifier that had not seen the model; undecided rows are few."""
    for one in external_counts(JUDGES[DEFAULT_JUDGE]):
        rows = calibration_rows(labelled_responses(Path(DATA or "") / LABELLED, one.model))
        refused = sum(row["refused"] for row in rows)
        assert one.called_safe / refused >= (0.98 if one.model == "gpt4" else 0.93)
        assert one.called_unsafe / (len(rows) - refused) >= 0.93
    assert labelled_models(Path(DATA or "") / LABELLED)
