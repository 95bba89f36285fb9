import html
import json
import re
from pathlib import Path

import pytest

from divalign.report import write_report
from tests.report.browser import CHROMIUM, load
from tests.report.runs import HOSTILE, write_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: pages cannot be opened")

WIDTHS = """<script>onload = () => {
  const pages = [...document.querySelectorAll("iframe")].map((frame) => frame.contentDocument.documentElement);
  document.body.dataset.result = JSON.stringify(pages.map((page) => page.scrollWidth - page.clientWidth));
}</script>"""
POINTER = """<script>
const svg = document.querySelectorAll("svg.plane")[1];
const [x, y, text] = planes[1][4];
const place = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
svg.dispatchEvent(new PointerEvent("pointermove", { clientX: place.x, clientY: place.y }));
const pointed = [kind.textContent, prompt.textContent, tip.hidden, texts[text]];
svg.dispatchEvent(new PointerEvent("pointerleave"));
pointed.push(tip.hidden);
svg.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
const right = planes[1].filter((mark) => mark[0] > x).sort((a, b) => a[0] - b[0])[0];
pointed.push(prompt.textContent === texts[right[2]][1], tip.hidden);
document.body.dataset.result = JSON.stringify(pointed);
</script>"""


def read_result(document: str) -> list:
    return json.loads(html.unescape(re.findall(r'data-result="([^"]*)"', document)[0]))


def open_to_scripts(page: str) -> str:
    """The page without its policy, so that a test's own script may look at it."""
    return re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_run(tmp_path_factory.mktemp("hostile"), hostile=True), show_completions=True)


@pytest.fixture(scope="module")
def friendly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_run(tmp_path_factory.mktemp("friendly")))


@pytest.mark.parametrize("page", ["hostile", "friendly"])
def test_no_text_runs_and_the_console_stays_silent(page: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    loaded = load(request.getfixturevalue(page), tmp_path)
    assert "<title>What alignment did" in loaded.document
    assert not loaded.console


def test_escaping_alone_holds_without_the_policy(hostile: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_bytes(open_to_scripts(hostile.read_text(encoding="utf-8")).encode())
    loaded = load(page, tmp_path / "profile")
    assert "<title>What alignment did" in loaded.document
    assert not re.search(r"<(img|iframe|object|embed|base|form)\b", loaded.document)
    assert not loaded.console


def test_the_policy_alone_stops_a_script_that_slips_through(friendly: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = friendly.read_text(encoding="utf-8")
    page.write_bytes(text.replace("</main>", f"</main>{HOSTILE[0]}{HOSTILE[1]}").encode())
    loaded = load(page, tmp_path / "profile")
    assert "<title>What alignment did" in loaded.document
    assert any("Content Security Policy" in line for line in loaded.console)


def test_this_browser_would_show_a_breach(hostile: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = open_to_scripts(hostile.read_text(encoding="utf-8"))
    page.write_bytes(text.replace("</main>", f"</main>{HOSTILE[0]}<script>undefined_name</script>").encode())
    loaded = load(page, tmp_path / "profile")
    assert "<title>owned" in loaded.document
    assert any("undefined_name is not defined" in line for line in loaded.console)


@pytest.mark.parametrize("page", ["hostile", "friendly"])
def test_no_page_is_wider_than_its_window(page: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    text = html.escape(open_to_scripts(request.getfixturevalue(page).read_text(encoding="utf-8")))
    frames = "".join(f'<iframe srcdoc="{text}" width={width} height=800></iframe>' for width in (400, 1200))
    outer = tmp_path / "outer.html"
    outer.write_bytes(f'<!doctype html><meta charset="utf-8"><body>{frames}{WIDTHS}'.encode())
    assert read_result(load(outer, tmp_path / "profile").document) == [0, 0]


def test_pointing_at_a_mark_or_stepping_to_it_shows_its_prompt(friendly: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = open_to_scripts(friendly.read_text(encoding="utf-8"))
    page.write_bytes(text.replace("</body>", f"{POINTER}</body>").encode())
    kind, prompt, hidden, expected, left, stepped_right, hidden_again = read_result(
        load(page, tmp_path / "profile").document
    )
    assert [kind, prompt] == expected
    assert prompt.startswith("How would somebody")
    assert (hidden, left, stepped_right, hidden_again) == (False, True, True, False)
