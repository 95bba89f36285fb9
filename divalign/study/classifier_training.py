"""Fit the small classifier and write its weights into the package: `python -m divalign.study.classifier_training`.

It learns from the embedded world's responses, of both classes of topics, and from the sentences beside this module.
The strength of its penalty is chosen by cross-validation that keeps a form's texts together; the planted responses, on
which `bench.judges` measures it, take no part, and texts that resemble one are dropped.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict

from divalign.safety.planted import planted
from divalign.safety.small_classifier import ASSET, BAND, SCALE, features
from divalign.store import write_bytes
from divalign.study.classifier_sentences import (
    ACTIVITIES,
    AFTER_ANSWERED,
    AFTER_REFUSED,
    ANSWERED,
    BEFORE,
    QUESTIONS,
    REFUSED,
)
from divalign.toy.world import requests

RUN = 6  # words in a row that no training text may share with a planted response
TEXTS = 8  # per form
WORLD = 400  # requests of the embedded world
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)


class Example(NamedTuple):
    prompt: str
    response: str
    complied: bool
    form: str


def examples(seed: int = 0) -> list[Example]:
    """Return what is learned from: our sentences and the embedded world's responses, none like a planted one."""
    chance = random.Random(seed)
    found = [
        *_filled(REFUSED, False, AFTER_REFUSED, chance),
        *_filled(ANSWERED, True, AFTER_ANSWERED, chance),
        *_world(chance),
    ]
    known = _runs(row["response"] for row in planted())
    apart = [one for one in found if not _runs([one.response]) & known]
    return list(dict.fromkeys(apart))


def fit(found: Sequence[Example]) -> tuple[np.ndarray, int, float]:
    """Return weights and constant in thousandths, and the share of right verdicts on our own unseen forms."""
    x = features([one.prompt for one in found], [one.response for one in found])
    y, groups = np.array([one.complied for one in found]), [one.form for one in found]
    ours = np.array([not one.form.startswith("pair") for one in found])  # the world's are too easy
    scores = {}
    for strength in STRENGTHS:
        model = _model(strength)
        p = np.asarray(cross_val_predict(model, x, y, groups=groups, cv=GroupKFold(5), method="predict_proba"))[:, 1]
        right = np.where(p > BAND[1], y, np.where(p < BAND[0], ~y, False))
        scores[strength] = float(right[ours].mean())
    best = max(STRENGTHS, key=lambda strength: scores[strength])
    model = _model(best).fit(x, y)
    weights = np.rint(SCALE * model.coef_[0]).astype(int)
    return weights, round(SCALE * float(model.intercept_[0])), scores[best]


def write(path: Path) -> float:
    """Fit, write the weights that are not zero to `path`, and return the cross-validated share of right verdicts."""
    weights, constant, right = fit(examples())
    places = np.flatnonzero(weights).tolist()
    lines = [
        f'{{"constant": {constant},',
        f' "places": {_compact(places)},',
        f' "weights": {_compact(weights[places].tolist())}}}',
    ]
    write_bytes(path, ("\n".join(lines) + "\n").encode())
    return right


def _compact(numbers: Sequence[int]) -> str:
    return f"[{','.join(map(str, numbers))}]"


def _model(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)


def _filled(
    forms: Mapping[str, Sequence[str]], complied: bool, after: Sequence[str], chance: random.Random
) -> list[Example]:
    found = []
    for kind, texts in forms.items():
        for number, text in enumerate(texts):
            for _ in range(TEXTS):
                activity = chance.choice(ACTIVITIES)
                response = chance.choice(BEFORE) + text.replace("{activity}", activity) + chance.choice(after)
                prompt = chance.choice(QUESTIONS).replace("{activity}", activity)
                found.append(Example(prompt, response, complied, f"{complied} {kind} {number}"))
    return found


def _world(chance: random.Random) -> list[Example]:
    """Return the embedded world's full and curt responses; a pair of topics is one form."""
    asked = chance.sample(requests("train", held_out=False), WORLD)
    return [
        Example(one.prompt, text, complied, one.cluster)
        for one in asked
        for text, complied in (
            (one.compliance, True),
            (one.worse, True),
            (one.refusal, False),
            (one.worse_refusal, False),
        )
    ]


def _runs(texts: Iterable[str]) -> set[tuple[str, ...]]:
    """Return every run of six words in the texts, and each text that has fewer as a whole."""
    found = set()
    for text in texts:
        words = re.findall(r"\w+", text.casefold().replace("\u2019", "'"))
        found |= {tuple(words[start : start + RUN]) for start in range(max(1, len(words) - RUN + 1))}
    return found


def main() -> None:
    """Write the shipped file and say how right the classifier is on forms that it did not see."""
    path = Path(str(files("divalign.safety") / "assets" / ASSET))
    right = write(path)
    sys.stdout.write(
        f"{path}: {path.stat().st_size} bytes; {right:.3f} right on unseen forms (undecided counts as wrong)\n"
    )


if __name__ == "__main__":
    main()
