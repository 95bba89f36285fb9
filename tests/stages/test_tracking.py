"""Trackers get the log, separation and attack success, and change nothing of what is trained."""

import json
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers.integrations.integration_utils import WandbCallback

from divalign.config import load_config
from divalign.data.recipes import RECIPES
from divalign.stages.folder import silent
from divalign.stages.models import base_spec, open_model
from divalign.stages.tracking import TrackingPlan, check_trackers, tracking_of, with_probes
from divalign.stages.train import train
from divalign.store import read_json, read_rows
from divalign.study.claim import claim, untracked
from divalign.study.plan import train_plan
from divalign.toy.world import requests
from divalign.train.not_finite import NotFiniteError
from divalign.train.run import StoppedError, _tracked
from divalign.train.tracking import Tracking
from divalign.train.trainer import DivergenceTrainer
from tests.stages.tracked import PLAN, probes
from tests.zygote import Zygote

SAFETY = {"attack_success", "bhattacharyya", "probe_auc", "refusal_log_odds", "alarm"}
REMOTE = [
    pytest.param(name, marks=pytest.mark.skipif(find_spec(name) is None, reason=f"needs {name}: pip install {name}"))
    for name in ("wandb", "trackio", "mlflow")
]


def weights(folder: Path) -> bytes:
    return (folder / "checkpoint" / "model.safetensors").read_bytes()


def test_a_tracker_gets_the_log_and_what_the_probes_show_and_the_weights_stay_the_same(tmp_path: Path) -> None:
    rows = [RECIPES["cr"](request) for request in requests("train", held_out=False)][:64]
    tracked = replace(PLAN, tracking=with_probes(TrackingPlan(("tensorboard",)), probes(12)))
    for name, plan in (("plain", PLAN), ("tracked", tracked)):
        train(base_spec("toy"), rows, plan, tmp_path / name, progress=silent)
    assert weights(tmp_path / "plain") == weights(tmp_path / "tracked")
    assert (tmp_path / "plain" / "metrics.jsonl").read_bytes() == (tmp_path / "tracked" / "metrics.jsonl").read_bytes()
    assert not (tmp_path / "plain" / "tracking").exists()
    events = EventAccumulator(str(tmp_path / "tracked" / "tracking"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/loss", "train/rewards/margins"} <= tags
    assert {f"train/safety/{name}" for name in SAFETY} <= tags
    success = [event.value for event in events.Scalars("train/safety/attack_success")]
    assert len(success) == 5  # before the first update and after each
    assert success[0] == 1.0  # the base answers everything
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 4]


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


@pytest.fixture(scope="module")
def tracked(request: pytest.FixtureRequest, zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of three trainings that report to the tracker, and what its own reader then has of them."""
    folder = tmp_path_factory.mktemp(request.param)
    for function in ("train_all", "read_all"):
        job = {"call": f"tests.stages.tracked:{function}", "arguments": [str(folder), request.param]}
        (end,) = zygote.together([{**job, "log": str(folder / "log")}])
        assert end.code == 0, (folder / "log").read_text()[-3000:]
    return folder


def runs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what the tracker has of each training, by its folder's path."""
    return {str(Path(run["output_dir"]).parent.relative_to(folder)): run for run in read_json(folder / "runs.json")}


@pytest.mark.parametrize("tracked", REMOTE, indirect=True)
def test_a_tracker_of_others_gets_the_same_numbers_at_the_same_updates(tracked: Path) -> None:
    prefix = "" if tracked.name.startswith("mlflow") else "train/"
    for name in ("first/mine", "second/mine"):
        metrics = runs(tracked)[name]["metrics"]
        log = [row for row in read_rows(tracked / name / "metrics.jsonl") if "loss" in row]
        assert [row["step"] for row in log] == [1, 2, 4]
        for key in ("loss", "divergence/ess", "rewards/margins"):
            assert metrics[prefix + key] == pytest.approx({str(row["step"]): row[key] for row in log}, rel=1e-6)
        for key in SAFETY:
            assert list(metrics[f"{prefix}safety/{key}"]) == ["0", "1", "2", "3", "4"]
        assert metrics[f"{prefix}safety/attack_success"]["0"] == 1.0  # the base answers everything
        assert all(map(math.isfinite, metrics[f"{prefix}safety/bhattacharyya"].values()))
        assert not [key for key in metrics if key.startswith("eval")]


@pytest.mark.parametrize("tracked", REMOTE, indirect=True)
def test_every_training_is_a_run_of_its_own_and_ends_as_the_training_did(tracked: Path) -> None:
    entries = runs(tracked)
    assert set(entries) == {"first/mine", "second/mine", "failed"}
    assert len({run["name"] for run in entries.values()}) == 3
    assert entries["first/mine"]["name"].startswith("mine")
    assert json.loads((tracked / "open.json").read_text()) == [False, False, False]
    if not tracked.name.startswith("trackio"):  # which keeps no such state
        assert [run["state"] for run in entries.values()] == ["finished", "finished", "failed"]


class FakeWandb:
    """A stand-in for wandb's package, which notes how its run ends."""

    def __init__(self, run: str | None) -> None:
        self.run, self.ends = run, []

    def finish(self, exit_code: int) -> None:
        self.run = None
        self.ends.append(exit_code)


class FakeTrainer(DivergenceTrainer):
    """A trainer of nothing, which notes the callbacks that are removed."""

    def __init__(self) -> None:
        self.removed: list[Any] = []

    def remove_callback(self, callback: Any) -> None:
        self.removed.append(callback)


@pytest.mark.parametrize(
    ("before", "error", "ends"),
    [
        (None, None, [0]),
        (None, NotFiniteError("the loss is nan"), [1]),
        (None, StoppedError("after update 1 of 4"), [0]),  # the same command resumes it
        ("the user's", None, []),
        ("the user's", NotFiniteError("the loss is nan"), []),
    ],
)
def test_a_run_ends_with_its_training_unless_it_was_open_before(
    before: str | None, error: Exception | None, ends: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wandb, trainer = FakeWandb(before), FakeTrainer()
    monkeypatch.setattr("divalign.train.tracking.import_module", lambda name: wandb)
    with suppress(NotFiniteError, StoppedError), _tracked(trainer, Tracking(("wandb",), tmp_path, "mine")):
        wandb.run = before or "of the training"
        if error:
            raise error
    assert wandb.ends == ends
    assert trainer.removed == [WandbCallback]


def test_the_last_evaluation_reaches_tensorboard(tmp_path: Path) -> None:
    rows = [RECIPES["cr"](request) for request in requests("train", held_out=False)][:64]
    held_out = [{**row, "harmful": True} for row in rows[48:]]  # of one class: no probes
    tracked = replace(PLAN, tracking=with_probes(TrackingPlan(("tensorboard",)), held_out))
    train(base_spec("toy"), rows[:48], tracked, tmp_path / "x", held_out=held_out, progress=silent)
    events = EventAccumulator(str(tmp_path / "x" / "tracking"))
    events.Reload()
    assert "eval/loss" in events.Tags()["scalars"]
    assert not (tmp_path / "x" / "work").exists()


def test_a_run_may_go_on_with_other_trackers(tmp_path: Path) -> None:
    plain, tracked = load_config(None), load_config(None, ["train.report_to=[tensorboard]"])
    claim(tmp_path, plain)
    claim(tmp_path, tracked)
    assert untracked(tracked) == untracked(plain) == (tmp_path / "config.yaml").read_text()
    with pytest.raises(ValueError, match="another configuration"):
        claim(tmp_path, load_config(None, ["train.beta=0.7", "train.report_to=[tensorboard]"]))


def test_a_probe_that_the_model_cannot_read_ends_no_training(tmp_path: Path) -> None:
    rows = [*probes(4), {"chosen": "a", "rejected": "b", "harmful": True}]
    plan = with_probes(TrackingPlan(("tensorboard",)), rows)
    assert plan is not None
    assert len(plan.probes) == 8
    long = {"prompt": "x " * 5000, "harmful": True}
    tracking = tracking_of(replace(plan, probes=(*plan.probes, long)), tmp_path, probe=True)
    assert tracking is not None
    assert tracking.monitor is not None
    assert tracking.monitor.attack_success is not None
    lm = open_model(base_spec("toy")).lm()
    assert tracking.monitor.attack_success(lm.model, lm.tokenizer) == 1.0


def test_a_plan_with_trackers_trains_the_same_model() -> None:
    tracked = replace(PLAN, tracking=TrackingPlan(("tensorboard",), tuple(probes(2))))
    assert tracked.identity() == PLAN.identity()
    config = load_config(None, ["train.report_to=[tensorboard]"])
    plan = train_plan(config, method="kldo", recipe="cr", seed=0)
    assert plan.tracking == TrackingPlan(("tensorboard",))
    assert plan.identity() == train_plan(load_config(None), method="kldo", recipe="cr", seed=0).identity()


def test_without_probes_of_both_classes_or_on_several_processes_the_log_alone_is_sent(tmp_path: Path) -> None:
    rows = probes(4)
    both, harmful = TrackingPlan(("tensorboard",), tuple(rows)), TrackingPlan(("tensorboard",), tuple(rows[:4]))
    assert tracking_of(None, tmp_path, probe=True) is None
    for plan, probe, monitored in ((both, True, True), (harmful, True, False), (both, False, False)):
        tracking = tracking_of(plan, tmp_path, probe=probe)
        assert tracking is not None
        assert (tracking.monitor is not None) == monitored
    assert with_probes(both, [{"prompt": "no class"}]) == TrackingPlan(("tensorboard",))


def test_a_tracker_that_is_unknown_or_not_installed_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="has 'tensorbord', expected some of tensorboard, wandb"):
        check_trackers(["tensorbord"])
    monkeypatch.setattr("divalign.train.tracking.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="whose package is missing: pip install mlflow"):
        check_trackers(["mlflow"])
