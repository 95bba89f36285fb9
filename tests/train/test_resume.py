"""A stopped training goes on from a whole checkpoint of its own, or says why not."""

import contextlib
import json
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytest
import torch

from divalign.lm.load import load_lm
from divalign.train.resume import BY_FSDP, WHOLE, by_deepspeed, newest_checkpoint, seal_checkpoint
from divalign.train.run import Watch, train_and_save
from tests.security.test_no_code import Command
from tests.tiny import save_tiny

PAIRS = [{"prompt": f"Say {i}", "chosen": f" yes {i}" * (1 + i % 3), "rejected": f" no {i}"} for i in range(8)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny("Llama", tmp_path_factory.mktemp("tiny") / "model"))


def train(model: str, out: Path, *, stop: int = 99, rows: Any = PAIRS, **changes: Any) -> list[int]:
    """Train six updates with a checkpoint after each, break off before update `stop`; return the updates done."""
    done: list[int] = []

    def advance(count: int) -> None:
        done.append(count)
        if sum(done) >= stop:
            raise KeyboardInterrupt

    settings = {"method": "kldo", "seed": 0, "max_steps": 6, "per_device_train_batch_size": 4, **changes}
    with contextlib.suppress(KeyboardInterrupt):
        watch = Watch(advance=advance)
        train_and_save(load_lm(model), rows, out / "model", work=out / "work", watch=watch, use_cpu=True, **settings)
    return done


@pytest.fixture(scope="module")
def stopped(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stopped")
    train(model, out, stop=4)
    assert [folder.name for folder in (out / "work").glob("checkpoint-*")] == ["checkpoint-3"]
    return out


@pytest.fixture
def out(stopped: Path, tmp_path: Path) -> Path:
    shutil.copytree(stopped, tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "dpo", "seed": 5}, "with method kldo, seed 0, and this one has method dpo, seed 5; go on with"),
        ({"beta": 0.2}, "beta null, and this one has beta 0.2"),
        ({"rows": PAIRS[:6]}, "stopped training with rows "),
        ({"lora": {"rank": 2, "alpha": 4}}, "lora null"),
    ],
)
def test_a_stopped_training_with_other_settings_is_refused_and_named(
    model: str, out: Path, changes: dict, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        train(model, out, **changes)
    assert (out / "work" / "checkpoint-3").is_dir()


def test_another_model_is_refused(out: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stopped training with model "):
        train(str(save_tiny("Llama", tmp_path / "other", seed=1)), out)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_a_pickle_in_a_checkpoint_runs_nothing(model: str, out: Path, tmp_path: Path, name: str) -> None:
    canary = tmp_path / "the checkpoint ran a command"
    assert (out / "work" / "checkpoint-3" / name).is_file()
    torch.save(Command(canary), out / "work" / "checkpoint-3" / name)
    with contextlib.suppress(UnpicklingError):  # of the optimizer's state, and of all that torch reads
        train(model, out)
    assert not canary.exists()


def test_checkpoints_of_unknown_origin_are_refused(model: str, out: Path) -> None:
    (out / "work" / "training.json").unlink()
    with pytest.raises(ValueError, match="stopped training with"):
        train(model, out)


def test_the_same_training_goes_on_also_when_split_otherwise(model: str, out: Path) -> None:
    done = train(model, out, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert done == [3, 1, 1, 1]
    assert json.loads((out / "model" / "training.json").read_text())["method"] == "kldo"


@pytest.mark.parametrize("missing", ["trainer_state.json", "model.safetensors"])
def test_a_checkpoint_whose_saving_was_cut_short_is_passed_over_and_deleted(
    model: str, out: Path, missing: str
) -> None:
    torn = out / "work" / "checkpoint-4"
    shutil.copytree(out / "work" / "checkpoint-3", torn)
    state = json.loads((torn / "trainer_state.json").read_text())
    (torn / "trainer_state.json").write_text(json.dumps({**state, "global_step": 4}))
    (torn / missing).unlink()
    assert train(model, out, stop=3) == [3]
    assert not torn.exists()


def test_a_torn_or_edited_file_is_no_checkpoint(tmp_path: Path, out: Path) -> None:
    settings = json.loads((out / "work" / "training.json").read_text())
    for name in ("trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "checksums.json"):
        for number, change in enumerate((lambda old: old[:-9], lambda old: old[:-9] + b"edited!!!")):
            work = tmp_path / f"{name}{number}"
            shutil.copytree(out / "work", work)
            path = work / "checkpoint-3" / name
            path.write_bytes(change(path.read_bytes()))
            assert newest_checkpoint(work, settings) is None
            assert not (work / "checkpoint-3").exists()


def test_an_older_checkpoint_goes_only_once_the_newer_one_is_sealed(out: Path) -> None:
    older, newer = (out / "work" / f"checkpoint-{step}" for step in (3, 4))
    shutil.copytree(older, newer)
    state = json.loads((newer / "trainer_state.json").read_text())
    (newer / "trainer_state.json").write_text(json.dumps({**state, "global_step": 4}))
    settings = json.loads((out / "work" / "training.json").read_text())
    seal_checkpoint(newer)
    assert not older.exists()
    assert newest_checkpoint(out / "work", settings) == str(newer)


def test_weights_in_one_layout_are_not_resumed_in_another(out: Path) -> None:
    checkpoint = out / "work" / "checkpoint-3"
    settings = json.loads((out / "work" / "training.json").read_text())
    with pytest.raises(ValueError, match="has whole weights, and this training reads weights sharded by FSDP"):
        newest_checkpoint(out / "work", settings, layout=BY_FSDP)
    (checkpoint / "pytorch_model_fsdp_0").mkdir()
    with pytest.raises(ValueError, match="launch it with the same kind of accelerate configuration"):
        newest_checkpoint(out / "work", settings)
    (checkpoint / "pytorch_model_fsdp_0").rmdir()
    (checkpoint / "global_step3").mkdir()
    for rank in range(2):
        (checkpoint / "global_step3" / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    seal_checkpoint(checkpoint)
    assert newest_checkpoint(out / "work", settings, layout=by_deepspeed(2)) == str(checkpoint)
    for layout in (WHOLE, by_deepspeed(4)):
        with pytest.raises(ValueError, match=f"has weights of DeepSpeed on 2 processes, .* reads {layout}"):
            newest_checkpoint(out / "work", settings, layout=layout)


def test_without_a_checkpoint_any_training_may_start(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path, {"seed": 1}) is None
    assert newest_checkpoint(tmp_path, {"seed": 2}) is None
