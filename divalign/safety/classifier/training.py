"""Fit the small classifier and write its weights into the package: `python -m divalign.safety.classifier.training`.

It learns from the sentences and pairs beside this module and from the labelled responses of one model, mistralguard
of XSTest's completions (Apache-2.0), of which only weights of hashed n-grams are kept; DIVALIGN_DATA names the folder
that holds xstest_completions. The penalty is chosen by cross-validation that keeps a form's texts together. The planted
responses, on which `bench.judges` measures it, take no part, and texts that resemble one are dropped.
"""

from __future__ import annotations

import os
import random
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict

from divalign.safety.classifier.answered_pairs import ANSWERED_PAIRS
from divalign.safety.classifier.refused_pairs import REFUSED_PAIRS
from divalign.safety.classifier.sentences import (
    ACTIVITIES,
    AFTER_ANSWERED,
    AFTER_REFUSED,
    ANSWERED,
    BEFORE,
    QUESTIONS,
    REFUSED,
)
from divalign.safety.labelled import LABELLED, labelled_responses
from divalign.safety.planted import planted
from divalign.safety.small_classifier import ASSET, SCALE, Weights, features
from divalign.store import write_bytes

RUN = 6  # words in a row that no training text may share with a planted response
TEXTS = 8  # per form
FITTED_ON = "mistralguard"  # the one labelled model whose licence lets weights be shipped
WEIGHT = 2.0
STRENGTHS = (1.0, 3.0, 10.0, 30.0)  # of scikit-learn's C: the larger, the weaker the penalty
STRENGTH = 10.0  # cross-validation tells them apart by less than .01


class Example(NamedTuple):
    prompt: str
    response: str
    complied: bool
    form: str
    weight: float = 1.0


def own_examples(seed: int = 0) -> list[Example]:
    """Return the examples written for this project, none like a planted response."""
    chance = random.Random(seed)
    examples = [
        *_filled(REFUSED, False, AFTER_REFUSED, chance),
        *_filled(ANSWERED, True, AFTER_ANSWERED, chance),
        *_paired(REFUSED_PAIRS, False),
        *_paired(ANSWERED_PAIRS, True),
    ]
    planted_runs = word_runs(row["response"] for row in planted())
    return list(dict.fromkeys(example for example in examples if not word_runs([example.response]) & planted_runs))


def model_examples(folder: Path, models: Sequence[str] = (FITTED_ON,)) -> list[Example]:
    """Return the full refusals and full compliances of labelled models in `folder`; partial refusals are left out."""
    return [
        Example(row["prompt"], row["response"], row["label"] == "compliance", f"{model} {row['prompt']}", WEIGHT)
        for model in models
        for row in labelled_responses(folder, model)
        if row["label"] != "partial_refusal"
    ]


def fit(examples: Sequence[Example], strength: float = STRENGTH) -> Weights:
    """Return weights in thousandths, fitted on all examples."""
    model = _model(strength).fit(*_table(examples), sample_weight=[example.weight for example in examples])
    return Weights(np.rint(SCALE * model.coef_[0]).astype(int), round(SCALE * float(model.intercept_[0])))


def cross_validated(examples: Sequence[Example], strength: float = STRENGTH) -> float:
    """Return the share of right calls on forms that were left out, a fifth of them at a time."""
    x, y = _table(examples)
    groups = [example.form for example in examples]
    p = cross_val_predict(_model(strength), x, y, groups=groups, cv=GroupKFold(5), method="predict_proba")
    return float(((np.asarray(p)[:, 1] > 0.5) == y).mean())


def write(path: Path, weights: Weights) -> None:
    """Write the weights that are not zero to `path`."""
    places = np.flatnonzero(weights.weights).tolist()
    lines = [
        f'{{"constant": {weights.constant},',
        f' "places": {_compact(places)},',
        f' "weights": {_compact(weights.weights[places].tolist())}}}',
    ]
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def _table(examples: Sequence[Example]) -> tuple[csr_matrix, np.ndarray]:
    x = features([example.prompt for example in examples], [example.response for example in examples])
    return x, np.array([example.complied for example in examples])


def _compact(numbers: Sequence[int]) -> str:
    return f"[{','.join(map(str, numbers))}]"


def _model(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, class_weight="balanced", max_iter=3000)


def _filled(
    forms: Mapping[str, Sequence[str]], complied: bool, after: Sequence[str], chance: random.Random
) -> list[Example]:
    examples = []
    for kind, texts in forms.items():
        for number, text in enumerate(texts):
            for _ in range(TEXTS):
                activity = chance.choice(ACTIVITIES)
                response = chance.choice(BEFORE) + text.replace("{activity}", activity) + chance.choice(after)
                prompt = chance.choice(QUESTIONS).replace("{activity}", activity)
                examples.append(Example(prompt, response, complied, f"{complied} {kind} {number}"))
    return examples


def _paired(pairs: Sequence[tuple[str, str]], complied: bool) -> list[Example]:
    return [
        Example(prompt, response, complied, f"{complied} pair {number}", WEIGHT)
        for number, (prompt, response) in enumerate(pairs)
    ]


def word_runs(texts: Iterable[str]) -> set[tuple[str, ...]]:
    """Return every run of six words in the texts, and each text that has fewer as a whole."""
    runs = set()
    for text in texts:
        words = re.findall(r"\w+", text.casefold().replace("\u2019", "'"))
        runs |= {tuple(words[start : start + RUN]) for start in range(max(1, len(words) - RUN + 1))}
    return runs


def main() -> None:
    """Write the shipped file and say how right the classifier is on forms that it did not see, by penalty."""
    data = os.environ.get("DIVALIGN_DATA")
    if data is None:
        raise SystemExit(f"DIVALIGN_DATA is not set: name the folder that holds {LABELLED}/{FITTED_ON}.csv")
    examples = [*own_examples(), *model_examples(Path(data) / LABELLED)]
    for strength in STRENGTHS:
        sys.stdout.write(f"C = {strength:g}: {cross_validated(examples, strength):.3f} right on forms left out\n")
    path = Path(str(files("divalign.safety") / "assets" / ASSET))
    write(path, fit(examples))
    sys.stdout.write(f"{path}: {path.stat().st_size} bytes, with C = {STRENGTH:g}\n")


if __name__ == "__main__":
    main()
