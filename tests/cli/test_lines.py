"""Without a terminal a run says in plain lines what it is doing."""

import io
import re
import sys
import threading
import time
from functools import partial

import pytest

from divalign.cli.app import console, progress_bar, progress_of
from divalign.cli.lines import duration, progress_lines, status
from divalign.stages.folder import silent


def test_a_stage_says_when_it_starts_goes_on_and_ends() -> None:
    lines: list[str] = []
    started = time.monotonic()
    with progress_lines("train cr-dpo", 4, "updates", write=lines.append, period=0.05) as advance:
        advance(1)
        while not any("1 of 4" in line for line in lines):  # one long step: lines come without any advance
            time.sleep(0.01)
        advance(3)
    passed = time.monotonic() - started
    assert lines[0] == "train cr-dpo: started, 4 updates"
    assert any(re.fullmatch(r"train cr-dpo: 1 of 4 updates, [\d.]+/s, \d+ s left", line) for line in lines)
    assert re.fullmatch(r"train cr-dpo: done, 4 of 4 updates in \d+ s", lines[-1])
    assert 3 <= len(lines) <= 2 + passed / 0.05


def test_a_stage_that_fails_says_so_and_leaves_no_thread() -> None:
    lines: list[str] = []
    before = threading.active_count()
    stage = progress_lines("attacks base", 9, "responses", write=lines.append, period=60.0)
    advance = stage.__enter__()
    advance(2)
    assert not stage.__exit__(MemoryError, MemoryError("full"), None)  # the error goes on
    assert lines[-1] == "attacks base: stopped, 2 of 9 responses in 0 s"
    assert threading.active_count() == before


def test_the_time_left_follows_from_the_rate() -> None:
    assert status(10, 40, "updates", 20.0) == "10 of 40 updates, 0.5/s, 1 min 00 s left"
    assert status(0, 40, "updates", 31.0) == "0 of 40 updates after 31 s"
    assert status(4000, 1000, "rows", 2.0) == "4000 of 1000 rows, 2e+03/s, 0 s left"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (200.0, "3 min 20 s"), (3900.0, "1 h 05 min")]
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_lines_go_to_stderr_and_a_terminal_gets_bars(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress_of(quiet=False)("hidden base", 2, "prompts") as advance:
        advance(2)
    said = stderr.getvalue().splitlines()
    assert [line.split(" ", 1)[1] for line in said] == [
        "hidden base: started, 2 prompts", "hidden base: done, 2 of 2 prompts in 0 s",
    ]  # fmt: skip
    monkeypatch.setattr(console, "_force_terminal", True)
    assert progress_of(quiet=False) is progress_bar
    assert progress_of(quiet=True) is silent
    assert not isinstance(progress_of(quiet=False), partial)
    assert capsys.readouterr().out == ""
