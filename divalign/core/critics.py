"""Critics fitted on feature vectors: log-odds of aligned against unaligned, which estimate log dP/dQ.

Whether a response is the aligned one may hang on prompt and response together: in compliance-refusal data a refusal is
aligned after a harmful prompt and unaligned after a harmless one, which no function of the response alone can see, and
no sum of one of the prompt and one of the response. Where prompts are given the critic is therefore bilinear: linear
in the response's features and in their products with the prompt's, both first brought to a few principal axes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS = 3
AXES = 12  # of prompts and of responses: 12 + 144 numbers a row, which a few hundred rows can support
_STRENGTHS = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]

Critic = Callable[[Float[np.ndarray, "n _"]], Float[np.ndarray, " n"]]


class Products(BaseEstimator, TransformerMixin):
    """Turn rows [response | prompt] into the response's principal axes and their products with the prompt's."""

    def __init__(self, width: int, axes: int = AXES) -> None:
        self.width = width
        self.axes = axes

    def fit(self, rows: Float[np.ndarray, "n _"], labels: object = None) -> Products:
        self.response_ = _axes(rows[:, : self.width], self.axes)
        self.prompt_ = _axes(rows[:, self.width :], self.axes)
        return self

    def transform(self, rows: Float[np.ndarray, "n _"]) -> Float[np.ndarray, "n _"]:
        response = self.response_.transform(rows[:, : self.width])
        prompt = self.prompt_.transform(rows[:, self.width :])
        return np.hstack([response, np.einsum("nd,ne->nde", response, prompt).reshape(len(rows), -1)])


def fit_critic(
    features: Float[np.ndarray, "n _"],
    aligned: np.ndarray,
    prompts: np.ndarray,
    *,
    response_width: int | None = None,
) -> Critic:
    """Return log-odds as a function of features, fitted on rows whose label is `aligned`, grouped by `prompts`.

    A logistic regression with balanced classes, its ridge chosen by cross-validation over prompts for the log-loss;
    then scale and shift are fitted on out-of-fold values, because a critic that separates its own rows is far too sure
    of others. With `response_width`, the columns after it describe the prompt, and the critic is bilinear.

    Raises ValueError for too few prompts.
    """
    groups = len(np.unique(prompts))
    if groups < 2 * FOLDS:
        raise ValueError(f"got {groups} prompts to fit a critic on; expected at least {2 * FOLDS}: give more prompts")
    # Axes are found without labels, so once for all folds.
    transform = StandardScaler().fit(features) if response_width is None else Products(response_width).fit(features)
    transformed, folds = transform.transform(features), {"groups": prompts, "cv": GroupKFold(FOLDS)}
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    search = GridSearchCV(model, {"logisticregression__C": _STRENGTHS}, cv=folds["cv"], scoring="neg_log_loss")
    best: Pipeline = search.fit(transformed, aligned, groups=prompts).best_estimator_
    out_of_fold: Any = cross_val_predict(best, transformed, aligned, method="decision_function", **folds)
    scale, shift = _calibration(out_of_fold, aligned)
    return lambda rows: scale * best.decision_function(transform.transform(rows)) + shift


def _calibration(out_of_fold: Float[np.ndarray, " n"], aligned: np.ndarray) -> tuple[float, float]:
    """Return scale and shift that make log-odds of unseen values; (0, 0) where they point the wrong way."""
    unit = float(out_of_fold.std())
    if unit == 0.0:
        return 0.0, 0.0
    fitted = LogisticRegression(class_weight="balanced").fit(out_of_fold[:, None] / unit, aligned)
    scale, shift = float(fitted.coef_[0, 0]) / unit, float(fitted.intercept_[0])
    return (scale, shift) if scale > 0 else (0.0, 0.0)


def _axes(rows: Float[np.ndarray, "n _"], axes: int) -> Pipeline:
    most = min(axes, rows.shape[1], len(rows) - 1)
    return make_pipeline(StandardScaler(), PCA(most, whiten=True, random_state=0)).fit(rows)
