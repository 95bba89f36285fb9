"""The seconds of a run that was stopped and went on are those of all its processes."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from divalign.store import read_json
from divalign.study import clock as module
from divalign.study.clock import Clock
from divalign.study.progress import silent


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return a clock on the wall that moves only when it is told to."""
    wall = SimpleNamespace(now=100.0)
    wall.perf_counter = lambda: wall.now
    monkeypatch.setattr(module, "time", wall)
    return wall


def test_a_process_counts_on_from_the_ones_before(tmp_path: Path, time: SimpleNamespace) -> None:
    for expected in (7.0, 14.0):
        clock = Clock(tmp_path / "clock.json")
        with clock.around(silent)("train", 1, "updates"):
            time.now += 7
        assert clock.seconds == read_json(tmp_path / "clock.json")["seconds"] == expected


def test_a_process_that_does_no_stage_writes_nothing(tmp_path: Path, time: SimpleNamespace) -> None:
    clock = Clock(tmp_path / "clock.json")
    time.now += 3
    assert clock.seconds == 3
    assert not list(tmp_path.iterdir())


def test_a_kill_within_a_stage_loses_seconds_and_a_failure_none(tmp_path: Path, time: SimpleNamespace) -> None:
    def stopped() -> None:
        clock = Clock(tmp_path / "clock.json")
        with clock.around(silent)("train", 9, "updates") as advance:
            for _ in range(9):
                time.now += 2
                advance(1)
            assert read_json(tmp_path / "clock.json")["seconds"] == 18  # what a kill here would leave
            time.now += 2
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        stopped()
    assert Clock(tmp_path / "clock.json").seconds == 20


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"seconds": null}'])
def test_a_torn_file_counts_from_nothing(content: str, tmp_path: Path, time: SimpleNamespace) -> None:
    (tmp_path / "clock.json").write_text(content)
    assert Clock(tmp_path / "clock.json").seconds == 0
