"""Near-duplicates among many texts: three-word shingles, minima of hashes, and bands of them.

Source: Broder 1997, On the resemblance and containment of documents; bands: Leskovec et al., Mining of Massive
Datasets, sec. 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Int, UInt32

from divalign.data.words import Words, codes, number_words, words_of

# Sixteen bands of six: two texts that share 80 % of their shingles meet in a band with probability 0.99, two that share
# half of them with 0.22.
BANDS, ROWS = 16, 6
WORDS_READ = 256  # of a text, half of them its last: many rows begin with one long instruction
_STEP = np.uint64(0x9E3779B97F4A7C15)
_CHUNK = 512  # texts whose shingles are hashed at once: few enough to stay in the processor's cache


def near_duplicates(texts: Sequence[str], *, similarity: float = 0.8, seed: int = 0) -> Int[np.ndarray, " texts"]:
    """Return for each text the number of an earlier one that it nearly repeats, or -1.

    Nearly: the estimated share of common shingles (Jaccard) in their first and last 128 words is at least `similarity`,
    and of longer texts the exact share in all words too. Each text is compared with the first one of every band that it
    falls into, so time grows with the number of texts.
    """
    signatures = _signatures(number_words(texts, {}, longest=WORDS_READ), seed)
    originals = np.full(len(texts), -1)
    for band in range(BANDS):
        part = np.ascontiguousarray(signatures[:, band * ROWS : (band + 1) * ROWS])
        keys = part.view([("", part.dtype)] * ROWS).ravel()
        _, first, bucket = np.unique(keys, return_index=True, return_inverse=True)
        elder = first[bucket]
        later = np.flatnonzero((elder < np.arange(len(texts))) & (originals < 0))
        alike = (signatures[later] == signatures[elder[later]]).mean(axis=1) >= similarity
        repeats = later[alike]
        cut = WholeTexts()
        for repeat in map(int, repeats[np.argsort(elder[repeats], kind="stable")]):  # those of one original in a row
            original = int(elder[repeat])
            if cut.alike(texts[original], texts[repeat], similarity):
                originals[repeat] = original
    return originals


class WholeTexts:
    """Texts as all their words and shingles, of which the last two that were read are remembered.

    Many short texts may be compared with one long one, which is cut into words once.
    """

    def __init__(self) -> None:
        self.words = lru_cache(maxsize=2)(words_of)
        self.shingles = lru_cache(maxsize=2)(self._shingles)

    def _shingles(self, text: str) -> set[tuple[str, ...]]:
        words = self.words(text)
        return {tuple(words[n : n + 3]) for n in range(max(len(words) - 2, 1))}

    def alike(self, first: str, second: str, similarity: float) -> bool:
        """Tell whether they share enough shingles; of short texts, which are read whole, the estimate has said it."""
        if max(len(self.words(text)) for text in (first, second)) <= WORDS_READ:
            return True
        own, other = self.shingles(first), self.shingles(second)
        common = len(own & other)
        return common >= similarity * (len(own) + len(other) - common)


def _signatures(words: Words, seed: int) -> UInt32[np.ndarray, "texts hashes"]:
    """Return the smallest of each hash over each text's shingles; texts without words differ from all others."""
    shingles, starts = _shingles(words)
    draw = np.random.default_rng(seed)
    masks = draw.integers(0, 2**32, size=(2, BANDS * ROWS), dtype=np.uint32)
    signatures = draw.integers(0, 2**32, size=(len(starts) - 1, BANDS * ROWS), dtype=np.uint32)
    filled = np.flatnonzero(np.diff(starts))
    for chunk in np.array_split(filled, max(1, len(filled) // _CHUNK)):
        if len(chunk):
            some = shingles[starts[chunk[0]] : starts[chunk[-1] + 1]]
            places = starts[chunk] - starts[chunk[0]]
            for number, (mask, odd) in enumerate(zip(masks[0], masks[1] | np.uint32(1), strict=True)):
                signatures[chunk, number] = np.minimum.reduceat((some ^ mask) * odd, places)
    return signatures


def _shingles(words: Words) -> tuple[UInt32[np.ndarray, " shingles"], Int[np.ndarray, " texts_and_one"]]:
    """Return the codes of each text's runs of three words; a shorter text is one run, padded with nothing."""
    code = codes(int(words.ids.max(initial=-1)) + 1)[words.ids]
    inside = np.arange(len(code)) - words.starts[words.owners]
    left = words.lengths[words.owners] - inside
    total = code.copy()
    for step in (1, 2):
        moved = np.concatenate([code[step:], np.zeros(min(step, len(code)), dtype=np.uint64)])[: len(code)]
        total = total * _STEP + np.where(left > step, moved, np.uint64(0))
    begins = (left > 2) | (inside == 0)
    mixed = total[begins]
    mixed = (mixed ^ (mixed >> np.uint64(29))) * _STEP
    counts = np.bincount(words.owners[begins], minlength=len(words.starts) - 1)
    return (mixed >> np.uint64(32)).astype(np.uint32), np.concatenate([[0], np.cumsum(counts)])
