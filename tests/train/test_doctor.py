"""The equality checks hold here, and each would notice if it did not."""

from pathlib import Path

import pytest
import torch

from divalign.train import doctor
from divalign.train.doctor import DoctorCheck, check_trainer, step


def test_every_check_of_the_trainer_holds() -> None:
    checks = list(check_trainer())
    assert len(checks) == 9
    assert [check.name for check in checks if not check.holds] == []


def test_a_distance_over_what_is_allowed_does_not_hold() -> None:
    assert not DoctorCheck("", 1e-5, 1e-6).holds


def test_statistics_of_single_micro_batches_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = doctor.trainer
    monkeypatch.setattr(
        doctor, "trainer", lambda *args, **options: plain(*args, **{**options, "normaliser": "microbatch"})
    )
    whole, split = (step(tmp_path, "kldo", batch=size) for size in (16, 4))
    assert (whole - split).norm() > 1e-3 * whole.norm()


def test_a_resumed_run_without_its_average_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("divalign.train.running.RunningBaseline.on_train_begin", lambda *args, **kwargs: None)
    assert doctor._resumed(tmp_path).distance > 0


def test_a_response_that_sees_its_neighbour_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def causal(groups: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(groups), 1, groups.shape[1], groups.shape[1], dtype=torch.bool).tril()

    monkeypatch.setattr("divalign.lm.score.attention", causal)
    assert not doctor._layouts().holds
