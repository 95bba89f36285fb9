"""Build training rows from requests: fill in missing texts, rank responses, drop requests that stay incomplete.

Dropped requests are counted by reason. Every draw depends on the seed and the prompt alone, worse answers aside, so a
set that gets more rows keeps those it had.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from divalign.data.examples import Request, Row
from divalign.data.rating import Rate, ranked_by
from divalign.data.recipes import find_recipe
from divalign.data.refusing import OPENINGS, refusal

Write = Callable[[Sequence[str]], Sequence[str]]  # prompts to answers


class Built(NamedTuple):
    """The rows, and how many requests were left out, by reason."""

    rows: list[Row]
    left_out: dict[str, int]


def build(
    requests: Iterable[Request],
    recipe: str,
    *,
    seed: int = 0,
    rate: Rate | None = None,
    unanswered: Mapping[str, str] | None = None,
) -> Built:
    """Return a recipe's rows of the requests, filled in and, with `rate`, ranked anew.

    `unanswered` says of prompts without an answer what a model wrote instead, such as "an incomplete answer".

    Raises ValueError for an unknown recipe, where no benign prompt has an answer, and where nothing is left.
    """
    make, rows, left_out = find_recipe(recipe), [], Counter[str]()
    requests = filled(requests, seed=seed)
    _check_answers(requests, unanswered or {})
    for request in ranked_by(rate, requests):
        gap = next((name for name in ("prompt", "compliance", "refusal") if not getattr(request, name).strip()), None)
        try:
            rows += [] if gap else [make(request)]
        except ValueError:
            gap = "worse response to rank"
        written = unanswered.get(request.prompt) if unanswered and gap == "compliance" else None
        left_out += Counter([written or f"no {gap}"] if gap else [])
    if not rows:
        raise ValueError(f"the recipe {recipe!r} made no row: {_counted(left_out) or 'there were no requests'}")
    return Built(rows, dict(left_out))


def _counted(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count} with {reason}" for reason, count in reasons.items())


def _check_answers(requests: Sequence[Request], unanswered: Mapping[str, str]) -> None:
    """Refuse requests whose benign side would be left out whole: the rows would hold harmful prompts alone."""
    benign = [request for request in requests if not request.harmful]
    if benign and not any(request.compliance.strip() for request in benign):
        if reasons := Counter(unanswered[request.prompt] for request in benign if request.prompt in unanswered):
            raise ValueError(
                f"none of the {len(benign)} benign prompts has an answer to learn from: {_counted(reasons)}; raise "
                "--max-new-tokens, or take another writer"
            )
        raise ValueError(
            f"none of the {len(benign)} benign prompts has an answer, and every recipe needs one; let a model write "
            "the answers (divalign data build --writer MODEL), or use a source that has them"
        )


def filled(requests: Iterable[Request], *, seed: int = 0) -> list[Request]:
    """Return the requests with the texts that can be made without a model.

    A blank text is a missing one. A missing refusal is generated, in the same way for both classes. A missing worse
    refusal is one sentence, another than the refusal. A harmful prompt's missing compliance is an opening that names
    the request and stops. A benign prompt's missing worse answer is the answer to another request: without a rater,
    being beside the point is the one defect that is certain. Its missing answer stays missing: only a model can give
    it.
    """
    requests = list(requests)
    answered = sorted({r.compliance for r in requests if not r.harmful and r.compliance.strip()})
    return [_filled(request, answered, random.Random(f"{seed} {request.prompt}")) for request in requests]


def answered_by(write: Write, requests: Sequence[Request]) -> list[Request]:
    """Return the requests with the benign prompts' missing answers written by a model; empty ones stay missing."""
    gaps = [place for place, request in enumerate(requests) if not request.harmful and not request.compliance.strip()]
    texts = dict(zip(gaps, write([requests[place].prompt for place in gaps]), strict=True)) if gaps else {}
    return [
        request._replace(compliance=texts[place].strip()) if place in texts else request
        for place, request in enumerate(requests)
    ]


def _filled(request: Request, answers: Sequence[str], rng: random.Random) -> Request:
    compliance = request.compliance
    if request.harmful and not compliance.strip():
        compliance = f"Sure, here is an answer to this: {request.prompt}"
    refusal_text = request.refusal if request.refusal.strip() else refusal(rng)
    short = request.worse_refusal if request.worse_refusal.strip() else rng.choice(OPENINGS)
    worse = request.worse
    if not request.harmful and not worse.strip() and len(answers) > 1:
        worse = rng.choice([answer for answer in rng.sample(answers, 2) if answer != compliance])
    if short == refusal_text and not request.worse_refusal.strip():  # the last draw, so that all others stay
        short = rng.choice([opening for opening in OPENINGS if opening != refusal_text])
    return request._replace(compliance=compliance, refusal=refusal_text, worse=worse, worse_refusal=short)
