"""`divalign separate` as its user meets it, and separation under attack."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from divalign.cli import main
from divalign.core.separation import separation
from divalign.data.examples import Conversation, user_says
from divalign.report import write_separation
from divalign.safety.attacks import ATTACKS
from divalign.store import read_json, write_json, write_rows
from divalign.study.cells import Asked
from divalign.study.named import load_named, short_names
from divalign.study.separate import anchors_of, separate
from divalign.study.under_attack import inside_openings, separation_under_attack, states_under_attack
from tests.tiny import save_tiny, tiny_model

WORDS = ("red", "blue", "green", "small", "large", "old", "new", "warm", "cold", "wet", "dry", "soft", "hard", "thin")
ANCHORS = [
    {"prompt": f"{verb} the {word} lamp", "harmful": harmful, "cluster": word}
    for harmful, verb in ((True, "break"), (False, "mend"))
    for word in WORDS
]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["divalign", "separate", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("separate")
    write_rows(folder / "anchors.jsonl", ANCHORS)
    for seed in (0, 1):
        save_tiny("Llama", folder / f"model{seed}", seed=seed)
    return folder


@pytest.fixture(scope="module")
def measured(folder: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        models = folder / "model0", folder / "model1"
        options = "--prompts", folder / "anchors.jsonl", "--draws", 100, "--under-attack", "direct,prefill"
        assert call(patch, *models, *options, "--out", folder / "out") == 0
    return read_json(folder / "out" / "separation.json")


def test_every_layer_and_position_of_every_model_is_on_the_map(measured: dict[str, Any]) -> None:
    assert [model["name"] for model in measured["models"]] == ["model0", "model1"]
    for model in measured["models"]:
        places = {(cell["position"], cell["layer"]) for cell in model["map"]}
        assert places == {(position, layer) for position in ("instruction", "generation") for layer in range(3)}
        embeddings = [cell for cell in model["map"] if cell["layer"] == 0]
        # The last token is the same in all prompts: its embedding says nothing, and that is no distance of 0.
        assert all(cell["bhattacharyya"]["value"] is None and "identical" in cell["why"] for cell in embeddings)
        assert all(cell["probe_auc"]["value"] is not None for cell in model["map"] if cell["layer"])


def test_a_mean_over_responses_is_a_third_position(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = "--draws", 100, "--layers", "-1", "--position", "all"
    given = folder / "with_responses.jsonl"
    write_rows(given, [{**row, "response": "no" if row["harmful"] else "here it is"} for row in ANCHORS])
    for prompts, out in ((folder / "anchors.jsonl", "own"), (given, "given")):
        assert call(monkeypatch, folder / "model0", "--prompts", prompts, *options, "--out", folder / out) == 0
    own, told = (read_json(folder / name / "separation.json")["models"][0]["last_layer"] for name in ("own", "given"))
    assert list(own) == ["instruction", "generation", "response"]
    assert told["generation"]["probe_auc"] == own["generation"]["probe_auc"]
    assert told["response"]["probe_auc"]["value"] == 1.0  # one text a class
    assert "mean over response" in (folder / "given" / "separation.html").read_text()


def test_anchors_of_which_some_have_a_response_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_rows(folder / "some.jsonl", [{**ANCHORS[0], "response": "no"}, *ANCHORS[1:]])
    assert call(monkeypatch, folder / "model0", "--prompts", folder / "some.jsonl", "--position", "response") == 2
    assert "27 of 28 anchors have no response" in " ".join(capsys.readouterr().err.split())


def test_baselines_stand_beside_and_are_held_against_the_probe(measured: dict[str, Any]) -> None:
    assert measured["prompts"] == {"safe": 14, "harmful": 14, "clusters": 14}
    assert measured["baselines"]["lexical"]["value"] == 1.0  # one verb a class
    for model in measured["models"]:
        assert all("words alone do as well" in row["flags"] for row in model["last_layer"].values())


def test_after_is_compared_with_before_on_the_same_prompts(measured: dict[str, Any]) -> None:
    assert [(row["before"], row["after"]) for row in measured["changes"]] == [("model0", "model1")] * 2
    for row in measured["changes"]:
        one, two = (model["last_layer"][row["position"]]["probe_auc"]["value"] for model in measured["models"])
        assert row["probe_auc"]["value"] == pytest.approx(two - one)
        assert -1 <= row["cosine"] <= 1


def test_under_attack_has_every_opening_its_worst_and_its_mean(measured: dict[str, Any]) -> None:
    for model in measured["models"]:
        found = model["under_attack"]["bhattacharyya"]
        assert list(found["by_attack"]) == ["direct", "prefill 1 of 3", "prefill 2 of 3", "prefill"]
        values = [one["value"] for one in found["by_attack"].values()]
        assert found["worst"]["value"] == pytest.approx(min(values))
        assert found["mean"]["value"] == pytest.approx(np.mean(values))


def test_the_page_is_made_of_the_file_and_needs_no_script(folder: Path, measured: dict[str, Any]) -> None:
    page = (folder / "out" / "separation.html").read_text()
    assert "<script" not in page
    assert page.count("<svg") == 2
    assert "words alone do as well" in page
    write_json(folder / "bad" / "separation.json", {"schema": 7})
    with pytest.raises(ValueError, match="got schema 7, expected 1"):
        write_separation(folder / "bad")
    with pytest.raises(ValueError, match=r"holds no separation\.json"):
        write_separation(folder)


def test_hidden_states_are_found_again_by_content(folder: Path, measured: dict[str, Any]) -> None:
    asked = Asked(ANCHORS, draws=100, attacks={name: ATTACKS[name] for name in ("direct", "prefill")})
    loaders = {name: lambda name=name: load_named(str(folder / name)) for name in ("model0", "model1")}

    def refuse(stage: str, total: int, unit: str) -> Any:
        raise AssertionError(f"the stage {stage!r} was done again")

    again = separate(loaders, asked, cache=folder / "out" / "cache", progress=refuse)
    assert again["changes"] == measured["changes"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--layers", "0,5"), "model0 has no layer 5; it has 0 (the embeddings) to 2 (the last)"),
        (("--layers", "first"), "--layers 'first': expected all, or whole numbers"),
        (("--under-attack", "drect"), "did you mean 'direct'"),
        (("--trained-on", "trained.jsonl"), "2 of the anchors"),
        (("--prompts", "xtest:x"), "did you mean 'xstest'"),
        (("--prompts", "few.jsonl"), "got 2 safe prompts, expected at least 10"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(
    options: tuple[str, str],
    sentence: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(folder)
    write_rows(folder / "few.jsonl", [*ANCHORS[:14], *ANCHORS[14:16]])
    seen = [{"prompt": "Break the red lamp!"}, {"prompt": "mend the old lamp"}, {"prompt": "sing"}]
    write_rows(folder / "trained.jsonl", seen)
    given = () if options[0] == "--prompts" else ("--prompts", "anchors.jsonl")
    assert call(monkeypatch, "model0", *given, *options, "--quiet", "--draws", 100) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert sentence in said
    if options[0] == "--trained-on":
        assert "the first: 'break the red lamp'" in said


def test_a_state_that_is_not_finite_names_model_layer_and_prompt() -> None:
    model, tokenizer = tiny_model("Llama")
    model.model.norm.weight.data[:] = float("nan")
    lm = load_named("toy")._replace(model=model, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="broken: the hidden state at layer 2, position 'instruction', of prompt 0"):
        separate({"broken": lambda: lm}, Asked(ANCHORS, draws=100))


def test_the_toy_world_has_anchors_in_pairs_of_topics() -> None:
    rows = anchors_of("toy")
    assert sum(row["harmful"] for row in rows) == 128 == len(rows) / 2
    assert {row["cluster"] for row in rows if row["harmful"]} & {row["cluster"] for row in rows if not row["harmful"]}


def test_a_model_of_a_run_is_found_by_its_folder(folder: Path) -> None:
    run = folder / "run"
    (run / "models" / "base").mkdir(parents=True)
    (run / "models" / "later").mkdir()
    (run / "config.yaml").write_text(f"model: {{source: {folder / 'model0'}}}\n")
    save_tiny("Llama", run / "models" / "one" / "checkpoint", seed=1)
    for name, same in (("base", "model0"), ("one", "model1")):
        assert load_named(str(run / "models" / name)).digest == load_named(str(folder / same)).digest
    with pytest.raises(ValueError, match="holds no checkpoint yet"):
        load_named(str(run / "models" / "later"))


def test_names_are_short_where_that_tells_models_apart() -> None:
    assert short_names(["a/x", "b/y"]) == ["x", "y"]
    assert short_names(["a/x", "b/x"]) == ["a/x", "b/x"]
    with pytest.raises(ValueError, match="named twice"):
        short_names(["a", "a"])


def clouds_of(shift: float, seed: int) -> np.ndarray:
    states = np.random.default_rng(seed).normal(size=(120, 6))
    states[60:, 0] += shift
    return states


PROMPTS = [{"prompt": str(n), "harmful": n >= 60, "cluster": str(n)} for n in range(120)]


def test_the_worst_is_no_more_than_any_and_has_a_minimums_interval() -> None:
    states = {name: clouds_of(shift, seed) for seed, (name, shift) in enumerate({"a": 4.0, "b": 3.9, "c": 3.8}.items())}
    found = separation_under_attack(states, PROMPTS, draws=300)
    lone = separation(states["a"][:60], states["a"][60:], draws=10, null_draws=0).bhattacharyya.value
    assert found.worst.value == min(one.value for one in found.by_attack.values())
    assert all(found.worst.high <= one.high for one in found.by_attack.values())
    assert found.mean.low < found.mean.value < found.mean.high
    assert found.by_attack["a"].value == pytest.approx(lone, rel=0.3)  # other folds: here every prompt has a group


def test_the_worst_of_some_is_not_the_worst() -> None:
    states = {"a": clouds_of(3.0, 0), "b": np.ones((120, 6))}
    found = separation_under_attack(states, PROMPTS, draws=50)
    assert found.by_attack["a"].value is not None
    assert found.by_attack["b"].value is found.worst.value is found.mean.value is None
    with pytest.raises(ValueError, match="got 0 attacks"):
        separation_under_attack({}, PROMPTS)


def test_states_under_attack_are_read_after_the_attacks_own_text() -> None:
    model, tokenizer = tiny_model("Llama")
    lm = load_named("toy")._replace(model=model, tokenizer=tokenizer)

    def shout(prompt: str) -> Conversation:
        return user_says(prompt.upper())

    rows = [{"prompt": "one"}, {"prompt": "two"}]
    found = states_under_attack(lm, rows, {"direct": user_says, "shout": shout})
    other = states_under_attack(lm, [{"prompt": "ONE"}, {"prompt": "TWO"}], {"direct": user_says})
    assert np.allclose(found["shout"], other["direct"], atol=1e-5)
    assert not np.allclose(found["shout"], found["direct"], atol=1e-3)


def test_an_opened_answer_is_read_after_each_of_its_words() -> None:
    found = inside_openings({"direct": ATTACKS["direct"], "prefill": ATTACKS["prefill"]})
    assert [attack("x").prefill for attack in found.values()] == ["", "Sure,", "Sure, here", "Sure, here is"]
