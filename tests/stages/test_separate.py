"""`divalign separate` as its user meets it, and separation under attack."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from divalign.core.separation import separation
from divalign.data.examples import Conversation, user_says
from divalign.lm.load import LM
from divalign.records import SeparationChanges, SeparationRecord, read_record
from divalign.report import write_separation
from divalign.safety.attacks import SINGLE_SHOTS, find_single_shot
from divalign.stages.folder import silent
from divalign.stages.hidden import transformed_states
from divalign.stages.layer_separation import SeparationPlan
from divalign.stages.models import OpenModel, find_model
from divalign.stages.separate import _identity, prompts_of, separate, separate_models
from divalign.stages.under_attack import inside_openings, separation_under_attack, summary
from divalign.store import read_json, write_json, write_rows
from tests.commands import call
from tests.folders import times
from tests.tiny import save_tiny, tiny_model

WORDS = ("red", "blue", "green", "small", "large", "old", "new", "warm", "cold", "wet", "dry", "soft", "hard", "thin")
ANCHORS = [
    {"prompt": f"{verb} the {word} lamp", "harmful": harmful, "cluster": word}
    for harmful, verb in ((True, "break"), (False, "mend"))
    for word in WORDS
]
LATER = [{**row, "prompt": f"{row['prompt']} at last"} for row in ANCHORS]


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
        assert call(patch, "separate", *models, *options, "--out", folder / "out") == 0
    return result(folder / "out")


def result(out: Path) -> dict[str, Any]:
    """The models' numbers by name and the changes between them, from the files of a folder."""
    index = read_record(out / "changes.json", SeparationChanges)
    records = {name: read_record(out / name / "separation.json", SeparationRecord) for name in index.models}
    return {"models": {name: one.parts["test"].plain() for name, one in records.items()}, "changes": index.changes}


def test_every_layer_and_position_of_every_model_is_on_the_map(measured: dict[str, Any]) -> None:
    assert list(measured["models"]) == ["model0", "model1"]
    for model in measured["models"].values():
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
        assert (
            call(monkeypatch, "separate", folder / "model0", "--prompts", prompts, *options, "--out", folder / out) == 0
        )
    own, theirs = (result(folder / name)["models"]["model0"]["last_layer"] for name in ("own", "given"))
    assert list(own) == ["instruction", "generation", "response"]
    assert theirs["generation"]["probe_auc"] == own["generation"]["probe_auc"]
    assert theirs["response"]["probe_auc"]["value"] == 1.0  # one text a class
    assert "mean over response" in (folder / "given" / "separation.html").read_text()


def test_anchors_of_which_some_have_a_response_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_rows(folder / "some.jsonl", [{**ANCHORS[0], "response": "no"}, *ANCHORS[1:]])
    assert (
        call(monkeypatch, "separate", folder / "model0", "--prompts", folder / "some.jsonl", "--position", "response")
        == 2
    )
    assert "27 of 28 prompts have no response" in " ".join(capsys.readouterr().err.split())


def test_baselines_stand_beside_and_are_held_against_the_probe(measured: dict[str, Any]) -> None:
    for model in measured["models"].values():
        assert model["prompts"] == {"safe": 14, "harmful": 14, "clusters": 14}
        assert model["lexical_auc"]["value"] == 1.0  # one verb a class
        assert all("words alone do as well" in row["flags"] for row in model["last_layer"].values())


def test_after_is_compared_with_before_on_the_same_prompts(measured: dict[str, Any]) -> None:
    assert [(row.before, row.after) for row in measured["changes"]] == [("model0", "model1")] * 2
    for row in measured["changes"]:
        one, two = (model["last_layer"][row.position]["probe_auc"]["value"] for model in measured["models"].values())
        assert row.probe_auc.value == pytest.approx(two - one)
        assert -1 <= row.cosine <= 1


def test_under_attack_has_every_opening_its_worst_and_its_mean(measured: dict[str, Any]) -> None:
    for model in measured["models"].values():
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
    write_json(folder / "bad" / "changes.json", {"schema": 7})
    with pytest.raises(ValueError, match="has schema 7, this version reads 1"):
        write_separation(folder / "bad")
    with pytest.raises(ValueError, match=r"holds no changes\.json"):
        write_separation(folder)


def test_an_edited_template_is_measured_anew_under_attack(folder: Path, tmp_path: Path) -> None:
    model, rows = find_model(str(folder / "model0")), prompts_of(str(folder / "anchors.jsonl"))
    found = []
    for text in ("Say this backwards, word by word: {prompt}", "{prompt} Answer in one word."):
        name = f"template:{tmp_path / 'form.txt'}"
        (tmp_path / "form.txt").write_text(text)
        plan = SeparationPlan(draws=100, attacks={name: find_single_shot(name) for name in ("direct", name)})
        parts = separate(model, rows, plan, tmp_path / "out").parts
        found.append([part.under_attack["probe_auc"].by_attack[name] for part in parts.values() if part.under_attack])
    assert found[0] != found[1]


def test_everything_is_found_again_by_content(folder: Path, measured: dict[str, Any]) -> None:
    plan = SeparationPlan(draws=100, attacks={name: SINGLE_SHOTS[name] for name in ("direct", "prefill")})

    def refuse(stage: str, total: int, unit: str) -> Any:
        raise AssertionError(f"the stage {stage!r} was done again")

    models = [str(folder / name) for name in ("model0", "model1")]
    rows = prompts_of(str(folder / "anchors.jsonl"))
    before = times(folder / "out")
    _, changes = separate_models(models, rows, plan, folder / "out", progress=refuse)
    assert changes is not None
    assert changes.changes == measured["changes"]
    written = {path for path, when in times(folder / "out").items() if before.get(path) != when}
    assert {path.name for path in written} == {"changes.json"}


def test_models_of_one_name_get_folders_of_their_own_and_keep_theirs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for run in ("a", "b"):
        shutil.copytree(folder / "model0", tmp_path / run / "models" / "x")
    models = [tmp_path / run / "models" / "x" for run in ("a", "b")]
    before = [times(model) for model in models]
    options = "--prompts", folder / "anchors.jsonl", "--draws", 100, "--layers", "-1"
    assert call(monkeypatch, "separate", *models, *options, "--out", tmp_path / "out") == 0
    assert list(result(tmp_path / "out")["models"]) == ["a_models_x", "b_models_x"]
    assert call(monkeypatch, "separate", models[0], *options, "--out", models[0].parent) == 2
    assert "x is a model's own folder; choose another --out" in " ".join(capsys.readouterr().err.split())
    assert [times(model) for model in models] == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--layers", "0,5"), "model0: there is no layer 5; the model has 0 (the embeddings) to 2 (the last)"),
        (("--layers", "first"), "--layers 'first': expected all, or whole numbers"),
        (("--under-attack", "drect"), "did you mean 'direct'"),
        (("--trained-on", "trained.jsonl"), "2 of the prompts"),
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
    assert call(monkeypatch, "separate", "model0", *given, *options, "--quiet", "--draws", 100) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert sentence in said
    if options[0] == "--trained-on":
        assert "the first: 'break the red lamp'" in said


def tiny(change: Any = lambda model: None) -> OpenModel:
    model, tokenizer = tiny_model("Llama")
    change(model)
    lm = LM(model, tokenizer, "tiny", "key")
    return OpenModel("tiny", "key", lambda *_, **__: [], lambda: lm)


def test_a_state_that_is_not_finite_names_model_layer_and_prompt(tmp_path: Path) -> None:
    broken = tiny(lambda model: model.model.norm.weight.data.fill_(float("nan")))
    with pytest.raises(ValueError, match="tiny: the hidden state at layer 2, position 'instruction', of prompt 0"):
        separate(broken, ANCHORS, SeparationPlan(draws=100), tmp_path)


def test_held_out_prompts_are_a_part_of_their_own(folder: Path) -> None:
    rows = [{**row, "held_out": number % 2 == 1} for number, row in enumerate([*ANCHORS, *LATER])]
    plan = SeparationPlan(positions=("generation",), layers=(-1,), draws=100)
    record = separate(find_model(str(folder / "model0")), rows, plan, folder / "parts")
    assert {name: part.prompts.safe + part.prompts.harmful for name, part in record.parts.items()} == {
        "test": 28, "held_out": 28,
    }  # fmt: skip
    points = read_json(folder / "parts" / "plane.json")["points"]
    assert [point["held_out"] for point in points] == [False] * 28 + [True] * 28


def test_the_toy_world_has_anchors_in_pairs_of_topics() -> None:
    rows = prompts_of("toy")
    assert sum(row["harmful"] for row in rows) == 128 == len(rows) / 2
    assert {row["cluster"] for row in rows if row["harmful"]} & {row["cluster"] for row in rows if not row["harmful"]}


def clouds_of(shift: float, seed: int) -> np.ndarray:
    states = np.random.default_rng(seed).normal(size=(120, 6))
    states[60:, 0] += shift
    return states


PROMPTS = [{"prompt": str(n), "harmful": n >= 60, "cluster": str(n)} for n in range(120)]


def test_the_worst_is_no_more_than_any_and_reaches_as_low_as_any() -> None:
    states = {name: clouds_of(shift, seed) for seed, (name, shift) in enumerate({"a": 4.0, "b": 3.9, "c": 3.8}.items())}
    found = separation_under_attack(states, PROMPTS, draws=300)
    lone = separation(states["a"][:60], states["a"][60:], draws=10, null_draws=0).bhattacharyya.value
    assert found.worst.value == min(one.value for one in found.by_attack.values())
    assert found.worst.low == min(one.low for one in found.by_attack.values())
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
    def shout(prompt: str) -> Conversation:
        return user_says(prompt.upper())

    def states(texts: Sequence[str], **attacks: Any) -> dict[str, np.ndarray]:
        rows = [{"prompt": text} for text in texts]
        return transformed_states(tiny(), rows, attacks, None, batch_size=8, progress=silent)

    found, other = states(["one", "two"], direct=user_says, shout=shout), states(["ONE", "TWO"], direct=user_says)
    assert np.allclose(found["shout"], other["direct"], atol=1e-5)
    assert not np.allclose(found["shout"], found["direct"], atol=1e-3)


def test_an_opened_answer_is_read_after_each_of_its_words() -> None:
    found = inside_openings({"direct": SINGLE_SHOTS["direct"], "prefill": SINGLE_SHOTS["prefill"]})
    assert [attack("x").prefill for attack in found.values()] == ["", "Sure,", "Sure, here", "Sure, here is"]


def test_the_interval_of_the_worst_holds_the_least_separation() -> None:
    """200 simulations of nine attacks of one separation, 2: estimates and draws have standard deviation .3.

    The least of the draws, where the interval was read before, lies below 2 in nearly all of them.
    """
    noise, covered, by_draws = np.random.default_rng(0), 0, 0
    for _ in range(200):
        values = noise.normal(2.0, 0.3, size=(9, 1))
        table = np.hstack([values, values + noise.normal(0.0, 0.3, size=(9, 400))])
        draws = {**{f"a{number}": row for number, row in enumerate(table)}, "worst": table.min(axis=0)}
        found = summary({**draws, "mean": table.mean(axis=0)}, ANCHORS, "bhattacharyya").worst
        assert found.value == values.min()
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.value <= found.high
        covered += found.low <= 2.0 <= found.high
        by_draws += np.quantile(table.min(axis=0)[1:], 0.975) >= 2.0
    assert covered >= 0.93 * 200
    assert by_draws < 0.1 * 200


def test_another_attack_under_one_name_is_measured_anew() -> None:
    plans = [SeparationPlan(attacks={"mine": attack}) for attack in (user_says, lambda prompt: user_says("Tea?"))]
    first, second = (_identity(plan, ANCHORS) for plan in plans)
    assert first != second
