"""A real browser for the tests: Debian's or any other Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name in ("playwright", "axe_playwright_python") if find_spec(name) is None]
WHY_NOT = "; ".join([*([] if CHROMIUM else ["no Chromium on this machine"]), *(f"no {name}" for name in MISSING)])
OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")
WIDE = {"width": 1320, "height": 900}
NARROW = {"width": 360, "height": 740}


class Opened(NamedTuple):
    """A page in the browser, what its console has written, and every address that it asked for."""

    page: Any
    console: list[str]
    requests: list[str]


@contextmanager
def browser() -> Iterator[Any]:
    """Start the browser, and stop it in the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        process = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS), timeout=300_000)
        yield process
        process.close()


@contextmanager
def opened(process: Any, path: Path, **options: Any) -> Iterator[Opened]:
    """Open a page from disk in a window of its own; `options` are those of a Playwright context."""
    context = process.new_context(**{"viewport": WIDE, **options})
    context.set_default_timeout(300_000)  # a busy machine is slow, not wrong
    page = context.new_page()
    console: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: console.append(message.text))
    page.on("pageerror", lambda error: console.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    yield Opened(page, console, requests)
    context.close()


def faults(page: Any) -> list[str]:
    """Return what axe-core finds serious or critical on an open page, each with the first element that it is of."""
    page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
    violations = page.evaluate("axe.run().then((result) => result.violations)")
    return [
        f"{found['id']}: {found['nodes'][0]['html'][:200]} ({len(found['nodes'])})"
        for found in violations
        if found["impact"] in ("serious", "critical")
    ]
