"""What strangers wrote reaches the terminal as text: no control sequence of theirs sets its title or clears it."""

import io
import logging
import re
import sys
import warnings
from typing import Any

import pytest
from rich.text import Text

from divalign.cli import show
from divalign.cli.app import print_line, progress_bar, progress_of
from divalign.cli.visible import CONTROL, VisibleConsole, visible
from tests.cli.test_terminal import failing_with
from tests.commands import call

ESCAPES = "\x1b]0;title\x07 \x1b[2J \x9b2J \x7f \x08 \r \x00 [bold]x[/bold] \\x1b"
AS_TEXT = r"\x1b]0;title\x07 \x1b[2J \x9b2J \x7f \x08 \x0d \x00 [bold]x[/bold] \x1b"
STYLE = re.compile(r"\x1b\[[\d;]*m")  # what rich writes to set a colour


def terminal(**options: Any) -> VisibleConsole:
    return VisibleConsole(file=io.StringIO(), force_terminal=True, color_system="standard", width=160, **options)


def written(console: VisibleConsole) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_control_characters_become_text_and_lines_stay_lines() -> None:
    assert visible(ESCAPES) == AS_TEXT
    assert visible(visible(ESCAPES)) == AS_TEXT
    assert visible("a\tb\nc é \u202f") == "a\tb\nc é \u202f"


def test_an_error_sentence_holds_no_control_sequence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing_with(monkeypatch, ValueError(ESCAPES)) == 2
    assert capsys.readouterr().err == f"error: {AS_TEXT}\n"


def test_a_table_shows_control_characters_in_cells_that_stay_aligned_and_coloured() -> None:
    console, content = terminal(), show.table("Rates \x1b[2J", ["attack \x1b[2J"], ["n"])
    content.add_row("[red]direct\x1b]0;title\x07[/]", "1")
    content.add_row(Text("direct \x1b[2J"), "2")
    console.print(show.fitted(content, console))
    text = written(console)
    assert "\x1b[31m" in text
    assert r"direct\x1b]0;title\x07" in text
    lines = STYLE.sub("", text).splitlines()
    assert not any(CONTROL.search(line) for line in lines)
    assert len({len(line) for line in lines if line.startswith(("┏", "┃ attack", "│ direct\\x1b]"))}) == 1


def test_paragraphs_and_lines_of_results_hold_no_control_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    console, content = (
        terminal(),
        show.table("Rates", ["attack"], [f"a column \x1b[2J {number}" for number in range(40)]),
    )
    content.add_row("direct\x1b[2J", *(["12345"] * 40))
    console.print(show.fitted(content, console))
    monkeypatch.setattr(sys.modules["divalign.cli.app"], "console", console)
    print_line("a\x1b[2J")
    print_line(Text.assemble(("b", "bold red"), "\x1b[2J"))
    assert not CONTROL.search(STYLE.sub("", written(console)))
    assert "\x1b[1;31mb" in written(console)


def test_a_progress_bar_still_moves_the_cursor_and_its_stage_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    console = terminal()
    monkeypatch.setattr(sys.modules["divalign.cli.app"], "console", console)
    with progress_bar("attack \x1b]0;title\x07", 2, "rows") as advance:
        advance(1)
    text = written(console)
    assert "\x1b[?25l" in text  # hides the cursor
    assert "\x1b]" not in text
    assert r"attack \x1b]0;title\x07" in text


def test_plain_progress_logs_and_warnings_hold_no_control_sequence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch) == 0  # the command line sets its rules
    with progress_of(quiet=False)(f"attack {ESCAPES}", 1, "rows"):
        pass
    handler = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("a_library")
    logger.addHandler(handler)
    try:
        raise ValueError(ESCAPES)
    except ValueError:
        logger.exception("cannot read %s", ESCAPES)
    finally:
        logger.removeHandler(handler)
    sys.stderr.write(warnings.formatwarning(ESCAPES, UserWarning, "a.py", 1))
    text = capsys.readouterr().err
    assert not CONTROL.search(text)
    assert text.count(r"\x1b]0;title") == 5  # two lines of progress, the log's sentence and its traceback, the warning


def test_a_traceback_of_debug_holds_no_control_sequence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="title") as caught:
        failing_with(monkeypatch, ValueError(ESCAPES), "--debug")
    sys.excepthook(ValueError, caught.value, caught.tb)
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert AS_TEXT in text
    assert not CONTROL.search(text)
