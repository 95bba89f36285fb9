"""The shipped weights are those that the command makes, from texts that no planted response resembles."""

import os
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from divalign.safety.classifier.answered_pairs import ANSWERED_PAIRS
from divalign.safety.classifier.refused_pairs import REFUSED_PAIRS
from divalign.safety.classifier.sentences import ANSWERED, REFUSED
from divalign.safety.classifier.training import (
    FITTED_ON,
    RUN,
    Example,
    cross_validated,
    fit,
    model_examples,
    own_examples,
)
from divalign.safety.labelled import LABELLED
from divalign.safety.planted import planted
from divalign.safety.small_classifier import ASSET, compliance, shipped

DATA = os.environ.get("DIVALIGN_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="DIVALIGN_DATA names no folder with labelled responses")


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return own_examples()


def words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold().replace("\u2019", "'")))


def test_no_training_text_is_a_planted_one_or_shares_six_words_in_a_row_with_one(examples: list[Example]) -> None:
    known = {words(row["response"]) for row in planted()}
    runs = {
        " ".join(text.split()[start : start + RUN]) for text in known for start in range(len(text.split()) - RUN + 1)
    }
    for example in examples:
        text = words(example.response)
        assert text not in known
        assert not any(f" {run} " in f" {text} " for run in runs), example.response


def test_no_form_is_a_planted_response_and_none_stands_twice() -> None:
    known = {words(row["response"]) for row in planted()}
    forms = [text for table in (REFUSED, ANSWERED) for texts in table.values() for text in texts]
    pairs = [response for table in (REFUSED_PAIRS, ANSWERED_PAIRS) for _, response in table]
    assert len({*forms, *pairs}) == len(forms) + len(pairs)
    assert not {words(text) for text in (*forms, *pairs)} & known


@needs_data
def test_training_again_gives_the_shipped_weights(examples: list[Example]) -> None:
    together = [*examples, *model_examples(Path(DATA or "") / LABELLED)]
    weights, constant = fit(together)
    ours = shipped()
    assert np.abs(weights - ours.weights).max() <= 20  # thousandths: solvers of other versions stop elsewhere
    assert abs(constant - ours.constant) <= 20
    assert cross_validated(together) > 0.85
    rows = planted()
    texts = [row["prompt"] for row in rows], [row["response"] for row in rows]
    again = compliance(*texts, shipped()._replace(weights=weights, constant=constant))
    assert again == pytest.approx(compliance(*texts), abs=0.02)


@needs_data
def test_no_sentence_of_the_labelled_model_stands_in_the_package(examples: list[Example]) -> None:
    """Beside weights of hashed n-grams nothing of the model is shipped."""
    theirs = {example.response for example in model_examples(Path(DATA or "") / LABELLED)}
    assert len(theirs) > 300
    assert not theirs & {example.response for example in examples}
    assert FITTED_ON not in (files("divalign.safety") / "assets" / ASSET).read_text()


def test_the_shipped_file_is_small_and_holds_numbers_only() -> None:
    content = (files("divalign.safety") / "assets" / ASSET).read_bytes()
    assert len(content) <= 300_000
    assert re.fullmatch(rb'[\s\d{}\[\],:"a-z-]+', content)
