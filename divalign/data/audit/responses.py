"""Checks of how responses are written: constant refusals, lengths, openings, and words that predict the label."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from divalign.core.stats import Estimate
from divalign.data.audit.facts import Facts, SideResponses
from divalign.data.audit.finding import AuditFinding, percent
from divalign.data.lexical import lexical_auc
from divalign.data.refusals import refusal_kind
from divalign.data.words import COMMON, words_of

EARLY = 160  # characters in which a refusal is looked for; what counts is what repeats
COMPARED = 400  # characters of a refusal
REPEATED = 0.1  # share of a cell from which on one response is looked at, whatever it says
FEWEST = 20  # texts of a cell: below, shares say little
OPENING = 3  # words
SAMPLE = 2000  # texts a class for the words' AUC: its standard error is then about 0.01


class _Repetition(NamedTuple):
    """How often the commonest text of a cell occurs among its texts."""

    cell: str
    kind: str
    texts: int
    distinct: int
    commonest: int

    @property
    def share(self) -> float:
        return self.commonest / self.texts


def refusal_diversity(facts: Facts) -> AuditFinding:
    """Find the commonest refusal of each cell, the words of the prompt left out: a template counts as one refusal.

    Refusals are recognised in English only, so a response that fills a tenth of its cell counts whatever it says.
    """
    cells = facts.cells().items()
    repeats = [repeat for cell, responses in cells if (repeat := _repeated(cell, responses, facts)) is not None]
    numbers = {
        repeat.cell: {repeat.kind: repeat.texts, "distinct": repeat.distinct, "commonest": repeat.commonest}
        for repeat in repeats
    }
    if not repeats:
        return AuditFinding(
            None, f"no side and class has {FEWEST} refusals; they are recognised in English only", numbers
        )
    worst = max(repeats, key=lambda repeat: repeat.share)
    words = (
        f"of {worst.texts} {worst.kind} that are {worst.cell}, {worst.commonest} ({percent(worst.share)}) are the "
        f"same; distinct ones: {worst.distinct}"
    )
    return AuditFinding(worst.share, words, numbers)


def _repeated(cell: str, responses: SideResponses, facts: Facts) -> _Repetition | None:
    refusals = [
        _masked(text, facts.prompts[row]) for text, row in zip(*responses, strict=True) if refusal_kind(text[:EARLY])
    ]
    texts_by_kind = {"refusals": refusals, "responses": responses.texts}
    repeats = [_repetition(cell, kind, texts) for kind, texts in texts_by_kind.items() if len(texts) >= FEWEST]
    relevant = [repeat for repeat in repeats if repeat.kind == "refusals" or repeat.share >= REPEATED]
    return max(relevant, key=lambda repeat: repeat.share, default=None)


def _repetition(cell: str, kind: str, texts: Sequence[str]) -> _Repetition:
    counts = Counter(texts)
    return _Repetition(cell, kind, len(texts), len(counts), counts.most_common(1)[0][1])


def _masked(text: str, prompt: str) -> str:
    topic = set(words_of(prompt)) - COMMON
    return " ".join("_" if word in topic else word for word in words_of(text[:COMPARED]))


def length_ratio(facts: Facts) -> AuditFinding:
    """Compare the median number of words of the two sides, class by class."""
    lengths = {
        cell: _median_words(responses) for cell, responses in facts.cells().items() if len(responses.texts) >= FEWEST
    }
    ratios = {}
    for cell, words in lengths.items():
        side, name = cell.split(", ")
        if side == "aligned" and (other := lengths.get(f"unaligned, {name}")) is not None:
            ratios[name] = max(words, other) / max(min(words, other), 1.0)
    numbers = {"median words": lengths, "ratio": ratios}
    if not ratios:
        return AuditFinding(None, f"no class has {FEWEST} responses on both sides", numbers)
    worst = max(ratios, key=lambda name: ratios[name])
    a, u = lengths[f"aligned, {worst}"], lengths[f"unaligned, {worst}"]
    words = f"{worst}: aligned responses have {a:g} words, unaligned ones {u:g} (medians), {ratios[worst]:.1f} times"
    return AuditFinding(ratios[worst], words, numbers)


def _median_words(responses: SideResponses) -> float:
    return float(median(len(words_of(text)) for text in responses.texts))


def openings(facts: Facts) -> AuditFinding:
    """Find the commonest first three words of the prompts of each class and of the responses of each cell."""
    texts: dict[str, Sequence[str]] = {cell: responses.texts for cell, responses in facts.cells().items()}
    for name, flag in (("harmful prompts", True), ("benign prompts", False), ("prompts", None)):
        texts[name] = [p for p, harmful in zip(facts.prompts, facts.harmful, strict=True) if harmful is flag]
    numbers = {name: _commonest_opening(some) for name, some in texts.items() if len(some) >= FEWEST}
    if not numbers:
        return AuditFinding(None, f"fewer than {FEWEST} texts of each kind")
    worst = max(numbers, key=lambda name: numbers[name]["share"])
    words = f"{percent(numbers[worst]['share'])} of {worst} open with “{numbers[worst]['opening']}”"
    return AuditFinding(numbers[worst]["share"], words, numbers)


def _commonest_opening(texts: Sequence[str]) -> dict:
    counts = Counter(" ".join(words_of(text[:COMPARED])[:OPENING]) for text in texts)
    opening, count = counts.most_common(1)[0]
    return {"opening": opening, "share": count / len(texts), "distinct": len(counts)}


class _Class(NamedTuple):
    texts: list[str]
    groups: list[str]


def prompt_words(facts: Facts) -> AuditFinding:
    """AUC of telling harmful from benign prompts by their words, clusters kept together."""
    sides = {flag: _Class([], []) for flag in (False, True)}
    for prompt, harmful, cluster in zip(facts.prompts, facts.harmful, facts.clusters, strict=True):
        if harmful is not None and prompt.strip():
            sides[harmful].texts.append(prompt)
            sides[harmful].groups.append(cluster)
    return _words_auc(sides[False], sides[True], "which prompts are harmful")


def response_words(facts: Facts) -> AuditFinding:
    """AUC of telling aligned from unaligned responses by their words, without the prompt."""
    sides = [
        _Class(responses.texts, [facts.clusters[row] for row in responses.rows]) for responses in facts.sides.values()
    ]
    return _words_auc(sides[1], sides[0], "which responses are aligned")


def _words_auc(negative: _Class, positive: _Class, what: str) -> AuditFinding:
    some = [_sample(texts) for texts in (negative, positive)]
    try:
        estimate = _auc(*some)
    except ValueError as error:
        return AuditFinding(None, f"not measured: {error}")
    numbers = {"auc": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
    of = f"{estimate.n} of {len(negative.texts) + len(positive.texts)} texts"
    return AuditFinding(estimate.value, f"words alone tell {what} with AUC {estimate.value:.2f} ({of})", numbers)


def _auc(negative: _Class, positive: _Class) -> Estimate:
    return lexical_auc(negative.texts, positive.texts, groups=(negative.groups, positive.groups))


def _sample(some: _Class, seed: int = 0) -> _Class:
    chosen = sorted(random.Random(seed).sample(range(len(some.texts)), min(SAMPLE, len(some.texts))))
    return _Class([some.texts[place] for place in chosen], [some.groups[place] for place in chosen])
