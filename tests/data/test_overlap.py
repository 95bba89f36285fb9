"""Leaks are found in every dress, and prompts that share a template are not taken for leaks."""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divalign.data.overlap import KINDS, _sides, contained, find_overlap, near_duplicate_clusters
from divalign.data.words import words_of
from divalign.toy.world import requests
from tests.cost import cpu_seconds
from tests.data.planted import (
    Change,
    other_topics,
    paraphrases,
    public,
    recased,
    repunctuated,
    same_topics,
    world,
)

FOLDER = os.environ.get("DIVALIGN_DATA")


def found(train: list[str], changes: list[Change]) -> float:
    """Return the share of changed prompts that were found, each in the prompt that it was made from or in its like."""
    return len(find_overlap(train, [change.after for change in changes]).leaks) / len(changes)


def halves(prompts: list[str], rng: random.Random) -> tuple[list[str], list[str]]:
    chosen = set(rng.sample(prompts, len(prompts) // 2))
    return [p for p in prompts if p in chosen], [p for p in prompts if p not in chosen]


@pytest.mark.parametrize("seed", [0, 1])
def test_one_word_paraphrases_in_the_world_are_told_from_other_topics(seed: int) -> None:
    rng = random.Random(seed)
    train, others = halves(world(), rng)
    recall = found(train, paraphrases(train, 1000, rng))
    alarms = found(train, [Change("", prompt) for prompt in rng.sample(others, 1000)])
    assert recall >= 0.95
    assert recall / (recall + alarms) >= 0.95


@pytest.mark.skipif(not FOLDER, reason="set DIVALIGN_DATA to the folder of the public prompt sets")
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("everything", [True, False], ids=["against all sets", "against their own sources alone"])
def test_one_word_paraphrases_of_public_prompts_are_told_from_other_topics(seed: int, everything: bool) -> None:
    rng, prompts = random.Random(seed), public(Path(str(FOLDER)))
    leaks, misses = paraphrases(prompts, 1000, rng), other_topics(prompts, 1000, rng)
    train = prompts if everything else [change.before for change in (*leaks, *misses)]
    together = find_overlap(train, [change.after for change in (*leaks, *misses)])
    caught = sum(leak.evaluation < 1000 for leak in together.leaks)
    assert caught >= 950
    assert caught / len(together.leaks) >= 0.95


@pytest.mark.parametrize(
    ("kind", "make"), [("exact", lambda p, _: p), ("normalised", recased), ("normalised", repunctuated)]
)
def test_exact_case_and_punctuation_leaks_are_all_found(kind: str, make) -> None:
    rng = random.Random(0)
    train, _ = halves(world(), rng)
    changes = same_topics(train, 1000, rng, make)
    overlap = find_overlap(train, [change.after for change in changes])
    assert len(overlap.leaks) == 1000
    if kind == "exact":
        assert overlap.counts["exact"] == 1000
    assert all(leak.kind in ("exact", kind) for leak in overlap.leaks)
    for leak in overlap.leaks:
        assert train[leak.train] == changes[leak.evaluation].before


def test_a_wrapped_prompt_is_found_inside_its_wrapper() -> None:
    train, _ = halves(world(), random.Random(0))
    wrapped = [f"Once upon a time a man said: {prompt} And then?" for prompt in train]
    overlap = find_overlap(wrapped, train)
    assert overlap.counts == {"exact": 0, "normalised": 0, "contained": len(train), "paraphrased": 0}
    assert all(leak.evaluation == leak.train for leak in overlap.leaks)


def test_the_worlds_own_evaluation_prompts_are_not_in_its_training_prompts() -> None:
    train = [request.prompt for request in requests("train", held_out=False)]
    for held_out in (True, False):
        assert find_overlap(train, [request.prompt for request in requests("test", held_out=held_out)]).leaks == ()


@pytest.mark.parametrize(
    ("train", "evaluation", "kind"),
    [
        ("Ｗhat is the café?", "what is the cafe\u0301", "normalised"),
        ("don't look", "DONT LOOK!", "normalised"),
        ("做蛋糕的方法", "做蛋糕的方法。", "normalised"),
        ("Describe the tides of the sea.", "Describing the tide of a sea", "paraphrased"),
        ("Describe the tides of the sea.", "Please describe the tides of the sea.", "paraphrased"),
        ("Please describe the tides of the sea.", "Describe the tides of the sea.", "contained"),
        ("Kindly outline tides at sea.", "Outline tides at sea, kindly.", "paraphrased"),
        ("How do I bake bread?", "How do I bake salmon?", None),
        ("Describe tides.", "Describe clouds.", None),
        ("Describe the tides of the sea.", "", None),
        ("", "Describe the tides of the sea.", None),
        ("...", "!!!", None),
    ],
)
def test_a_pair_of_prompts_has_its_kind(train: str, evaluation: str, kind: str | None) -> None:
    leaks = find_overlap([train], [evaluation]).leaks
    assert [leak.kind for leak in leaks] == ([kind] if kind else [])


def test_messages_are_compared_by_what_the_user_says() -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Describe the sea."}]
    assert find_overlap([talk], ["describe the sea"]).counts["normalised"] == 1


def test_nothing_overlaps_with_nothing_and_a_share_has_an_interval() -> None:
    assert find_overlap([], ["Describe the sea."]).leaks == ()
    assert find_overlap(["Describe the sea."], []).leaks == ()
    share = find_overlap(["Describe the sea."], ["Describe the sea.", "Bake some bread at home."]).share
    assert (share.value, share.n) == (0.5, 2)
    assert share.low > 0


def test_a_template_shared_by_all_does_not_cost_all_pairs() -> None:
    train = [f"Define {n} for my cousin, please" for n in range(40_000)]
    start = time.perf_counter()
    overlap = find_overlap(train, [f"Define {n} for my cousin, please" for n in range(40_000, 60_000)])
    assert time.perf_counter() - start < 10
    assert overlap.leaks == ()


@pytest.mark.parametrize("count", [near_duplicate_clusters, lambda texts: find_overlap(texts, texts)])
def test_many_lengths_of_prompts_do_not_cost_a_search_each(count: Callable) -> None:
    texts = [" ".join(["a"] * length) for length in range(4, 1004)]
    assert cpu_seconds(count, texts) < 4  # 0.2 s; a search of all words for each length took 35 s


few_words = st.lists(st.lists(st.sampled_from("abc"), max_size=14).map(" ".join), max_size=8)


@given(few_words, few_words, st.integers(0, 3))
@settings(derandomize=True, max_examples=200, deadline=None)
def test_a_contained_prompt_is_what_comparing_all_windows_says(train: list[str], others: list[str], cut: int) -> None:
    evaluation = [*others, *(text[2 * cut :] for text in train)]
    slow = [
        next((n for n, text in enumerate(train) if len(prompt.split()) >= 4 and f" {prompt} " in f" {text} "), -1)
        for prompt in evaluation
    ]
    assert contained(*_sides(train, evaluation)).tolist() == slow


@given(few_words)
@settings(derandomize=True, max_examples=200, deadline=None)
def test_a_text_and_all_that_it_contains_share_a_cluster(texts: list[str]) -> None:
    clusters = near_duplicate_clusters(texts)
    for whole, its_cluster in zip(texts, clusters, strict=True):
        for part, other_cluster in zip(texts, clusters, strict=True):
            if len(part.split()) >= 4 and f" {part} " in f" {whole} ":
                assert other_cluster == its_cluster


def test_kinds_are_looked_for_from_the_narrowest_to_the_widest() -> None:
    assert list(KINDS) == ["exact", "normalised", "contained", "paraphrased"]


@given(st.text(st.characters(max_codepoint=127)))
def test_plain_text_has_the_same_words_by_the_short_way(text: str) -> None:
    assert words_of(text) == words_of(f"{text} é")[:-1]


def test_the_vowel_signs_of_a_script_belong_to_its_words() -> None:
    day, gift = "मुझे दिन के बारे में बताओ", "मुझे दान के बारे में बताओ"  # one sign apart
    assert words_of(day)[:2] == ["मुझे", "दिन"]
    assert words_of("❤\ufe0f") == []
    assert find_overlap([day], [gift]).counts["normalised"] == 0


def test_words_are_without_case_punctuation_and_invisible_characters() -> None:
    assert words_of("The “Ｆirst”  word's\u200b end") == ["the", "first", "words", "end"]
