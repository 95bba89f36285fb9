"""Checks of how responses are written: constant refusals, lengths, openings, and words that give the label away."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from divalign.core.stats import Estimate
from divalign.data.audit.facts import Facts, Responses
from divalign.data.audit.finding import Found, percent
from divalign.data.lexical import lexical_auc
from divalign.data.refusals import refusal_kind
from divalign.data.words import COMMON, words_of

EARLY = 160  # characters in which a refusal is looked for; what counts is what repeats
COMPARED = 400  # characters of a refusal
REPEATED = 0.1  # share of a cell from which on one response is looked at, whatever it says
FEWEST = 20  # texts of a cell: below, shares say little
OPENING = 3  # words
SAMPLE = 2000  # texts a class for the words' AUC: its standard error is then about 0.01


class _Same(NamedTuple):
    """How often the commonest of some texts of a cell stands there."""

    cell: str
    kind: str
    texts: int
    distinct: int
    commonest: int

    @property
    def share(self) -> float:
        return self.commonest / self.texts


def refusal_diversity(facts: Facts) -> Found:
    """Find the commonest refusal of each cell, the words of the prompt left out: a template counts as one refusal.

    Refusals are recognised in English only, so a response that fills a tenth of its cell counts whatever it says.
    """
    cells = facts.cells().items()
    found = [one for cell, responses in cells if (one := _repeated(cell, responses, facts)) is not None]
    numbers = {one.cell: {one.kind: one.texts, "distinct": one.distinct, "commonest": one.commonest} for one in found}
    if not found:
        return Found(None, f"no side and class has {FEWEST} refusals; they are recognised in English only", numbers)
    worst = max(found, key=lambda one: one.share)
    words = (
        f"of {worst.texts} {worst.kind} that are {worst.cell}, {worst.commonest} ({percent(worst.share)}) are the "
        f"same; distinct ones: {worst.distinct}"
    )
    return Found(worst.share, words, numbers)


def _repeated(cell: str, responses: Responses, facts: Facts) -> _Same | None:
    refusals = [
        _masked(text, facts.prompts[row]) for text, row in zip(*responses, strict=True) if refusal_kind(text[:EARLY])
    ]
    said = {"refusals": refusals, "responses": responses.texts}
    found = [_same(cell, kind, texts) for kind, texts in said.items() if len(texts) >= FEWEST]
    told = [one for one in found if one.kind == "refusals" or one.share >= REPEATED]
    return max(told, key=lambda one: one.share, default=None)


def _same(cell: str, kind: str, texts: Sequence[str]) -> _Same:
    counts = Counter(texts)
    return _Same(cell, kind, len(texts), len(counts), counts.most_common(1)[0][1])


def _masked(text: str, prompt: str) -> str:
    asked = set(words_of(prompt)) - COMMON
    return " ".join("_" if word in asked else word for word in words_of(text[:COMPARED]))


def length_ratio(facts: Facts) -> Found:
    """Compare the median number of words of the two sides, class by class."""
    lengths = {cell: _median_words(one) for cell, one in facts.cells().items() if len(one.texts) >= FEWEST}
    ratios = {}
    for cell, words in lengths.items():
        side, name = cell.split(", ")
        if side == "aligned" and (other := lengths.get(f"unaligned, {name}")):
            ratios[name] = max(words, other) / max(min(words, other), 1.0)
    numbers = {"median words": lengths, "ratio": ratios}
    if not ratios:
        return Found(None, f"no class has {FEWEST} responses on both sides", numbers)
    worst = max(ratios, key=lambda name: ratios[name])
    a, u = lengths[f"aligned, {worst}"], lengths[f"unaligned, {worst}"]
    words = f"{worst}: aligned responses have {a:g} words, unaligned ones {u:g} (medians), {ratios[worst]:.1f} times"
    return Found(ratios[worst], words, numbers)


def _median_words(responses: Responses) -> float:
    return float(median(len(words_of(text)) for text in responses.texts))


def openings(facts: Facts) -> Found:
    """Find the commonest first three words of the prompts of each class and of the responses of each cell."""
    texts: dict[str, Sequence[str]] = {cell: one.texts for cell, one in facts.cells().items()}
    for name, flag in (("harmful prompts", True), ("benign prompts", False), ("prompts", None)):
        texts[name] = [p for p, harmful in zip(facts.prompts, facts.harmful, strict=True) if harmful is flag]
    numbers = {name: _commonest_opening(some) for name, some in texts.items() if len(some) >= FEWEST}
    if not numbers:
        return Found(None, f"fewer than {FEWEST} texts of each kind")
    worst = max(numbers, key=lambda name: numbers[name]["share"])
    words = f"{percent(numbers[worst]['share'])} of {worst} open with “{numbers[worst]['opening']}”"
    return Found(numbers[worst]["share"], words, numbers)


def _commonest_opening(texts: Sequence[str]) -> dict:
    counts = Counter(" ".join(words_of(text[:COMPARED])[:OPENING]) for text in texts)
    opening, count = counts.most_common(1)[0]
    return {"opening": opening, "share": count / len(texts), "distinct": len(counts)}


class _Class(NamedTuple):
    texts: list[str]
    groups: list[str]


def prompt_words(facts: Facts) -> Found:
    """AUC of telling harmful from benign prompts by their words, clusters kept together."""
    sides = {flag: _Class([], []) for flag in (False, True)}
    for prompt, harmful, cluster in zip(facts.prompts, facts.harmful, facts.clusters, strict=True):
        if harmful is not None and prompt.strip():
            sides[harmful].texts.append(prompt)
            sides[harmful].groups.append(cluster)
    return _words_tell(sides[False], sides[True], "which prompts are harmful")


def response_words(facts: Facts) -> Found:
    """AUC of telling aligned from unaligned responses by their words, without the prompt."""
    sides = [_Class(one.texts, [facts.clusters[row] for row in one.rows]) for one in facts.sides.values()]
    return _words_tell(sides[1], sides[0], "which responses are aligned")


def _words_tell(negative: _Class, positive: _Class, what: str) -> Found:
    some = [_sample(one) for one in (negative, positive)]
    try:
        found = _auc(*some)
    except ValueError as error:
        return Found(None, f"not measured: {error}")
    numbers = {"auc": found.value, "low": found.low, "high": found.high, "n": found.n}
    of = f"{found.n} of {len(negative.texts) + len(positive.texts)} texts"
    return Found(found.value, f"words alone tell {what} with AUC {found.value:.2f} ({of})", numbers)


def _auc(negative: _Class, positive: _Class) -> Estimate:
    return lexical_auc(negative.texts, positive.texts, groups=(negative.groups, positive.groups))


def _sample(some: _Class, seed: int = 0) -> _Class:
    chosen = sorted(random.Random(seed).sample(range(len(some.texts)), min(SAMPLE, len(some.texts))))
    return _Class([some.texts[place] for place in chosen], [some.groups[place] for place in chosen])
