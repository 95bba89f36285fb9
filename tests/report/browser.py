"""A real browser for the tests: what a page became in it, and what it said on its console."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--log-level=0",
    "--virtual-time-budget=3000",
    "--dump-dom",
)


class Loaded(NamedTuple):
    """A page after its scripts ran: its document as HTML, and every line of its console."""

    document: str
    console: list[str]


def load(page: Path, profile: Path) -> Loaded:
    """Open a page from disk. `profile` is an empty folder for the browser's own files."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    lines = done.stderr.decode(errors="replace").splitlines()
    return Loaded(done.stdout.decode(errors="replace"), [line for line in lines if "CONSOLE" in line])
