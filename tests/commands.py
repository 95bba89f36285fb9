"""A command of `divalign`, called as from a shell."""

import sys

import pytest

from divalign.cli import main


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Return the exit code of `divalign ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["divalign", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0
