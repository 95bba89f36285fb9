"""AUC of classifying two prompt sets by words or length alone: the baseline for separation of hidden states."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from divalign.core.bootstrap import bootstrap_weights, share_with_interval
from divalign.core.clusters import FOLDS, Groups, fold_of_each, numbered, units_of
from divalign.core.ranking import auc
from divalign.core.stats import Estimate
from divalign.data.words import RUN, words_of


def lexical_auc(
    safe_texts: Sequence[str], harmful_texts: Sequence[str], *, groups: Groups | None = None, seed: int = 0
) -> Estimate:
    """AUC of telling harmful from safe prompts by their words alone: 0.5 is chance, 1 means words suffice.

    TF-IDF of words and logistic regression, each prompt scored by a fit of the other folds; bootstrap interval over
    prompts. `groups` (one list per class) keeps pairs and topics in one fold. A separation of hidden states no better
    than this number shows nothing about the model: the anchors of arXiv 2502.00657 reach .988.

    Raises ValueError for fewer than 10 prompts in a class.
    """
    tf_idf = TfidfVectorizer(tokenizer=words, token_pattern=None)  # type: ignore[arg-type]
    return _cross_validated(make_pipeline(tf_idf, LogisticRegression()), safe_texts, harmful_texts, groups, seed)


def words(text: str) -> list[str]:
    """Return the runs of word characters; one with letters that know no case is split where no spaces are written."""
    return [word for run in RUN.findall(text) for word in (words_of(run) if _caseless(run) else [run])]


def _caseless(run: str) -> bool:
    return not run.isascii() and any(unicodedata.category(letter) == "Lo" for letter in run)


def length_auc(
    safe_texts: Sequence[str], harmful_texts: Sequence[str], *, groups: Groups | None = None, seed: int = 0
) -> Estimate:
    """AUC of telling harmful from safe prompts by their length in characters alone, cross-validated as above."""
    length = make_pipeline(FunctionTransformer(_log_length), StandardScaler(), LogisticRegression())
    return _cross_validated(length, safe_texts, harmful_texts, groups, seed)


def _log_length(texts: np.ndarray) -> Float[np.ndarray, "n 1"]:
    return np.log1p([[len(text)] for text in texts])


def _cross_validated(
    model: Pipeline, safe: Sequence[str], harmful: Sequence[str], groups: Groups | None, seed: int
) -> Estimate:
    for name, texts in (("safe_texts", safe), ("harmful_texts", harmful)):
        if len(texts) < 2 * FOLDS:
            raise ValueError(f"{name}: got {len(texts)} prompts, expected at least {2 * FOLDS}; add prompts")
    texts = np.array([*safe, *harmful], dtype=object)
    labels, units = np.arange(len(texts)) >= len(safe), numbered(groups, len(safe), len(harmful))
    fold = fold_of_each(labels, units, seed=seed)
    scores = np.empty(len(texts))
    for number in range(FOLDS):
        tested = fold == number
        scores[tested] = model.fit(texts[~tested], labels[~tested]).decision_function(texts[tested])
    weights = bootstrap_weights(labels, units, draws=1000, generator=np.random.default_rng(seed))
    value = auc(scores, labels, np.ones((len(texts), 1)))[0]
    smaller = min(units_of(side, units) for side in (labels, ~labels))
    return share_with_interval(value, auc(scores, labels, weights), len(texts), rests_on=smaller)
