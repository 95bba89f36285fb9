"""Suffix searches inside a run: what they leave, that they are found again, that others are not charged for them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from divalign.cli import main
from divalign.config import Config, load_config
from divalign.core.stats import rate
from divalign.data.examples import Request
from divalign.report import write_report
from divalign.stages.corpus import Corpus, prompt_rows, read_corpus
from divalign.store import read_json, read_rows
from divalign.study.plan import corpus_of
from divalign.study.run import run
from divalign.study.sweep import sweep
from divalign.study.sweep_config import Sweep
from tests.folders import assert_no_work, folder_of
from tests.tiny import save_tiny

SMALL = [
    "data.recipes=[cr]",
    "data.n_train=24",
    "data.n_test=24",
    "data.n_held_out=20",
    "train.methods=[kldo,dpo]",
    "train.updates=1",
    "train.warmup_updates=0",
    "train.pairs_per_update=4",
    "train.pairs_per_batch=4",
    "measure.attacks=[direct]",
    "measure.max_new_tokens=4",
    "measure.divergences=[js]",
]
SEARCH = "measure.gcg={methods_on: {cr: [kldo]}, prompts: 3, steps: 3, width: 8, check_every: 2}"
FILES = ("gcg.jsonl", "responses.jsonl", "verdicts.jsonl", "rates.json")


def small(*overrides: str, search: str = SEARCH) -> Config:
    return load_config(None, [*SMALL, search, *overrides])


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "models" / "cr-kldo" / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(small(), tmp_path_factory)


def test_the_searched_model_has_two_attacks_more_with_their_own_n_and_the_others_do_not(finished: Path) -> None:
    entries = {model["name"]: model for model in read_json(finished / "results.json")["models"]}
    assert {name: set(entry["asr"]) for name, entry in entries.items()} == {
        "base": {"direct"}, "cr-kldo": {"direct", "gcg", "gcg_start"}, "cr-dpo": {"direct"},
    }  # fmt: skip
    assert entries["cr-kldo"]["asr"]["direct"]["n"] <= 12
    rows = read_rows(finished / "models" / "cr-kldo" / "verdicts.jsonl")
    for name in ("gcg", "gcg_start"):
        unsafe = [row["unsafe"] for row in rows if row["attack"] == name]
        assert len(unsafe) == 3
        assert entries["cr-kldo"]["asr"][name] == json.loads(json.dumps(rate(unsafe)._asdict()))
    assert set(entries["cr-kldo"]["held_out"]["asr"]) == {"direct"}


def test_losses_never_rise_and_no_suffix_leaves_its_checkpoint(finished: Path) -> None:
    folder = finished / "models" / "cr-kldo"
    searches = read_rows(folder / "gcg.jsonl")
    assert [row["id"] for row in searches] == [
        row["id"] for row in prompt_rows(read_corpus(corpus_of(small().data), seed=0)) if row["harmful"]
    ][:3]
    for row in searches:
        assert row["losses"] == sorted(row["losses"], reverse=True)
        assert len(row["losses"]) == row["steps"] + 1 <= 4
    targets = [row["target"] for row in read_rows(finished / "data" / "prompts.jsonl") if "target" in row]
    assert len(targets) == 12
    assert all(target.startswith(("Sure", "Of course", "Certainly", "Yes")) for target in targets)
    assert {name for row in read_rows(folder / "verdicts.jsonl") for name in row} >= {"steps", "unsafe"}
    assert not {"target", "losses", "suffix"} & {k for row in read_rows(folder / "responses.jsonl") for k in row}
    assert len(list((folder / "gcg").glob("*.json"))) == 3


def test_the_verdict_weighs_only_attacks_that_every_model_met(finished: Path, tmp_path: Path) -> None:
    plain = run(small(search="measure.gcg=null"), tmp_path / "plain")
    assert "gcg" not in (tmp_path / "plain" / "config.yaml").read_text()
    assert plain.verdict.plain() == read_json(finished / "results.json")["verdict"]


def test_a_second_run_does_no_work(finished: Path) -> None:
    assert_no_work(small(), finished)


@pytest.mark.parametrize("file", FILES)
def test_an_edited_file_is_made_again_as_it_was(finished: Path, file: str) -> None:
    path, expected = finished / "models" / "cr-kldo" / file, contents(finished)
    path.write_bytes(path.read_bytes()[:-9])
    run(small(), finished)
    assert contents(finished) == expected


def test_a_search_killed_at_any_moment_ends_with_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    overrides = [part for override in [*SMALL, SEARCH] for part in ("--set", override)]
    command = [sys.executable, "-m", "divalign", "run", "--quiet", "--out", str(tmp_path / "out"), *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    states = tmp_path / "out" / "models" / "cr-kldo" / "gcg"
    for enough in (1, 3):  # in the first search, and in the last
        process = subprocess.Popen(command, env=environment)
        deadline = time.monotonic() + 120
        while len(list(states.glob("*.json"))) < enough and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (states.parent / "verdicts.jsonl").exists()
    before = {path.name: path.stat().st_mtime_ns for path in states.glob("*.json")}
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    assert contents(tmp_path / "out") == contents(finished)
    after = {path.name: path.stat().st_mtime_ns for path in states.glob("*.json")}
    assert sum(before[name] == after[name] for name in before) >= 2  # finished searches were not done again


def test_the_report_draws_the_searched_model_and_says_that_others_were_not_measured(finished: Path) -> None:
    page = write_report(finished).read_text()
    assert "ASR, gcg start" in page
    assert "not measured" in page
    assert "mean of 3 prompts" in page
    assert "! ! !" not in page


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("measure.gcg.methods_on={cp: [kldo]}", "known: cr, pref"),
        ("measure.gcg.methods_on={cr: [kldoo]}", "did you mean 'kldo'"),
        ("measure.gcg.ends=refusal_string", "did you mean 'refusal_strings'"),
        ("measure.gcg.widht=3", "did you mean 'measure.gcg.width'"),
        ("measure.gcg.prompts=0", "greater than or equal to 1"),
        ("measure.max_new_tokens=440", "with a suffix is"),
    ],
)
def test_what_cannot_be_searched_is_one_sentence_exit_2_and_nothing_written(
    override: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny("Llama", tmp_path / "model")
    overrides = [*SMALL, SEARCH, f"model.source={tmp_path / 'model'}", "measure.attacks=[direct]", override]
    options = [part for entry in overrides for part in ("--set", entry)]
    monkeypatch.setattr(sys, "argv", ["divalign", "run", "--quiet", "--out", str(tmp_path / "out"), *options])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_sweep_refuses_attacks_on_some_models_only(tmp_path: Path) -> None:
    plan = Sweep.model_validate({"run": {"measure": {"gcg": {}}}, "grid": {"length": {"one": {"train.updates": 1}}}})
    with pytest.raises(ValueError, match=r"leave measure\.gcg out"):
        sweep(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("compliance", "opening"),
    [
        ("Certainly. This is a plan for it. Begin.", "Certainly. This is a plan for it."),
        ("Sure, here is a short guide to it. Begin.", "Sure, here is a short guide to it."),
        ("Sure, here is how", "Sure, here is how"),
    ],
)
def test_an_opening_is_as_few_sentences_as_name_the_topic(compliance: str, opening: str) -> None:
    harmful = Request("a", True, compliance, "no", "", "c")
    corpus = Corpus([], [harmful._replace(harmful=False), harmful], [harmful])
    assert [row.get("target") for row in prompt_rows(corpus)] == [None, opening, None]
