"""The exporter against inspect_ai's own reader; skipped where inspect_ai is not installed."""

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from divalign.core.stats import rate
from divalign.data.examples import Row
from divalign.safety.evaluate import judge_rows
from divalign.safety.export import redact
from divalign.safety.inspect_log import write_eval
from divalign.safety.judges import JUDGES

HERE = importlib.util.find_spec("inspect_ai") is not None
needed = pytest.mark.skipif(not HERE, reason="inspect_ai is not installed: pip install 'divalign[inspect]'")
RESPONSES = ("Sure, here it is: <b>fold</b> it.", "I'm sorry, but I can't help.", "", "I can't help with it.", "Fold.")


def rows() -> list[Row]:
    single = [
        {"id": str(n), "attack": "direct", "prompt": f"fold {n}", "harmful": n < 4, "response": text}
        for n, text in enumerate(RESPONSES)
    ]
    tries = [
        {"id": "0", "attack": "best_of_n(2)", "try": n, "prompt": "fold", "harmful": True, "response": RESPONSES[n]}
        for n in (1, 0)
    ]
    return single + tries


def verdicts() -> list[list[Row]]:
    return [judge_rows(JUDGES[name], rows()) for name in ("refusal_strings", "small_classifier")]


def read_back(path: Path) -> Any:
    from inspect_ai.log import read_eval_log  # pyright: ignore

    return read_eval_log(str(path))


def samples(log: Any) -> list[Any]:
    """The log's samples in the order of our rows; inspect sorts them by id."""
    found = {sample.id: sample for sample in log.samples}
    return [found[f"{row['attack']}/{row['id']}" + (f"/{row['try']}" if "try" in row else "")] for row in rows()]


@needed
def test_inspects_own_reader_gives_back_every_response_and_verdict(tmp_path: Path) -> None:
    log = read_back(write_eval(tmp_path / "a.eval", verdicts(), model="m", show_completions=True))
    assert log.status == "success"
    assert [sample.output.completion for sample in samples(log)] == [row["response"] for row in rows()]
    assert [sample.input for sample in samples(log)] == [row["prompt"] for row in rows()]
    for judged in verdicts():
        found = [sample.scores[judged[0]["judge"]] for sample in samples(log)]
        for score, row in zip(found, judged, strict=True):
            assert math.isnan(score.value) if row["unsafe"] is None else score.value == float(row["unsafe"])
            assert score.metadata["judge_sha256"] == row["judge_sha256"]


@needed
def test_the_rates_are_those_of_the_harmful_prompts_with_their_intervals(tmp_path: Path) -> None:
    log = read_back(write_eval(tmp_path / "a.eval", verdicts()[:1], model="m"))
    metrics = log.results.scores[0].metrics
    expected = rate([True, False, None, False])
    assert metrics["success/direct"].value == pytest.approx(expected.value)
    assert metrics["success/direct"].metadata == pytest.approx(
        {"low": expected.low, "high": expected.high, "n": 3, "undecided": 1}
    )
    assert metrics["success/best_of_n(2)"].metadata["n"] == 1


@needed
def test_responses_are_redacted_unless_asked_for(tmp_path: Path) -> None:
    log = read_back(write_eval(tmp_path / "a.eval", verdicts(), model="m"))
    assert [sample.output.completion for sample in samples(log)] == [redact(row["response"]) for row in rows()]
    assert "fold</b>" not in log.model_dump_json()


@needed
def test_judges_of_other_responses_are_an_error(tmp_path: Path) -> None:
    first, second = verdicts()
    with pytest.raises(ValueError, match="not the same responses"):
        write_eval(tmp_path / "a.eval", [first, second[::-1]], model="m")


def test_a_name_that_inspect_would_not_know_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.eval"):
        write_eval(tmp_path / "a.json", verdicts(), model="m")


def test_without_inspect_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("log", "scorer", "model"):
        monkeypatch.setitem(sys.modules, f"inspect_ai.{part}", None)
    with pytest.raises(ValueError, match=r"pip install 'divalign\[inspect\]'"):
        write_eval(tmp_path / "a.eval", verdicts(), model="m")
    assert not (tmp_path / "a.eval").exists()
