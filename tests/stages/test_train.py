"""`divalign train` by real processes: one, two, and one that is killed and started again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from divalign.cli import main
from divalign.data.recipes import RECIPES
from divalign.stages import train as module
from divalign.stages.folder import silent
from divalign.stages.models import LoadOptions, ModelSpec, find_model, model_spec
from divalign.stages.train import _spec
from divalign.stages.train_plan import TrainPlan
from divalign.store import read_rows, write_rows
from divalign.toy.world import requests

SMALL = ["--set", "train.pairs_per_update=8", "--set", "train.pairs_per_batch=8", "--set", "train.log_every=1"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}


def command(out: Path, rows: Path, updates: int, *, processes: int = 1) -> list[str]:
    many = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    told = ["train", "--out", str(out), "--rows", str(rows), "--quiet", *SMALL, "--set", f"train.updates={updates}"]
    return [sys.executable, "-W", "ignore", *many, "-m", "divalign", *told]


def weights(out: Path, folder: str = "checkpoint") -> dict:
    return load_file(out / folder / "model.safetensors")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_rows(path, [RECIPES["cr"](request) for request in requests("train", held_out=False)[:64]])
    return path


@pytest.mark.long
def test_two_processes_train_the_model_that_one_trains(tmp_path: Path, rows: Path) -> None:
    for processes in (1, 2):
        done = subprocess.run(
            command(tmp_path / str(processes), rows, 3, processes=processes),
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (weights(tmp_path / str(processes)) for processes in (1, 2))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4
    assert any(not one[name].equal(two[name]) for name in one)  # sums in another order: two processes did run
    losses = [[row["loss"] for row in read_rows(tmp_path / str(n) / "metrics.jsonl")] for n in (1, 2)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(tmp_path: Path, rows: Path) -> None:
    subprocess.run(command(tmp_path / "whole", rows, 20), env=ENVIRONMENT, check=True)
    killed = subprocess.Popen(command(tmp_path / "killed", rows, 20), env=ENVIRONMENT)
    until = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("work/checkpoint-*/trainer_state.json")) and time.monotonic() < until:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "checkpoint").exists()
    subprocess.run(command(tmp_path / "killed", rows, 20), env=ENVIRONMENT, check=True)
    one, two = (weights(tmp_path / name) for name in ("whole", "killed"))
    assert all(one[name].equal(two[name]) for name in one)
    assert not list(tmp_path.glob("*/checkpoint/*.bin"))


def test_a_training_stopped_while_it_writes_its_result_is_finished_by_the_next(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    plan = TrainPlan("kldo", updates=3, pairs_per_update=8, pairs_per_batch=8, learning_rate=4e-4, log_every=1)

    def train() -> None:
        module.train(model_spec("toy"), read_rows(rows), plan, tmp_path, progress=silent)

    monkeypatch.setattr(module, "publish_folder", stop)
    with pytest.raises(KeyboardInterrupt):
        train()
    monkeypatch.undo()
    assert not (tmp_path / "checkpoint").exists()
    stopped = weights(tmp_path, ".checkpoint.draft")
    train()
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    names = {path.name for path in tmp_path.iterdir() if path.name[0] != "."}
    assert names == {"checkpoint", "metrics.jsonl", "model.json", "training.json"}
    assert all(value.equal(stopped[name]) for name, value in weights(tmp_path).items())
    before = (tmp_path / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    train()
    assert (tmp_path / "checkpoint" / "model.safetensors").stat().st_mtime_ns == before
    float32 = LoadOptions(dtype="float32")
    assert find_model(str(tmp_path)).key == find_model(str(tmp_path / "checkpoint"), float32).key
    other = TrainPlan("bco", updates=3, pairs_per_update=8, pairs_per_batch=8)
    with pytest.raises(ValueError, match="holds another model, of other rows or settings"):
        module.train(model_spec("toy"), read_rows(rows), other, tmp_path, progress=silent)


@pytest.mark.parametrize(
    ("method", "paired", "sizes"),
    [("dpo", True, [12, 6, 3, 1]), ("kto", False, [12, 6, 2]), ("csft", True, [12, 6, 2])],
)
def test_forwards_that_do_not_fit_are_halved_and_of_unpaired_rows_stay_even(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, paired: bool, sizes: list[int]
) -> None:
    tried: list[int] = []

    def too_large(base: object, rows: object, plan: TrainPlan, *rest: object) -> None:
        tried.append(plan.pairs_per_batch)
        raise torch.OutOfMemoryError("out of memory")

    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    rows = [pair] if paired else [{"prompt": "a", "completion": "b", "label": True}]
    monkeypatch.setattr(module, "_train_once", too_large)
    plan = TrainPlan(method, updates=1, pairs_per_update=12, pairs_per_batch=12)
    with pytest.raises(MemoryError, match=f"out of memory with {sizes[-1]} pairs"):
        module.train(model_spec("toy"), rows, plan, tmp_path, progress=silent)
    assert tried == sizes


def test_bad_input_is_refused_in_a_sentence(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        (["--out", str(tmp_path / "a"), "--rows", str(rows), "--method", "kdlo"], "did you mean 'kldo'"),
        (["--out", str(tmp_path / "a"), "--recipe", "crr"], "known: cr"),
        (["--out", str(tmp_path / "a"), "--rows", "nowhere.jsonl"], "no file at nowhere.jsonl"),
    ]
    for arguments, sentence in cases:
        monkeypatch.setattr(sys, "argv", ["divalign", "train", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_control_text_is_in_the_template_that_a_base_s_own_would_replace(tmp_path: Path) -> None:
    base = ModelSpec("base", "base", chat_template="plain")
    templates = {method: _spec(base, tmp_path, "mine", method).chat_template for method in ("dpo", "csft")}
    assert templates == {"dpo": "plain", "csft": None}


def test_the_paper_s_code_depends_on_the_split_and_its_key_does(tmp_path: Path) -> None:
    keys = {
        variant: [TrainPlan("kldo", variant=variant, pairs_per_batch=size).identity() for size in (32, 8)]
        for variant in ("paper", "paper_code")
    }
    assert keys["paper"][0] == keys["paper"][1]
    assert keys["paper_code"][0] != keys["paper_code"][1]
