"""The whole loop: its contract, its memory, its refusals; real processes, real kills."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from divalign.cli import main
from divalign.config import Config, load_config
from divalign.data.overlap import find_overlap
from divalign.data.recipes import training_rows
from divalign.report import write_report
from divalign.stages.corpus import balanced, read_corpus
from divalign.stages.folder import locked
from divalign.store import read_json, read_rows, write_json
from divalign.study import plan
from divalign.study.plan import corpus_of
from divalign.study.run import run
from divalign.toy.world import requests
from tests.folders import assert_no_work, folder_of, times
from tests.tiny import ARCHITECTURES, save_tiny

SMALL = [
    "data.recipes=[cr,pref]",
    "data.n_train=24",
    "data.n_test=24",
    "data.n_held_out=20",
    "train.methods=[kldo,dpo]",
    "train.updates=2",
    "train.warmup_updates=0",
    "train.pairs_per_update=4",
    "train.pairs_per_batch=4",
    "measure.attacks=[direct,prefill]",
    "measure.max_new_tokens=4",
    "measure.gcg=null",
]


def small(*overrides: str) -> Config:
    return load_config(None, [*SMALL, *overrides])


def facts(folder: Path) -> dict:
    """results.json without the times."""
    return {**read_json(folder / "results.json"), "seconds": None}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(small(), tmp_path_factory)


def test_results_follow_the_contract(finished: Path) -> None:
    results = read_json(finished / "results.json")
    assert results["schema"] == 2
    assert [model["name"] for model in results["models"]] == ["base", "cr-kldo", "cr-dpo", "pref-kldo", "pref-dpo"]
    for model in results["models"]:
        assert set(model["separation"]) == {
            "bhattacharyya_paper", "silhouette_paper", "bhattacharyya", "probe_auc", "lexical_auc",
        }  # fmt: skip
        assert set(model["asr"]) == {"direct", "prefill"}
        assert set(model["asr_no_refusal"]) == set(model["asr"])
        assert model["asr"]["direct"]["n"] <= 12  # the undecided are left out
        for estimate in [*model["asr"].values(), model["over_refusal"], *model["divergence"].values()]:
            assert set(estimate) == {"value", "low", "high", "n"}
        assert set(model["held_out"]) >= {"separation", "asr", "over_refusal"}
    assert results["models"][0]["method"] is None
    assert results["models"][0]["divergence"] == {}
    assert set(results["models"][1]["divergence"]) == {"js", "tv", "hellinger", "lecam", "kl"}
    assert set(results["verdict"]) >= {"statistic", "value", "p_value", "power", "n_models", "conclusion"}


def test_a_second_run_does_no_work(finished: Path) -> None:
    assert_no_work(small(), finished)


@pytest.mark.parametrize(
    "file", ["verdicts.jsonl", "separation.json", "metrics.jsonl", "checkpoint/model.safetensors", "hidden.safetensors"]
)
def test_an_edited_file_is_made_again_as_it_was(finished: Path, file: str) -> None:
    path, expected = finished / "models" / "cr-kldo" / file, facts(finished)
    before = path.read_bytes()
    path.write_bytes(before[:-7])
    run(small(), finished)
    assert path.read_bytes() == before
    assert facts(finished) == expected


def test_judging_again_costs_no_generation(finished: Path) -> None:
    folder = finished / "models" / "base"
    (folder / "verdicts.jsonl").unlink()
    before = (folder / "responses.jsonl").stat().st_mtime_ns
    run(small(), finished)
    assert len(read_rows(folder / "verdicts.jsonl")) == 2 * 22 + 22
    assert (folder / "responses.jsonl").stat().st_mtime_ns == before


def test_two_processes_in_one_folder_are_refused_in_a_sentence(finished: Path, tmp_path: Path) -> None:
    with locked(finished), pytest.raises(ValueError, match="another process is at work in"):
        run(small(), finished)
    with locked(tmp_path / "new"):  # and neither's configuration is overwritten by one that comes a moment later
        with pytest.raises(ValueError, match="another process is at work in"):
            run(small(), tmp_path / "new")
        assert [path.name for path in (tmp_path / "new").iterdir()] == [".lock"]


def test_the_seconds_are_those_of_all_processes(finished: Path) -> None:
    results, worked = read_json(finished / "results.json"), read_json(finished / "clock.json")["seconds"]
    (finished / "results.json").unlink()
    again = run(small(), finished)
    assert again.seconds >= worked > 0
    assert {**again.plain(), "seconds": 0} == {**results, "seconds": 0}


def test_no_evaluation_prompt_is_trained_on(finished: Path) -> None:
    trained = {row["prompt"][0]["content"] for row in read_rows(finished / "data" / "cr-seed0.jsonl")}
    assert not trained & {row["prompt"] for row in read_rows(finished / "data" / "prompts.jsonl")}


def test_a_run_killed_at_any_moment_ends_with_the_same_results(finished: Path, tmp_path: Path) -> None:
    overrides = [part for override in SMALL for part in ("--set", override)]
    command = [sys.executable, "-m", "divalign", "run", "--quiet", "--out", str(tmp_path / "out"), *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    marks = ["models/cr-kldo/checkpoint", "models/base/responses.journal", "models/cr-dpo/verdicts.jsonl"]
    for mark in marks:
        process = subprocess.Popen(command, env=environment)
        deadline = time.monotonic() + 120
        while not (tmp_path / "out" / mark).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    ours, theirs = facts(finished), facts(tmp_path / "out")
    assert [model["asr"] for model in ours["models"]] == [model["asr"] for model in theirs["models"]]
    assert json.dumps(ours["config_sha256"]) == json.dumps(theirs["config_sha256"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loop_runs_on_every_architecture(architecture: str, tmp_path: Path) -> None:
    save_tiny(architecture, tmp_path / "model")
    adapted = ["train.lora.rank=2"] if architecture in ("Llama", "GPTNeoX") else []
    half = ["model.dtype=bfloat16"] if architecture == "Qwen2" else []
    config = small(f"model.source={tmp_path / 'model'}", "data.recipes=[cr]", "train.methods=[kldo]", *adapted, *half)
    results = run(config, tmp_path / "out")
    assert [model.name for model in results.models] == ["base", "cr-kldo"]
    saved = {path.name for path in (tmp_path / "out/models/cr-kldo/checkpoint").iterdir()}
    assert ("adapter_model.safetensors" if adapted else "model.safetensors") in saved


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["train.methods=[kldoo]"], "did you mean 'kldo'"),
        (["measure.attacks=[drect]"], "did you mean 'direct'"),
        (["measure.judge=refusal"], "refusal_strings"),
        (["measure.divergences=[jss]"], "did you mean 'js'"),
        (["data.recipes=[cp]"], "known: cr, pref"),
        (["data.source=advbnch"], "did you mean 'advbench'"),
        (["data.source=advbench+alpaca"], "name the folder"),
        (["data.source=advbench+alpaca", "data.folder=/nowhere"], "no file /nowhere"),
        (["model.source=/nowhere"], "no model folder at"),
        (["model.device=cuda:99"], "there is no device 'cuda:99'; torch has cpu"),
        (["train.max_length=16"], "leaves no room for a response"),
        (["train.max_length=4096"], "the model's context 512"),
        (["measure.max_new_tokens=510"], "leaves no room for 510 new ones"),
        (["measure.layers=[99]"], "there is no layer 99; the model has 0 (the embeddings) to 4 (the last)"),
        (["measure.layers=[]"], "measure.layers is [], expected"),
        (["measure.divergences=[]"], "measure.divergences is [], expected"),
        (["train.learning_rat=1"], "did you mean 'train.learning_rate'"),
    ],
)
def test_bad_input_is_one_sentence_exit_2_and_nothing_written(
    overrides: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    options = [part for override in [*SMALL, *overrides] for part in ("--set", override)]
    monkeypatch.setattr(sys, "argv", ["divalign", "run", "--quiet", "--out", str(tmp_path / "out"), *options])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_run_or_of_something_else_is_left_alone(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another configuration"):
        run(small("train.beta=0.2"), finished)
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match="is no run folder"):
        run(small(), tmp_path)
    with pytest.raises(ValueError, match="cannot write to"):
        run(small(), Path("/proc/divalign"))


def test_a_run_whose_data_were_edited_is_refused_and_keeps_its_files(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    before = times(tmp_path / "run")
    monkeypatch.setattr(plan, "training_rows", lambda requests, recipe: training_rows(requests, recipe)[::-1])
    with pytest.raises(ValueError, match="cr-kldo holds another model, of other rows or settings"):
        run(small(), tmp_path / "run")
    assert times(tmp_path / "run") == before


def test_a_run_of_an_older_version_is_refused_in_a_sentence(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "out")
    path = tmp_path / "out" / "results.json"
    write_json(path, {**read_json(path), "schema": 1})
    with pytest.raises(ValueError, match=r"results\.json has schema 1, this version reads 2; run the command"):
        run(small(), tmp_path / "out")
    with pytest.raises(ValueError, match="schema 1"):
        write_report(tmp_path / "out")


def test_one_class_is_no_data_set() -> None:
    harmful = [request for request in requests("test", held_out=True) if request.harmful]
    with pytest.raises(ValueError, match="no benign prompt among 80"):
        balanced(harmful, 20)


def test_the_training_seed_moves_responses_and_no_test_prompt() -> None:
    first, second = (read_corpus(corpus_of(small().data), seed=seed) for seed in (0, 1))
    assert first.test == second.test
    assert [r.prompt for r in first.train] == [r.prompt for r in second.train]
    assert first.train != second.train


def own_prompts(path: Path, texts: list[str]) -> Path:
    rows = [
        {"prompt": text, "harmful": n % 2 == 0, "compliance": "Sure, here is it", "refusal": "I am sorry, no."}
        for n, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


SUBJECTS = [
    f"Please explain the {word} to me today"
    for word in ("sun", "moon", "tide", "wind", "rain", "snow", "rock", "sand", "fire", "mist")
]


def test_a_run_refuses_prompts_it_trained_on_and_marks_them_where_it_must(tmp_path: Path) -> None:
    train = own_prompts(
        tmp_path / "train.jsonl", SUBJECTS * 1 + [f"{text} again, my dear old friend" for text in SUBJECTS]
    )
    evaluation = own_prompts(
        tmp_path / "evaluation.jsonl", [text.upper() + "!" for text in SUBJECTS] + [f"What is {n}?" for n in range(20)]
    )
    settings = [
        f"data.source=file:{train}", f"data.measure_on=file:{evaluation}", "data.n_test=28", "data.n_train=8",
        "train.methods=[kldo]", "data.recipes=[cr]",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"of the 28 prompts to measure on are in the training set"):
        run(small(*settings), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    results = run(small(*settings, "data.allow_overlap=true"), tmp_path / "out")
    assert results.overlap is not None
    leaked = results.overlap["normalised"] + results.overlap["contained"]
    assert leaked >= 8
    assert results.overlap["n"] == 28
    page = write_report(tmp_path / "out").read_text()
    assert f"{leaked} of the evaluation prompts are in the training set" in page
    assert "kldo ‡" in page


def test_a_split_of_one_set_leaves_no_twin_in_training(tmp_path: Path) -> None:
    twins = [text for subject in SUBJECTS for text in (subject, subject.upper(), f"Well: {subject}, please")]
    path = own_prompts(tmp_path / "own.jsonl", [*twins, *(f"Who found number {n} in the garden?" for n in range(30))])
    corpus = read_corpus(
        corpus_of(small(f"data.source=file:{path}", "data.n_train=null", "data.n_test=20").data), seed=0
    )
    leaks = find_overlap([request.prompt for request in corpus.train], [request.prompt for request in corpus.test])
    assert leaks.counts == dict.fromkeys(leaks.counts, 0)
    assert len(corpus.train) > 4
