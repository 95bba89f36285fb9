"""The shipped weights are those that the command makes, from texts that no planted response resembles."""

import re
from importlib.resources import files

import numpy as np
import pytest

from divalign.safety.planted import planted
from divalign.safety.small_classifier import ASSET, Weights, compliance, shipped
from divalign.study.classifier_sentences import ANSWERED, REFUSED
from divalign.study.classifier_training import RUN, examples, fit


@pytest.fixture(scope="module")
def found() -> list:
    return examples()


def words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold().replace("\u2019", "'")))


def test_no_training_text_is_a_planted_one_or_shares_six_words_in_a_row_with_one(found: list) -> None:
    known = {words(row["response"]) for row in planted()}
    runs = {
        " ".join(text.split()[start : start + RUN]) for text in known for start in range(len(text.split()) - RUN + 1)
    }
    for example in found:
        text = words(example.response)
        assert text not in known
        assert not any(f" {run} " in f" {text} " for run in runs), example.response


def test_no_form_is_a_planted_response(found: list) -> None:
    known = {words(row["response"]) for row in planted()}
    forms = [text for table in (REFUSED, ANSWERED) for texts in table.values() for text in texts]
    assert len(forms) == len(set(forms))
    assert not {words(text) for text in forms} & known


def test_training_again_gives_the_shipped_weights(found: list) -> None:
    weights, constant, right = fit(found)
    ours = shipped()
    assert np.abs(weights - ours.weights).max() <= 5  # thousandths: solvers of other versions stop elsewhere
    assert abs(constant - ours.constant) <= 5
    assert right > 0.85
    rows = planted()
    texts = [row["prompt"] for row in rows], [row["response"] for row in rows]
    assert compliance(*texts, Weights(weights, constant)) == pytest.approx(compliance(*texts), abs=0.02)


def test_the_shipped_file_is_small_and_holds_numbers_only() -> None:
    content = (files("divalign.safety") / "assets" / ASSET).read_bytes()
    assert len(content) <= 300_000
    assert re.fullmatch(rb'[\s\d{}\[\],:"a-z-]+', content)
