"""A row's side follows from its content."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from divalign.data.examples import Request
from divalign.data.overlap import find_overlap, near_duplicate_clusters
from divalign.data.recipes import RECIPES
from divalign.data.split import SHARES, cluster_of, share_clusters, side_of
from divalign.toy.world import requests


def split_rows(rows: list[dict]) -> dict[str, list[dict]]:
    sides: dict[str, list[dict]] = {name: [] for name in SHARES}
    for row in rows:
        sides[side_of(row)].append(row)
    return sides


ROWS = [{"prompt": f"Describe number {n} of {n % 7} things", "n": n} for n in range(5000)]


@given(order=st.permutations(range(40)), more=st.integers(0, 40))
def test_adding_and_shuffling_rows_moves_none(order: list[int], more: int) -> None:
    alone = {row["n"]: name for name, rows in split_rows(ROWS[:40]).items() for row in rows}
    mixed = split_rows([*(ROWS[n] for n in order), *ROWS[40 : 40 + more]])
    assert {row["n"]: name for name, rows in mixed.items() for row in rows if row["n"] < 40} == alone


def test_sides_have_their_shares_nearly_and_every_row_once() -> None:
    sides = split_rows(ROWS)
    assert sorted(row["n"] for rows in sides.values() for row in rows) == list(range(5000))
    for name, share in SHARES.items():
        assert abs(len(sides[name]) / 5000 - share) < 4 * (share * (1 - share) / 5000) ** 0.5


def test_a_cluster_is_on_one_side_in_the_embedded_world() -> None:
    sides = split_rows([RECIPES["cr"](request) for request in requests("train", held_out=False)])
    clusters = {name: {row["cluster"] for row in rows} for name, rows in sides.items()}
    assert all(clusters.values())
    assert len(set.union(*clusters.values())) == sum(map(len, clusters.values()))


def test_prompts_of_the_same_words_are_one_cluster() -> None:
    same = ("Describe the sea.", "describe a Sea!", "The sea: describing", "DESCRIBE “THE SEA”")
    assert len({cluster_of({"prompt": prompt}) for prompt in same}) == 1
    assert cluster_of({"prompt": "Describe the sky."}) != cluster_of({"prompt": same[0]})
    assert cluster_of({"prompt": "?!"}) != cluster_of({"prompt": "!?"})


def test_a_cluster_has_one_side_however_its_number_is_typed() -> None:
    assert {cluster_of({"prompt": "p", "cluster": number}) for number in (7, 7.0, "7")} == {"cluster 7"}
    assert cluster_of({"prompt": "p", "cluster": 7.5}) == "cluster 7.5"


def test_another_seed_is_another_split_and_another_process_the_same() -> None:
    ours = [side_of(row) for row in ROWS[:50]]
    assert ours != [side_of(row, seed=1) for row in ROWS[:50]]
    code = (
        "from divalign.data.split import side_of\n"
        "print(*(side_of({'prompt': f'Describe number {n} of {n % 7} things'}) for n in range(50)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ours


def test_a_side_of_no_size_and_a_row_without_a_prompt_are_refused() -> None:
    with pytest.raises(ValueError, match="each above 0"):
        side_of(ROWS[0], {"train": 1.0, "test": 0.0})
    with pytest.raises(ValueError, match="each above 0"):
        side_of(ROWS[0], {"train": float("inf")})
    with pytest.raises(ValueError, match="expected one of prompt"):
        side_of({"query": "Describe the sea."})


SEA = "Describe the sea at night to a child."


@pytest.mark.parametrize(
    "other",
    [
        SEA.upper(),
        "describe, the sea; at night: to a child",
        f"You are a poet. {SEA} Begin.",
        "Explain the sea at night to a child.",
        "Please describe the sea at night to a child.",
    ],
    ids=["case", "punctuation", "wrapper", "request word", "added word"],
)
def test_near_duplicates_share_a_cluster(other: str) -> None:
    far = "How do I bake a loaf of rye bread?"
    for texts in ([SEA, far, other], [other, far, SEA]):
        one, apart, same = near_duplicate_clusters(texts)
        assert one == same != apart
    requests = [Request(text, False, "", "", "", f"set {n}") for n, text in enumerate([SEA, far, other])]
    assert [request.cluster for request in share_clusters(requests)] == ["set 0", "set 1", "set 0"]


def test_clusters_that_near_duplicates_join_become_one() -> None:
    named = [
        ("Bake rye bread slowly.", "a"),
        ("Name a river.", "a"),
        ("bake RYE bread slowly", "b"),
        ("Draw owls.", "b"),
    ]
    requests = [Request(text, False, "", "", "", cluster) for text, cluster in named]
    assert {request.cluster for request in share_clusters(requests)} == {"a"}
    assert share_clusters([]) == []


@given(st.lists(st.sampled_from(["sea", "night", "describe", "the", "a", "bread", "rye"]), min_size=0, max_size=60))
def test_no_leak_is_left_between_clusters(words: list[str]) -> None:
    texts = [" ".join(words[start : start + 4]) for start in range(0, len(words), 4)]
    clusters = near_duplicate_clusters(texts)
    for number in set(clusters.tolist()):
        inside = [text for text, cluster in zip(texts, clusters, strict=True) if cluster == number]
        outside = [text for text, cluster in zip(texts, clusters, strict=True) if cluster != number]
        assert find_overlap(outside, inside).leaks == ()
