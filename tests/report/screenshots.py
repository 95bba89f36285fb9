"""Draw the pictures of the report in the documentation: `python -m tests.report.screenshots [--run RUN]`.

Without a run the numbers are made up, as in the tests. Needs Chromium and Playwright.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from divalign.report import write_report
from divalign.stages.rates import changes
from tests.report.browser import NARROW, WHY_NOT, browser, opened
from tests.report.runs import crowd, write_run

DOCS = Path(__file__).parents[2] / "docs"
WIDE = {"width": 1280, "height": 1700}


def draw(process: Any, page: Path, out: Path, **options: Any) -> None:
    """Write what a window shows of a page, in half its pixels."""
    with opened(process, page, **{"viewport": WIDE, "device_scale_factor": 0.5, **options}) as window:
        window.page.screenshot(path=str(out))
        sys.stdout.write(f"{out}\n")


def main() -> None:
    """Draw the made-up pages, or the picture of README from a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--run",
        type=lambda text: Path(text).resolve(),
        help="a run folder: draw docs/report.png from it, and nothing else",
    )
    run = parser.parse_args().run
    if WHY_NOT:
        raise SystemExit(f"error: {WHY_NOT}")
    with TemporaryDirectory() as folder, browser() as process:
        if run is not None:
            draw(process, write_report(run, changes=changes), DOCS / "report.png", device_scale_factor=1)
            return
        page = write_report(write_run(Path(folder) / "made-up"), changes=changes)
        many = write_report(write_run(Path(folder) / "sixty-models", models=crowd(60)), changes=changes)
        figures = DOCS / "figures"
        draw(process, page, figures / "report-light.png")
        draw(process, page, figures / "report-dark.png", color_scheme="dark")
        draw(process, many, figures / "report-sixty.png")
        narrow = {**NARROW, "height": 1700}
        draw(process, page, figures / "report-narrow.png", viewport=narrow, device_scale_factor=1)


if __name__ == "__main__":
    main()
