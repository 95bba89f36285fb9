"""What strangers wrote, as the terminal may show it: control characters as text, so that no file commands a terminal.

Column names, attack names, a template's errors and a model's settings may hold sequences that set the terminal's title,
fill its clipboard or clear it.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
import warnings
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # C0 but tabs and line feeds, DEL, C1


def visible(text: str) -> str:
    r"""Return text with its control characters written as \x1b and so on; tabs and line feeds stay."""
    return CONTROL.sub(lambda match: rf"\x{ord(match[0]):02x}", text)


class VisibleConsole(Console):
    """A console that writes no control character but its own, which rich keeps in segments of another kind."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as rich text: cells are measured as they are shown."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of anything else, as of Text that was made from a string elsewhere."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


class VisibleRecord(logging.LogRecord):
    """An entry of a log; whatever handler writes it."""

    def __init__(self, *arguments: Any, **fields: Any) -> None:
        super().__init__(*arguments, **fields)
        if self.exc_info and self.exc_info[0]:  # handlers write this text where it is there
            self.exc_text = visible("".join(traceback.format_exception(*self.exc_info)).rstrip())

    def getMessage(self) -> str:
        """Return the sentence."""
        return visible(super().getMessage())


def protect_terminal() -> None:
    """Let logs and warnings, which other libraries write too, hold no control characters."""
    logging.setLogRecordFactory(VisibleRecord)
    warnings.formatwarning = _warning


def write_traceback(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Write what Python writes of an error that nothing caught."""
    sys.stderr.write(visible("".join(traceback.format_exception(kind, error, trace))))


_format_warning = warnings.formatwarning


def _warning(*arguments: Any, **fields: Any) -> str:
    return visible(_format_warning(*arguments, **fields))
