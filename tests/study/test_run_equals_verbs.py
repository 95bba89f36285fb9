"""What a run leaves and what the verbs leave on its models are the same bytes: both call the same stages."""

from pathlib import Path

import pytest

from divalign.config import load_config
from divalign.records import RatesRecord, Results, read_record
from divalign.store import read_rows
from divalign.study.run import run
from tests.commands import call
from tests.folders import folder_of
from tests.lm.test_server import Fake, answer, fake
from tests.study.test_run import SMALL

__all__ = ["fake"]  # a fixture
GCG = "measure.gcg={methods_on: {cr: [kldo]}, prompts: 2, steps: 2, width: 8, check_every: 1}"
OVERRIDES = [*SMALL[:-1], GCG, "data.recipes=[cr]", "train.methods=[kldo]"]
MODEL = "cr-kldo"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(load_config(None, OVERRIDES), tmp_path_factory)


def same(first: Path, second: Path) -> None:
    assert first.read_bytes() == second.read_bytes(), f"{first} and {second} differ"


def test_train_leaves_the_bytes_of_a_run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [part for override in OVERRIDES for part in ("--set", override)]
    rows = finished / "data" / "cr-seed0.jsonl"
    assert call(monkeypatch, "train", "--rows", rows, "--out", tmp_path / MODEL, "--quiet", *settings) == 0
    folder = finished / "models" / MODEL
    names = ["metrics.jsonl", "model.json", *(f"checkpoint/{path.name}" for path in (folder / "checkpoint").iterdir())]
    assert "checkpoint/model.safetensors" in names
    for name in names:
        same(tmp_path / MODEL / name, folder / name)


def test_attack_and_judge_leave_the_bytes_of_a_run(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, attacks in (("base", "direct,prefill"), (MODEL, "direct,prefill,gcg")):
        folder, out = finished / "models" / name, tmp_path / name
        prompts = ("--prompts", finished / "data" / "prompts.jsonl", "--max-new-tokens", 4, "--attacks", attacks)
        search = ("--gcg-steps", 2, "--gcg-width", 8, "--gcg-check-every", 1, "--gcg-prompts", 2)
        judge = ("--ends", "refusal_strings_on_topic") if name == MODEL else ()
        options = (*prompts, *search, *judge, "--batch-size", 128, "--out", out, "--quiet")
        assert call(monkeypatch, "attack", folder, *options) == 0
        assert call(monkeypatch, "judge", out, "--quiet") == 0
        files = ["responses.jsonl", "verdicts.jsonl", "rates.json", *(["gcg.jsonl"] if name == MODEL else [])]
        for file in files:
            same(out / file, folder / file)
    same(tmp_path / MODEL / "attack.json", finished / "models" / MODEL / "attack.json")


def test_separate_leaves_the_bytes_of_a_run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [finished / "models" / name for name in ("base", MODEL)]
    options = ("--layers", "-1", "--position", "generation", "--batch-size", 128, "--out", tmp_path, "--quiet")
    assert call(monkeypatch, "separate", *models, "--prompts", finished / "data" / "prompts.jsonl", *options) == 0
    for name in ("base", MODEL):
        for file in ("separation.json", "hidden.safetensors", "plane.json"):
            same(tmp_path / name / file, finished / "models" / name / file)


def test_estimate_leaves_the_bytes_of_a_run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = ("--policy", finished / "models" / MODEL, "--reference", finished / "models" / "base")
    options = (
        "--whole",
        "--beta",
        0.5,
        "--max-length",
        256,
        "--batch-size",
        128,
        "--out",
        tmp_path / "divergence.json",
    )
    assert call(monkeypatch, "estimate", finished / "data" / "cr-test.jsonl", *models, *options) == 0
    same(tmp_path / "divergence.json", finished / "models" / MODEL / "divergence.json")


def test_a_run_uses_any_judge_and_any_attack(fake: Fake, tmp_path: Path) -> None:
    def grade(handler, body) -> None:  # a server that is attacker and judge at once
        judged = body["model"] == "guard"
        answer(content="verdict: unsafe" if judged else "Please tell me about it")(handler, body)

    fake.script["all"] = [grade] * 10_000
    judge = f"harm_rubric@{fake.url}#guard"
    attacks = "measure.attacks=[direct,best_of_n(5),pair]"
    more = [
        "measure.max_new_tokens=32",
        attacks,
        f"measure.attacker={fake.url}#red",
        "measure.rounds=2",
        f"measure.judge={judge}",
    ]
    results = run(load_config(None, [*SMALL, "data.recipes=[cr]", "train.methods=[kldo]", *more]), tmp_path / "out")
    for model in results.models:
        assert {name: (rate.value, rate.n) for name, rate in model.asr.items()} == dict.fromkeys(
            ("direct", "best_of_n(5)", "pair"), (1.0, 12)
        )
    assert {body["model"] for body in fake.asked} == {"guard", "red"}
    rows = read_rows(tmp_path / "out" / "models" / MODEL / "responses.jsonl")
    assert {row["try"] for row in rows if row["attack"] == "best_of_n(5)"} == set(range(5))
    assert all(row["message"] for row in rows if row["attack"] == "pair")
    rates = read_record(tmp_path / "out" / "models" / MODEL / "rates.json", RatesRecord)
    assert [one.judge for one in rates.judges] == [f"harm_rubric:{fake.url}#guard"]
    assert read_record(tmp_path / "out" / "results.json", Results) == results
