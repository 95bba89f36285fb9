"""Which of many prompts begins at each word of many texts: the longest, in time that grows with the number of words.

Windows are compared by rolling codes. The lengths of prompts are not tried one by one: a prompt of 13 words is known by
its first 8, 12 and 13, so a place asks for 8 words, then for 4 more, 2 more and 1 more, whatever lengths there are.
Source: Waldvogel et al. 1997, Scalable high speed IP routing lookups (binary search on prefix lengths with markers).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt64

BASE = np.uint64(0x9E3779B97F4A7C15)
INVERSE = np.uint64(pow(int(BASE), -1, 2**64))
_LENGTH = np.uint64(0xD1B54A32D192ED03)  # times a window's length: windows of two lengths have two codes
SHORTEST_CONTAINED = 4  # words: shorter prompts are found in any long text

Places = Int[np.ndarray, " places"]


def powers(base: np.uint64, exponents: Int[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    steps = np.full(int(exponents.max(initial=0)) + 1, base, dtype=np.uint64)
    steps[0] = 1
    return np.multiply.accumulate(steps)[exponents]


class Stream:
    """Texts one after the other as codes of their words; text i begins at `starts[i]`."""

    def __init__(self, codes: UInt64[np.ndarray, " words"], starts: Int[np.ndarray, " texts_and_one"]) -> None:
        places = np.arange(len(codes))
        terms = codes * powers(BASE, places)
        self._sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(terms, dtype=np.uint64)])
        self._shifts = powers(INVERSE, np.arange(len(codes) + 1))
        self.starts, self.lengths = starts[:-1], np.diff(starts)
        self.owners = np.repeat(np.arange(len(self.lengths)), self.lengths)
        self.room = starts[1:][self.owners] - places  # words from each to its text's last

    def codes(self, places: Places, lengths: Places) -> UInt64[np.ndarray, " places"]:
        """Return the codes of windows, which must lie in their texts."""
        windows = (self._sums[places + lengths] - self._sums[places]) * self._shifts[places]
        return windows + lengths.astype(np.uint64) * _LENGTH


class Prompts:
    """Prompts of four words or more, each of another wording, by which texts are searched.

    `first` holds for each the number of the first text that is this prompt, `shorter` the number of the longest other
    prompt that it begins with, or -1, `lengths` its words and `codes` their code.
    """

    def __init__(self, texts: Stream) -> None:
        members = np.flatnonzero(texts.lengths >= SHORTEST_CONTAINED)
        lengths = texts.lengths[members]
        self._bits = int(lengths.max(initial=0)).bit_length()
        parts = [(members[lengths >> bit & 1 > 0], bit) for bit in range(self._bits)]
        owners = np.concatenate([some for some, _ in parts] or [members])
        ends = np.concatenate([texts.lengths[some] >> bit << bit for some, bit in parts] or [members])
        self._openings = np.unique(texts.codes(texts.starts[members], np.full(len(members), SHORTEST_CONTAINED)))
        self._markers, mark, number = np.unique(
            texts.codes(texts.starts[owners], ends), return_index=True, return_inverse=True
        )
        whole = ends == texts.lengths[owners]
        first = np.full(len(mark) + 1, len(texts.lengths))  # the last is no marker
        np.minimum.at(first, number[whole], owners[whole])
        is_prompt = first < len(texts.lengths)
        before = np.append(self._search(texts, texts.starts[owners[mark]], ends[mark] - 1), len(mark))
        best = np.where(is_prompt, np.arange(len(first)), before)
        while (best != best[best]).any():
            best = best[best]
        self.first, self.codes = first[is_prompt], self._markers[is_prompt[:-1]]
        self.lengths = texts.lengths[self.first]
        numbers = np.where(is_prompt, np.cumsum(is_prompt) - 1, -1)
        self._best = numbers[best]
        self.shorter = self._best[before[is_prompt]]

    def _search(self, texts: Stream, places: Places, room: Places) -> Places:
        """Return for each place the longest marker that is reached from there, the number of markers where none is."""
        lengths, markers = np.zeros(len(places), dtype=int), np.full(len(places), len(self._markers))
        for bit in reversed(range(self._bits)):
            longer = np.flatnonzero(lengths + (1 << bit) <= room)
            codes = texts.codes(places[longer], lengths[longer] + (1 << bit))
            order = np.minimum(np.searchsorted(self._markers, codes), len(self._markers) - 1)
            hits = self._markers[order] == codes
            markers[longer[hits]] = order[hits]
            lengths[longer[hits]] += 1 << bit
        return markers

    def beginning(self, texts: Stream) -> Beginnings:
        """Return the places of the texts at which prompts begin, and the number of the longest of them."""
        places = np.flatnonzero(texts.room >= SHORTEST_CONTAINED)
        opening = texts.codes(places, np.full(len(places), SHORTEST_CONTAINED))
        places = places[np.isin(opening, self._openings)]
        numbers = self._best[self._search(texts, places, texts.room[places])]
        return Beginnings(places[numbers >= 0], numbers[numbers >= 0])


class Beginnings(NamedTuple):
    """Places in texts, in order, and the number of the longest prompt that begins at each."""

    places: Places
    numbers: Places
