"""Contamination: evaluation prompts that occur among the training prompts, verbatim or changed.

A model evaluated on its training prompts shows memorisation, not safety. Four kinds of overlap, each wider than the one
before; an evaluation prompt counts once, under the narrowest. Paraphrases are recognised by words alone; docs/data.md
describes the limits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from divalign.core.stats import Estimate, rate
from divalign.data.containment import BASE, SHORTEST_CONTAINED, Prompts, Stream, powers
from divalign.data.words import ARTICLES, Words, codes, number_words, rarity, restrict, stem, sums, text_of

# A changed word is a paraphrase while it is at most this much of the rarest word that stays. On prompts of the
# embedded world and of eight public sets, replaced request and function words lie below it (98 % of them or more), and
# replaced topics above it (95 % or more).
LIGHT = 0.8


class Leak(NamedTuple):
    """One evaluation prompt, the training prompt that matches it, and the kind of match."""

    kind: str
    evaluation: int
    train: int


class Overlap(NamedTuple):
    """The leaks of an evaluation set, one for each prompt that leaked, and how many prompts there are."""

    leaks: tuple[Leak, ...]
    n: int

    @property
    def counts(self) -> dict[str, int]:
        by_kind = Counter(leak.kind for leak in self.leaks)
        return {kind: by_kind[kind] for kind in KINDS}

    @property
    def share(self) -> Estimate:
        """Return the share of evaluation prompts that leaked, with its Wilson interval."""
        leaked = {leak.evaluation for leak in self.leaks}
        return rate([number in leaked for number in range(self.n)])


class Side(NamedTuple):
    """The prompts of one side: as text, as words, and as words without articles.

    The latter with how much each tells and with codes of their stems, so that "making" is no change of "make".
    """

    texts: Sequence[str]
    words: Words
    codes: UInt64[np.ndarray, " words"]
    telling: Words
    weights: Float[np.ndarray, " telling_words"]
    stems: UInt64[np.ndarray, " telling_words"]


Matches = Int[np.ndarray, " evaluation"]
Matcher = Callable[[Side, Side], Matches]


def find_overlap(train: Sequence[Any], evaluation: Sequence[Any]) -> Overlap:
    """Return which evaluation prompts are in the training prompts; each side holds texts or lists of messages.

    Kinds: `exact`; `normalised` (same words in the same order, without case, punctuation, spacing and Unicode forms);
    `contained` (all words of the evaluation prompt, four or more, in a row inside a training prompt: a wrapper);
    `paraphrased` (the same words in any order but for one that was changed, added or left out, where that word tells
    little of the topic). Time grows with the number of words, not with the number of pairs.
    """
    sides = _sides([text_of(prompt) for prompt in train], [text_of(prompt) for prompt in evaluation])
    leaks: dict[int, Leak] = {}
    for kind, matcher in KINDS.items():
        matches = matcher(*sides)
        for number in np.flatnonzero(matches >= 0):
            leaks.setdefault(int(number), Leak(kind, int(number), int(matches[number])))
    return Overlap(tuple(leaks[number] for number in sorted(leaks)), len(evaluation))


def _sides(*texts: Sequence[str]) -> list[Side]:
    vocabulary: dict[str, int] = {}
    sides = [number_words(side, vocabulary) for side in texts]
    weights, of_words = rarity(sides, list(vocabulary)), codes(len(vocabulary))
    article = np.array([word in ARTICLES for word in vocabulary], dtype=bool)
    stems: dict[str, int] = {}
    of_stems = np.array([stems.setdefault(stem(word), len(stems)) for word in vocabulary], dtype=int)
    of_stems = codes(len(stems), seed=1)[of_stems]

    def side(texts: Sequence[str], words: Words) -> Side:
        telling = restrict(words, ~article[words.ids])
        return Side(texts, words, of_words[words.ids], telling, weights[telling.ids], of_stems[telling.ids])

    return [side(*parts) for parts in zip(texts, sides, strict=True)]


def exact(train: Side, evaluation: Side) -> Matches:
    first_index = {text: number for number, text in reversed(list(enumerate(train.texts)))}
    return np.array([first_index.get(text, -1) for text in evaluation.texts], dtype=int)


def normalised(train: Side, evaluation: Side) -> Matches:
    """Match prompts by the codes of their words, each multiplied by an odd power of its place."""
    matches = _lookup(_sequence_codes(evaluation), _sequence_codes(train))
    return np.where(evaluation.words.lengths > 0, matches, -1)


def _sequence_codes(side: Side) -> UInt64[np.ndarray, " texts"]:
    places = np.arange(len(side.words.ids)) - side.words.starts[side.words.owners]
    return sums(side.codes * powers(BASE, places), side.words.starts)


def contained(train: Side, evaluation: Side) -> Matches:
    """Match each prompt with the first text that all its words stand in, in a row."""
    stream, theirs = Stream(train.codes, train.words.starts), Stream(evaluation.codes, evaluation.words.starts)
    prompts = Prompts(theirs)
    beginnings = prompts.beginning(stream)
    places = np.full(len(prompts.first), len(train.codes))
    np.minimum.at(places, beginnings.numbers, beginnings.places)
    for number in np.argsort(-prompts.lengths, kind="stable"):  # where a prompt begins, those it begins with do too
        if prompts.shorter[number] >= 0:
            places[prompts.shorter[number]] = min(places[prompts.shorter[number]], places[number])
    owners = np.append(stream.owners, -1)[places]
    members = np.flatnonzero(theirs.lengths >= SHORTEST_CONTAINED)
    equal = _lookup(theirs.codes(theirs.starts[members], theirs.lengths[members]), prompts.codes)
    matches = np.full(len(evaluation.texts), -1)
    matches[members] = owners[equal]
    return matches


class Variants(NamedTuple):
    """Every prompt with each of its words left out: the code of the rest, whose it is, and whether the word is light.

    `whole` are the codes of the prompts themselves.
    """

    rest: UInt64[np.ndarray, " words"]
    owners: Int[np.ndarray, " words"]
    light: Bool[np.ndarray, " words"]
    whole: UInt64[np.ndarray, " texts"]


def paraphrased(train: Side, evaluation: Side) -> Matches:
    """Match prompts that agree when one word is left out of either or both, if the lighter of the two is light.

    Looking codes up, light ones of one side among all of the other, never lists the pairs that share a template and
    differ in their topic, of which there may be billions.
    """
    ours, theirs = _variants(evaluation), _variants(train)
    matches = np.full(len(evaluation.texts), -1)

    def match(keys: np.ndarray, owners: np.ndarray, among: np.ndarray, their_owners: np.ndarray) -> None:
        hits = _lookup(keys, among)
        matches[owners[hits >= 0]] = their_owners[hits[hits >= 0]]

    everyone, everything = np.arange(len(evaluation.texts)), np.arange(len(train.texts))
    match(ours.rest, ours.owners, theirs.rest[theirs.light], theirs.owners[theirs.light])
    match(ours.rest[ours.light], ours.owners[ours.light], theirs.rest, theirs.owners)
    match(ours.rest[ours.light], ours.owners[ours.light], theirs.whole, everything)
    match(ours.whole, everyone, theirs.rest[theirs.light], theirs.owners[theirs.light])
    match(ours.whole, everyone, theirs.whole, everything)
    return np.where(evaluation.telling.lengths > 2, matches, -1)


def _variants(side: Side) -> Variants:
    words, owners = side.telling, side.telling.owners
    whole = sums(side.stems, words.starts)
    light = (side.weights <= LIGHT * _rarest_other(side.weights, words)) & (words.lengths[owners] > 2)
    return Variants(whole[owners] - side.stems, owners, light, whole)


def _rarest_other(weights: Float[np.ndarray, " words"], words: Words) -> Float[np.ndarray, " words"]:
    """Return for each word the weight of the rarest other word of its prompt; 0 where there is none."""
    order, last, lengths = np.lexsort((weights, words.owners)), words.starts[1:] - 1, words.lengths
    best, second = np.zeros(len(lengths)), np.zeros(len(lengths))
    best[lengths > 0] = weights[order[last[lengths > 0]]]
    second[lengths > 1] = weights[order[last[lengths > 1] - 1]]
    result = best[words.owners]
    result[order[last[lengths > 0]]] = second[lengths > 0]
    return result


def _lookup(keys: UInt64[np.ndarray, " n"], among: UInt64[np.ndarray, " m"]) -> Int[np.ndarray, " n"]:
    """Return where each wanted code is first met among the others, or -1."""
    if not len(among):
        return np.full(len(keys), -1)
    order = np.argsort(among, kind="stable")
    places = np.minimum(np.searchsorted(among, keys, sorter=order), len(among) - 1)
    return np.where(among[order[places]] == keys, order[places], -1)


def near_duplicate_clusters(texts: Sequence[Any]) -> Int[np.ndarray, " texts"]:
    """Return for each text the number of its cluster: texts that `find_overlap` would match share one.

    So do texts that are joined by a chain of such pairs. Time grows with the number of words.
    """
    (side,) = _sides([text_of(left) for left in texts])
    count = len(side.texts)
    first: dict[str, int] = {}
    edges = [_equal(np.array([first.setdefault(text, number) for number, text in enumerate(side.texts)], dtype=int))]
    edges.append(_equal(_sequence_codes(side), side.words.lengths > 0))
    edges.append(_inside(side))
    edges.append(_one_word_apart(side))
    left, right = np.concatenate(edges, axis=1) if count else np.zeros((2, 0), dtype=int)
    graph = coo_array((np.ones(len(left)), (left, right)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


Edges = Int[np.ndarray, "2 edges"]


def _equal(codes_of_texts: np.ndarray, counted: Bool[np.ndarray, " texts"] | None = None) -> Edges:
    """Join each text with the first one of the same code."""
    _, first, bucket = np.unique(codes_of_texts, return_index=True, return_inverse=True)
    edges = np.stack([np.arange(len(bucket)), first[bucket]])
    return edges if counted is None else edges[:, counted]


def _inside(side: Side) -> Edges:
    """Join each text with the longest prompt that begins at each of its words, and that with the next shorter one."""
    stream = Stream(side.codes, side.words.starts)
    prompts = Prompts(stream)
    places, numbers = prompts.beginning(stream)
    nested = prompts.shorter >= 0
    inside = np.stack([stream.owners[places], prompts.first[numbers]])
    return np.concatenate([inside, np.stack([prompts.first, prompts.first[prompts.shorter]])[:, nested]], axis=1)


def _one_word_apart(side: Side) -> Edges:
    """Join as `paraphrased` matches: of the texts with one code, all with one whose word left out is light, if any."""
    variants, lengths = _variants(side), side.telling.lengths
    everyone = np.arange(len(side.texts))
    owners = np.concatenate([variants.owners, everyone])
    keys = np.concatenate([variants.rest, variants.whole])
    kinds = np.concatenate([np.where(variants.light, 2, 0), np.ones(len(everyone), dtype=int)])
    order = np.lexsort((-kinds, keys))
    owners, keys, kinds = owners[order], keys[order], kinds[order]
    _, first, bucket = np.unique(keys, return_index=True, return_inverse=True)
    hub = first[bucket]
    joined = (kinds[hub] == 2) | ((kinds[hub] == 1) & (kinds == 1))
    joined &= np.maximum(lengths[owners], lengths[owners[hub]]) > 2
    return np.stack([owners[joined], owners[hub][joined]])


KINDS: dict[str, Matcher] = {
    "exact": exact,
    "normalised": normalised,
    "contained": contained,
    "paraphrased": paraphrased,
}
