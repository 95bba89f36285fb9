"""Texts as arrays of word ids: the input of overlap detection and deduplication."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from divalign.data.columns import plain_content, turns_of

# Chinese and Japanese write no spaces: each of their characters counts as a word.
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff"
# Signs on letters, vowels of Indic scripts among them, which Python's \w leaves out: without them day is donation in
# Hindi. In the two planes of living scripts, 30 ms; each belongs to the letter before it.
_SIGNS = "".join(chr(code) for code in range(0x300, 0x20000) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W_{_IDEOGRAPHS}](?:[^\W_{_IDEOGRAPHS}]+|[{_SIGNS}])*")
RUN = re.compile(rf"\w(?:\w+|[{_SIGNS}])*")  # of word characters and the signs on them
_PLAIN_WORD = re.compile(r"[a-z0-9]+")
_JOINERS = str.maketrans("", "", "'’\u00ad\u200b\u200c\u200d\u2060\ufeff")
_ENDINGS = ("ings", "ing", "ed", "es", "s", "ly", "e")
ARTICLES = frozenset(("a", "an", "the"))
# Words that requests are made of, whatever they ask for. They stand beside scikit-learn's function words.
REQUEST_WORDS = (
    "add advice advise allowed analyse analyze another answer article ask assess assist best better brainstorm "
    "brief build calculate change choose classify come compare complete compose concise consider construct "
    "convert convince convincing correct craft create demonstrate describe design detail detailed determine "
    "develop device devise difference different directions discuss does doing done draft easy edit effective "
    "effectively essay evaluate example examples explain explanation fast following formulate generate get given "
    "giving good great guide guidelines help hint hints idea ideas identify imagine important inform information "
    "insert instruct instruction instructions invent key kind know learn less letter like list look main make "
    "manual message method methods name need new novel offer one outline paragraph people person persuade "
    "persuasive phrase piece plan please poem points possible post prepare produce proper provide question quick "
    "quickly quiz rate read reason reasons recommend rephrase reply report request rewrite say script sentence "
    "set share short should show simple simply somebody someone something speech start state step stepbystep "
    "steps story strategies strategy suggest suggestion summarise summarize supply tale talk teach technique "
    "techniques tell text thing things think thorough thoroughly three tips topic try tutorial two types use used "
    "using want way ways wish word words work would write"
)
COMMON = ENGLISH_STOP_WORDS.union(REQUEST_WORDS.split())
# The weight of a common word where a word met once weighs about 1, and how many unseen prompts stand behind the
# counts: with few prompts, what train and evaluation share would otherwise look common for being shared.
COMMON_WEIGHT, BACKGROUND = 0.3, 1000


class Words(NamedTuple):
    """Texts as word numbers, one after the other; text i holds `ids[starts[i]:starts[i + 1]]`."""

    ids: Int[np.ndarray, " words"]
    starts: Int[np.ndarray, " texts_and_one"]

    @property
    def lengths(self) -> Int[np.ndarray, " texts"]:
        return np.diff(self.starts)

    @property
    def owners(self) -> Int[np.ndarray, " words"]:
        """Return the number of the text that each word belongs to."""
        return np.repeat(np.arange(len(self.starts) - 1), self.lengths)


def text_of(turns: Any, role: str = "user") -> str:
    """Return what `role` says in a prompt or response: a string is all theirs, of messages their turns.

    Text that stands in parts is put together. Raises ValueError for what is no text, such as a picture.
    """
    if isinstance(turns, str):
        return turns
    if isinstance(turns, list):  # a turn without content says nothing
        turns = [turn for turn in turns if not (isinstance(turn, dict) and turn.get("content", "") is None)]
    messages = turns_of(turns, role, "messages") if turns else []
    return "\n".join(plain_content(message["content"]) for message in messages if message["role"] == role)


class TurnText(NamedTuple):
    """What a turn says, and whose turn it is."""

    role: str
    text: str


def turn_texts(turns: Any, role: str = "user") -> tuple[TurnText, ...]:
    """Return the text of every turn of a prompt or response, its tool calls behind it as JSON.

    A string is one turn of `role`; turns without content or tool calls are left out. Raises ValueError for what is no
    text, such as a picture.
    """
    if isinstance(turns, list):
        turns = [turn for turn in turns if not (isinstance(turn, dict) and _says_nothing(turn))]
    messages = turns_of(turns, role, "messages") if turns else []
    return tuple(TurnText(message["role"], _with_tool_calls(message)) for message in messages)


def _says_nothing(turn: dict[str, Any]) -> bool:
    return turn.get("content", "") is None and not turn.get("tool_calls")


def _with_tool_calls(message: Mapping[str, Any]) -> str:
    text, calls = plain_content(message["content"]), message.get("tool_calls")
    written = [json.dumps(calls, ensure_ascii=False, sort_keys=True, default=str)] if calls else []
    return "\n".join([*([text] if text or not calls else []), *written])


def words_of(text: str) -> list[str]:
    """Return a text's words in lower case, without accents of form (NFKC), punctuation or invisible characters."""
    if text.isascii():  # the same, in a third of the time
        return _PLAIN_WORD.findall(text.lower().replace("'", ""))
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold().translate(_JOINERS))


def number_words(texts: Iterable[str], vocabulary: dict[str, int], *, longest: int | None = None) -> Words:
    """Return the words of each text as numbers, which new words are given in `vocabulary`.

    Of a text of more than `longest` words, the first and the last half of that many are read.
    """
    words = map(words_of, texts) if longest is None else (_both_ends(text, longest) for text in texts)
    rows = [[vocabulary.setdefault(word, len(vocabulary)) for word in text] for text in words]
    starts = np.cumsum([0, *map(len, rows)])
    flat = np.fromiter((number for row in rows for number in row), dtype=np.int64, count=int(starts[-1]))
    return Words(flat, starts)


def _both_ends(text: str, longest: int) -> list[str]:
    reach, half = 16 * longest, longest // 2  # characters: words are shorter than 16, and texts may be long
    words = words_of(text) if len(text) <= 2 * reach else [*words_of(text[:reach]), *words_of(text[-reach:])]
    return words if len(words) <= longest else [*words[:half], *words[-half:]]


def stem(word: str) -> str:
    """Return a word without its ending, roughly: enough to see "making" and "make" as one."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word


def restrict(words: Words, mask: Bool[np.ndarray, " words"]) -> Words:
    """Return the texts without the words that are not kept."""
    counts = np.bincount(words.owners[mask], minlength=len(words.starts) - 1)
    return Words(words.ids[mask], np.concatenate([[0], np.cumsum(counts)]))


def rarity(sets: Sequence[Words], vocabulary: Sequence[str]) -> Float[np.ndarray, " vocabulary"]:
    """Return how much each word tells of what a text is about: log of one over the share of texts with it, 1 at most.

    Common words of requests weigh 0.3 at most, however rare they are here.
    """
    texts_with_word, texts = np.zeros(len(vocabulary)), BACKGROUND
    for words in sets:
        pairs = np.unique(words.owners * len(vocabulary) + words.ids)
        texts_with_word += np.bincount(pairs % len(vocabulary), minlength=len(vocabulary))
        texts += len(words.starts) - 1
    weights = np.log((texts + 1) / (texts_with_word + 0.5)) / np.log(texts + 1)
    return np.where([word in COMMON for word in vocabulary], np.minimum(weights, COMMON_WEIGHT), weights)


def codes(count: int, seed: int = 0) -> UInt64[np.ndarray, " count"]:
    """Return random 64-bit codes for word numbers: a set of words is known by the sum of its codes."""
    return np.random.default_rng(seed).integers(0, 2**64, size=count, dtype=np.uint64)


def sums(codes_of_words: UInt64[np.ndarray, " words"], starts: Int[np.ndarray, " n"]) -> UInt64[np.ndarray, " texts"]:
    """Return the sum of the codes of each text, which wraps around."""
    running = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(codes_of_words, dtype=np.uint64)])
    return running[starts[1:]] - running[starts[:-1]]
