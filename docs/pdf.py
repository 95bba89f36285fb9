"""Print figures as PDF, each beside its SVG and of its size: `python docs/pdf.py docs/figures/real-study-claim*.svg`.

Chromium prints them, which the tests of the report need too, so that no library of drawing is added for it.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PAGE = "<style>@page {{ size: {width}px {height}px; margin: 0 }} body {{ margin: 0 }} svg {{ display: block }}</style>"


def main(paths: list[str]) -> None:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        for path in map(Path, paths):
            figure = path.read_text()
            width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', figure)[0]
            page = browser.new_page()
            page.set_content(PAGE.format(width=width, height=height) + figure)
            page.pdf(path=path.with_suffix(".pdf"), prefer_css_page_size=True, print_background=True)
            page.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
