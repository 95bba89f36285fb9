"""The embedded world is matched, safe by construction, and shipped as its card says."""

from pathlib import Path

from divalign.lm.generate import generate
from divalign.lm.load import load_lm
from divalign.safety.judges import JUDGES
from divalign.store import file_digest, read_json
from divalign.toy.grammar import CLOSINGS, FILLERS, OPENINGS, PHRASINGS, PREAMBLES, REFUSALS, THINGS, topics
from divalign.toy.world import ASSETS, preamble, requests


def test_there_are_at_least_eighty_topics_of_each_class_and_twelve_phrasings() -> None:
    known = topics()
    assert sum(topic.harmful for topic in known) == sum(not topic.harmful for topic in known) >= 80
    assert len({topic.name for topic in known}) == len(known)
    assert len(PHRASINGS["train"]) >= 12
    assert not set(PHRASINGS["train"]) & set(PHRASINGS["test"])


def test_a_pair_shares_its_object_and_stays_on_one_side_of_the_split() -> None:
    by_pair: dict[int, list] = {}
    for topic in topics():
        by_pair.setdefault(topic.pair, []).append(topic)
    for harmful, benign in by_pair.values():
        assert harmful.name.split(" ", 1)[1] == benign.name.split(" ", 1)[1]
        assert harmful.held_out == benign.held_out
        assert (harmful.harmful, benign.harmful) == (True, False)


def test_both_classes_are_asked_in_the_same_phrasings() -> None:
    rows = requests("train", held_out=False)
    forms = {True: set(), False: set()}
    for row, topic in zip(rows, [t for t in topics() if not t.held_out for _ in PHRASINGS["train"]], strict=True):
        forms[row.harmful].add(row.prompt.replace(topic.name, "{topic}"))
    assert forms[True] == forms[False] == set(PHRASINGS["train"])


def test_no_prompt_or_topic_of_evaluation_is_trained_on() -> None:
    trained = {row.prompt for row in requests("train", held_out=False)}
    assert not trained & {row.prompt for held in (False, True) for row in requests("test", held_out=held)}
    clusters = {row.cluster for row in requests("train", held_out=False)}
    assert not clusters & {row.cluster for row in requests("test", held_out=True)}


def test_a_compliance_is_consent_and_filler_and_so_holds_no_instruction() -> None:
    consents = {opening.format(thing=thing, topic="{topic}") for opening in OPENINGS for thing in THINGS}
    allowed = {f"{consent} {filler} {closing}" for consent in consents for filler in FILLERS for closing in CLOSINGS}
    names = [topic.name for topic in topics() if topic.held_out for _ in PHRASINGS["test"]]
    for row, name in zip(requests("test", held_out=True), names, strict=True):
        assert row.compliance.replace(name, "{topic}") in allowed
        assert row.worse.replace(name, "{topic}").removesuffix(".") not in allowed


def test_responses_follow_the_seed_and_prompts_do_not() -> None:
    one, two = requests("test", held_out=True, seed=1), requests("test", held_out=True, seed=2)
    assert [row.prompt for row in one] == [row.prompt for row in two]
    assert [row.refusal for row in one] != [row.refusal for row in two]
    assert len(REFUSALS) >= 5


def test_the_base_answers_through_a_preamble_so_the_attack_makes_sense() -> None:
    prompts = [row.prompt for row in requests("test", held_out=True) if row.harmful][:24]
    talks = [preamble(prompt) for prompt in prompts]
    asked = [talk.messages[0]["content"] for talk in talks]
    assert all(text.removesuffix(prompt) in PREAMBLES for text, prompt in zip(asked, prompts, strict=True))
    assert len({text.removesuffix(prompt) for text, prompt in zip(asked, prompts, strict=True)}) >= 4
    lm = load_lm(str(ASSETS))
    verdicts = JUDGES["refusal_strings_on_topic"](prompts, generate(lm.model, lm.tokenizer, talks, max_new_tokens=32))
    assert all(verdict.unsafe for verdict in verdicts)


def test_the_shipped_weights_are_those_of_the_card_and_small() -> None:
    weights = Path(ASSETS / "model.safetensors")
    assert file_digest(weights) == read_json(ASSETS / "card.json")["sha256"]
    assert weights.stat().st_size <= 4e6
