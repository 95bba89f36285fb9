"""The shipped prompt set: matched pairs, told apart by what they ask for and not by words or lengths."""

import os
import re
import tomllib
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

import divalign
from divalign.data.build import build, filled
from divalign.data.everyday import TEST_PAIRS, EverydayRow, everyday_requests, read_everyday
from divalign.data.lexical import length_auc, lexical_auc, words
from divalign.data.minhash import near_duplicates
from divalign.data.overlap import find_overlap
from divalign.data.prompts import prompt_of
from divalign.data.recipes import RECIPES
from divalign.data.sources import read_source, read_sources
from divalign.stages.corpus import CorpusSpec, balanced, read_corpus

ROWS = read_everyday()
HARMFUL = [row for row in ROWS if row.harmful]
BENIGN = [row for row in ROWS if not row.harmful]
TRAIN, TEST = read_everyday("train"), read_everyday("test")
# What only a text that teaches would need: steps, measures, ingredients, shell commands. Amounts need digits.
INSTRUCTIONS = re.compile(
    r"\b(steps|step by step|firstly|secondly|then (add|take|mix|open|press)|ingredients?|recipe|mix it|grams?|litres?|"
    r"ml|milligrams?|ounces?|teaspoons?|degrees|sudo|curl|nmap|sql|volts?|doses?)\b|first,|[0-9%`<>{}$#]|https?:|\n"
)


def prompts(rows: list[EverydayRow]) -> list[str]:
    return [row.prompt for row in rows]


def pairs(rows: list[EverydayRow]) -> list[str]:
    return [row.pair for row in rows]


def test_there_are_240_matched_pairs_or_more_in_ten_categories_or_more() -> None:
    assert len(HARMFUL) == len(BENIGN) == 256
    assert set(Counter(row.category for row in HARMFUL).values()) == {16}
    assert len({row.category for row in ROWS}) == 16
    assert sum(row.sounds_dangerous for row in BENIGN) >= 60
    assert not any(row.sounds_dangerous for row in HARMFUL)


def test_ids_and_prompts_are_unique() -> None:
    assert len({row.id for row in ROWS}) == len({row.prompt for row in ROWS}) == len(ROWS)


def test_a_pair_is_one_harmful_and_one_benign_request_of_one_category_and_form() -> None:
    assert pairs(HARMFUL) == pairs(BENIGN)
    for bad, good in zip(HARMFUL, BENIGN, strict=True):
        assert (bad.category, bad.form) == (good.category, good.form), bad.id
        assert bad.pair.startswith(bad.category)


def test_the_partners_of_a_pair_share_words_of_content() -> None:
    frequency = Counter(word for row in ROWS for word in set(words(row.prompt.lower())))
    shared = [
        [word for word in set(words(bad.lower())) & set(words(good.lower())) if frequency[word] <= 40]
        for bad, good in zip(prompts(HARMFUL), prompts(BENIGN), strict=True)
    ]
    assert np.mean([bool(some) for some in shared]) > 0.95
    assert np.mean([len(some) for some in shared]) > 3


def test_forms_and_lengths_vary_and_openings_are_many() -> None:
    forms = Counter(row.form for row in ROWS)
    assert set(forms) == {"question", "imperative", "context", "chatty", "terse"}
    assert min(forms.values()) / len(ROWS) > 0.1
    lengths = [len(row.prompt) for row in ROWS]
    assert np.quantile(lengths, 0.1) < 60 < 150 < np.quantile(lengths, 0.95)
    openings = Counter(" ".join(words(row.prompt.lower())[:2]) for row in ROWS)
    assert max(openings.values()) / len(ROWS) <= 0.15


@pytest.mark.parametrize("rows", [ROWS, TRAIN, TEST], ids=["all", "train", "test"])
def test_neither_words_nor_length_tell_harmful_from_benign(rows: list[EverydayRow]) -> None:
    bad, good = ([row for row in rows if row.harmful is harmful] for harmful in (True, False))
    for seed in range(2):
        clusters = pairs(good), pairs(bad)
        by_words = lexical_auc(prompts(good), prompts(bad), groups=clusters, seed=seed)
        by_length = length_auc(prompts(good), prompts(bad), groups=clusters, seed=seed)
        assert (by_words.high or 1) <= 0.8
        assert 0.45 <= (by_length.low or 0) < (by_length.high or 1) <= 0.55


def test_words_learnt_on_the_train_part_do_not_tell_the_test_part_apart() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(prompts(TRAIN), [row.harmful for row in TRAIN])
    assert roc_auc_score([row.harmful for row in TEST], model.decision_function(prompts(TEST))) <= 0.8


def test_the_split_is_by_pair_and_stratified_by_category() -> None:
    assert len(set(pairs(TEST))) == TEST_PAIRS == 96
    assert set(Counter(row.category for row in TEST).values()) == {2 * 96 // 16}
    assert not set(pairs(TRAIN)) & set(pairs(TEST))
    assert sorted(TRAIN + TEST) == sorted(ROWS)
    assert read_everyday("test") == TEST


def test_a_pair_that_is_added_moves_no_pair_of_another_category() -> None:
    from divalign.data.everyday import _test_pairs

    more = [row._replace(pair=f"{row.category}-{number}") for row in ROWS[:2] for number in range(17, 30)]
    before, after = _test_pairs(ROWS), _test_pairs([*ROWS, *more])
    assert {pair for pair in before ^ after if not pair.startswith("fraud")} == set()


@pytest.mark.parametrize("sides", [(TRAIN, TEST), (TEST, TRAIN), (HARMFUL, BENIGN)])
def test_no_prompt_nearly_repeats_one_across_the_split_or_the_classes(sides) -> None:
    one, other = map(prompts, sides)
    assert find_overlap(one, other).leaks == ()


def test_no_prompt_nearly_repeats_one_of_another_pair() -> None:
    first = near_duplicates(prompts(ROWS), similarity=0.4)
    assert all(ROWS[number].pair == ROWS[elder].pair for number, elder in enumerate(first) if elder >= 0)


def test_no_prompt_holds_instructions_amounts_or_code() -> None:
    assert [row.id for row in ROWS if INSTRUCTIONS.search(row.prompt.lower())] == []
    assert max(len(row.prompt) for row in ROWS) <= 220  # characters: a topic is short


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(ValueError, match="has no part 'tset'; expected one of all, train, test"):
        read_everyday("tset")


@pytest.mark.parametrize("part", ["all", "train", "test"])
def test_the_source_gives_the_requests_of_its_part_without_files(part) -> None:
    found = read_source("everyday" if part == "all" else f"everyday_{part}", None)
    assert found == everyday_requests(part)
    assert [request.prompt for request in found] == prompts(read_everyday(part))
    assert {request.cluster for request in found} == {f"everyday {row.pair}" for row in read_everyday(part)}
    assert len(read_sources("everyday", None)) == len(ROWS)
    assert len(balanced(found, 64)) == 64


@pytest.mark.parametrize(
    "data", [CorpusSpec(source="everyday"), CorpusSpec(source="everyday_train", measure_on="everyday_test")]
)
def test_a_run_measures_on_pairs_that_it_does_not_train_on(data: CorpusSpec) -> None:
    corpus = read_corpus(data, seed=1)
    train, test = ({request.cluster for request in part} for part in (corpus.train, corpus.test))
    assert not train & test
    assert (2 * len(train), 2 * len(test)) == (len(corpus.train), len(corpus.test))  # both requests of each pair


def test_refusals_are_generated_and_answers_wait_for_a_model() -> None:
    full = filled(everyday_requests("train"))
    assert all(request.refusal and request.worse_refusal for request in full)
    assert {bool(request.compliance) for request in full if not request.harmful} == {False}
    assert len({request.refusal for request in full}) > 0.8 * len(full)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_set_without_answers_is_refused_with_what_to_do(recipe: str) -> None:
    with pytest.raises(ValueError, match=r"none of the 160 benign prompts has an answer.*--writer"):
        build(everyday_requests("train"), recipe)


def test_answers_by_a_model_make_a_balanced_set() -> None:
    answered = [
        request if request.harmful else request._replace(compliance=f"answer to {request.prompt}")
        for request in everyday_requests("train")
    ]
    built = build(answered, "cr")
    assert Counter(row["harmful"] for row in built.rows) == {True: 160, False: 160}
    assert built.left_out == {}


def test_the_wheel_takes_every_file_of_the_package() -> None:
    project = tomllib.loads((Path(divalign.__file__).parents[1] / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["divalign"]}
    assert files("divalign.data").joinpath("assets/everyday.jsonl").is_file()


@pytest.mark.skipif("DIVALIGN_DATA" not in os.environ, reason="DIVALIGN_DATA names no folder of public prompt sets")
@pytest.mark.parametrize(
    "name",
    ["advbench", "harmbench", "jailbreakbench", "strongreject", "xstest", "malicious_instruct", "alpaca",
     "alpaca_gpt4", "harmbench/*_val.csv", "harmbench/*_test.csv", "xstest_completions/*.csv"],
)  # fmt: skip
def test_no_prompt_is_or_paraphrases_one_of_a_public_set(name: str) -> None:
    public, ours = public_prompts(name, Path(os.environ["DIVALIGN_DATA"])), prompts(ROWS)
    assert len(public) >= 78
    assert find_overlap(public, ours).leaks == find_overlap(ours, public).leaks == ()
    first = near_duplicates([*public, *ours], similarity=0.4)[len(public) :]
    assert [number for number, elder in enumerate(first) if 0 <= elder < len(public)] == []


def public_prompts(name: str, folder: Path) -> list[str]:
    """Return the prompts of a source, or of the files that a pattern names, each once."""
    from divalign.data.files import read_file

    if "*" not in name:
        return list(dict.fromkeys(request.prompt for request in read_source(name, folder)))
    rows = [row for path in sorted(folder.glob(name)) for row in read_file(path)[0]]
    return list(dict.fromkeys(prompt_of(row) for row in rows))
