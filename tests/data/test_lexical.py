import re

import numpy as np
import pytest

from divalign.data.lexical import length_auc, lexical_auc, words

VERBS = ["bake", "draw", "paint", "mend", "grow", "wash"]
THINGS = ["bread", "a horse", "the fence", "roses", "a shirt"]
PROMPTS = [f"{verb} {thing}" for verb in VERBS for thing in THINGS]


def test_a_telltale_word_is_found() -> None:
    found = lexical_auc(PROMPTS, [f"{prompt} secretly" for prompt in PROMPTS])
    assert (found.value, found.high, found.n) == (1.0, 1.0, 60)
    assert 0.85 < found.low < 0.9  # Wilson's 30 of 30: no bootstrap sample of a perfect score is imperfect


def test_near_copies_of_a_telltale_prompt_add_nothing() -> None:
    groups = [number // 3 for number in range(30)], [number // 3 for number in range(30)]
    found = lexical_auc(PROMPTS, [f"{prompt} secretly" for prompt in PROMPTS], groups=groups)
    assert (found.value, found.low) == (1.0, pytest.approx(0.722, abs=5e-4))  # Wilson's 10 of 10


def test_words_dealt_at_random_tell_nothing() -> None:
    words = np.random.default_rng(0).choice(["red", "green", "blue", "grey"], size=(300, 6))
    texts = [" ".join(row) for row in words]
    found = lexical_auc(texts[:150], texts[150:])
    assert found.low < 0.5 < found.high


def test_a_telltale_character_is_found_where_no_spaces_are_written() -> None:
    things = "花茶纸船桥灯雪山河树鱼鸟马车门窗书笔琴棋"
    safe = [f"请问怎样画一{one}呢" for one in things]
    harmful = [f"请问怎样偷画一{one}呢" for one in things]
    assert lexical_auc(safe, harmful).value == 1.0


@pytest.mark.parametrize(
    "text", ["I don't know_it, nor you", "don\u2019t \u2013 na\u00efve caf\u00e9s, 3\u00bd?", "x" * 3]
)
def test_words_with_spaces_are_what_they_were(text: str) -> None:
    assert words(text.lower()) == re.findall(r"(?u)\b\w+\b", text.lower())


def test_length_alone_is_found() -> None:
    assert length_auc(["word " * 3] * 20, ["word " * 9] * 20).value == 1.0


def test_a_pair_kept_in_one_fold_cannot_vouch_for_its_twin() -> None:
    # Each topic has one harmful twin with its own rare word: only the twin in another fold could reveal it.
    safe = [f"topic{i} please explain" for i in range(30) for _ in range(2)]
    harmful = [f"topic{i} covert{i} please explain" for i in range(30) for _ in range(2)]
    topics = [i for i in range(30) for _ in range(2)]
    assert lexical_auc(safe, harmful).value > lexical_auc(safe, harmful, groups=(topics, topics)).value + 0.1


@pytest.mark.parametrize("measure", [lexical_auc, length_auc])
def test_a_tiny_class_is_refused(measure) -> None:
    with pytest.raises(ValueError, match="harmful_texts: got 3 prompts, expected at least 10"):
        measure(PROMPTS, PROMPTS[:3])
