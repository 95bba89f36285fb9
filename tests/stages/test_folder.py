"""The seconds of a run that was stopped and went on are those of all its processes."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from divalign.stages import folder as module
from divalign.stages.folder import LOCK, Clock, locked, silent
from divalign.store import read_json
from tests.test_store import killed_at_its_first_word


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


def test_each_stage_counts_its_own_seconds_without_those_of_stages_inside_it(
    tmp_path: Path, time: SimpleNamespace
) -> None:
    for _ in range(2):
        progress = Clock(tmp_path / "clock.json").around(silent)
        with progress("reference a", 1, "rows"):
            time.now += 3
            with progress("train a", 1, "updates"):
                time.now += 4
        with progress("attacks a", 1, "responses"):
            time.now += 5
    assert read_json(tmp_path / "clock.json")["stages"] == {"train a": 8.0, "reference a": 6.0, "attacks a": 10.0}


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


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"seconds": null, "stages": {"train a": null}}'])
def test_a_torn_file_counts_from_nothing(content: str, tmp_path: Path, time: SimpleNamespace) -> None:
    (tmp_path / "clock.json").write_text(content)
    assert Clock(tmp_path / "clock.json").seconds == 0


def test_a_folder_is_locked_by_one_at_a_time_until_that_one_ends_or_is_killed(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        with pytest.raises(ValueError, match="another process is at work in"), locked(tmp_path / "run"):
            pass
        with locked(tmp_path / "other"):
            pass
    code = "import sys, time, pathlib; from divalign.stages.folder import locked\n"
    hold = "with locked(pathlib.Path(sys.argv[1])): print('begun', flush=True); time.sleep(60)"
    killed_at_its_first_word(code + hold, tmp_path / "run")
    with locked(tmp_path / "run"):
        pass


def test_a_folder_that_cannot_be_written_to_needs_no_lock() -> None:
    folder, entered = Path("/proc/sys/kernel"), []
    with locked(folder), locked(folder):  # twice, which a lock would refuse
        entered.append(folder)
    assert entered == [folder]
    assert not (folder / LOCK).exists()
