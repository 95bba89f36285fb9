"""The pages in a real browser: nothing runs or leaves that should not, and every control works by pointer and keys."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from divalign.report import write_report
from divalign.report.comparison import write_comparison
from divalign.stages.rates import changes
from tests.report.browser import NARROW, WHY_NOT, browser, faults, opened
from tests.report.runs import HOSTILE, crowd, write_run

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"pages cannot be opened: {WHY_NOT}")
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
SHOWN = "(selector) => [...document.querySelectorAll(selector)].filter((e) => e.getClientRects().length).length"
POLICY = r'<meta http-equiv="Content-Security-Policy"[^>]*>'


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as process:
        yield process


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    hostile = write_report(write_run(root / "hostile", hostile=True, count=12), show_completions=True)
    friendly = write_report(write_run(root / "friendly", count=24))
    many = write_report(write_run(root / "many", models=crowd(60), count=6))
    comparison = write_comparison([root / "many", root / "friendly"], root / "comparison.html", changes)
    return {"hostile": hostile, "friendly": friendly, "many": many, "comparison": comparison}


@pytest.fixture
def friendly(chromium: Any, pages: dict[str, Path]) -> Iterator[Any]:
    with opened(chromium, pages["friendly"]) as window:
        yield window.page
        assert not window.console


def changed(path: Path, folder: Path, pattern: str, replacement: str) -> Path:
    """A copy of a page with something in it replaced."""
    copy = folder / "page.html"
    copy.write_bytes(re.sub(pattern, lambda _: replacement, path.read_text(encoding="utf-8")).encode())
    return copy


@pytest.mark.parametrize("name", ["hostile", "friendly", "many", "comparison"])
def test_no_text_runs_nothing_leaves_the_machine_and_the_console_stays_silent(
    name: str, chromium: Any, pages: dict[str, Path]
) -> None:
    with opened(chromium, pages[name]) as window:
        assert window.page.title() != "owned"
        assert not window.console
        assert window.requests == [pages[name].as_uri()]


def test_a_completion_with_a_script_stays_text(chromium: Any, pages: dict[str, Path]) -> None:
    with opened(chromium, pages["hostile"]) as window:
        shown = window.page.locator("bdi").all_text_contents()
        assert set(HOSTILE[:6]) <= set(shown)
        assert window.page.locator("script").count() == 2


def test_escaping_alone_holds_without_the_policy(chromium: Any, pages: dict[str, Path], tmp_path: Path) -> None:
    with opened(chromium, changed(pages["hostile"], tmp_path, POLICY, "")) as window:
        assert window.page.title() != "owned"
        assert window.page.locator("img, iframe, object, embed, base, form").count() == 0
        assert not window.console


def test_the_policy_alone_stops_a_script_that_slips_through(
    chromium: Any, pages: dict[str, Path], tmp_path: Path
) -> None:
    page = changed(pages["friendly"], tmp_path, "</main>", f"</main>{HOSTILE[0]}{HOSTILE[1]}")
    with opened(chromium, page) as window:
        window.page.wait_for_timeout(100)
        assert window.page.title() != "owned"
        assert any("Content Security Policy" in line for line in window.console)


def test_this_browser_would_show_a_breach(chromium: Any, pages: dict[str, Path], tmp_path: Path) -> None:
    text = changed(pages["friendly"], tmp_path, POLICY, "")
    with opened(chromium, changed(text, tmp_path, "</main>", f"</main>{HOSTILE[0]}<script>no_name</script>")) as window:
        assert window.page.title() == "owned"
        assert any("no_name is not defined" in line for line in window.console)


@pytest.mark.parametrize("name", ["hostile", "friendly", "many", "comparison"])
def test_no_page_is_wider_than_its_window(name: str, chromium: Any, pages: dict[str, Path]) -> None:
    with opened(chromium, pages[name], viewport=NARROW) as window:
        assert window.page.evaluate(OVERFLOW) == 0
        window.page.set_viewport_size({"width": 800, "height": 700})
        assert window.page.evaluate(OVERFLOW) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["friendly", "comparison"])
def test_axe_finds_nothing_serious(name: str, scheme: Any, chromium: Any, pages: dict[str, Path]) -> None:
    with opened(chromium, pages[name], color_scheme=scheme) as window:
        assert faults(window.page) == []


def test_a_table_sorts_by_pointer_and_by_key_and_what_has_no_number_comes_last(friendly: Any) -> None:
    table = friendly.locator("#numbers table").first
    column = table.locator("thead th").nth(5)
    values = table.locator("tbody td:nth-child(6)")

    def rates() -> list[float]:
        return [float(text.split("\xa0")[0]) for text in values.all_text_contents()]

    before = rates()
    column.locator("button").click()
    assert column.get_attribute("aria-sort") == "ascending"
    assert rates() == sorted(before)
    friendly.keyboard.press("Enter")
    assert column.get_attribute("aria-sort") == "descending"
    assert rates() == sorted(before, reverse=True)
    bounds = friendly.locator("#divergences details table").first
    friendly.locator("#divergences summary").click()
    bounds.locator("thead th button").nth(4).click()  # the upper bound, which kl has not
    assert bounds.locator("tbody tr").last.locator("td").nth(3).text_content() == "none"


def test_the_filter_keeps_models_in_every_table_and_picture_and_says_how_many(friendly: Any) -> None:
    friendly.locator("#filter").fill("kldo pref")
    assert friendly.locator("#count").text_content() == "1 of 11 models"
    shown = {"#numbers > .scroll tbody tr": 2, "table.heat tbody tr[data-model]": 1, "#frontier .point": 1}
    assert {selector: friendly.evaluate(SHOWN, selector) for selector in shown} == shown  # of numbers two tables
    friendly.locator("#filter").fill("")
    assert friendly.evaluate(SHOWN, "table.heat tbody tr[data-model]") == 11


def test_sixty_models_are_grouped_by_data_at_first_and_by_method_when_chosen(
    chromium: Any, pages: dict[str, Path]
) -> None:
    with opened(chromium, pages["many"]) as window:
        heads = window.page.locator("table.heat tr.head")
        assert heads.all_text_contents() == ["base", "CR", "pref", "CR+"]
        window.page.locator("#group").select_option("method")
        assert heads.all_text_contents() == ["base", "kldo", "bco", "kto", "dpo", "hdo"]
        window.page.locator("#filter").fill("dpo")
        assert heads.all_text_contents() == ["dpo"]
    assert pages["many"].stat().st_size < 5e6


def test_the_attack_of_the_frontier_is_chosen_with_a_key(friendly: Any) -> None:
    groups = friendly.locator("#frontier .group")
    assert [group.is_visible() for group in groups.all()][:2] == [True, False]
    friendly.locator("#frontier select").focus()
    friendly.keyboard.press("ArrowDown")
    assert [group.is_visible() for group in groups.all()][:2] == [False, True]


def test_a_mark_of_the_frontier_is_read_by_pointer_and_by_the_arrow_keys(friendly: Any) -> None:
    tip = friendly.locator(".tip")
    friendly.locator("#frontier .group:not([hidden]) .point").nth(1).hover()
    assert "attack success" in (tip.text_content() or "")
    friendly.mouse.move(2, 2)
    assert not tip.is_visible()
    friendly.locator("#frontier .group:not([hidden]) svg").focus()
    texts = []
    for _ in range(3):
        friendly.keyboard.press("ArrowRight")
        texts.append(tip.text_content())
    assert len(set(texts)) == 3
    friendly.keyboard.press("Escape")
    assert not tip.is_visible()


def test_the_heat_table_is_walked_with_the_arrow_keys_and_shows_value_and_interval(friendly: Any) -> None:
    tip = friendly.locator(".tip")
    cells = friendly.locator("table.heat tbody tr[data-model]")
    cells.nth(1).locator("td").nth(1).hover()
    assert tip.text_content() == "kldo on CR, prefill: 98\xa0% (95\xa0% CI 95 to 99\xa0%, n = 192)"
    cells.first.locator("td").first.focus()
    friendly.keyboard.press("ArrowDown")
    friendly.keyboard.press("ArrowRight")
    assert (tip.text_content() or "").startswith("kldo on CR, prefill: 98")
    friendly.keyboard.press("ArrowRight")
    friendly.keyboard.press("ArrowRight")
    friendly.keyboard.press("ArrowUp")
    assert tip.text_content() == "base, gcg start: not measured"


def test_the_slider_moves_through_the_layers_and_fills_the_table(friendly: Any) -> None:
    cell = friendly.locator("table.at-layer tbody tr").nth(1).locator("td").first
    line = friendly.locator("#layers .group:not([hidden]) line.cursor").first
    before, place = cell.text_content(), line.get_attribute("x1")
    friendly.locator("#layer").focus()
    friendly.keyboard.press("ArrowLeft")
    assert friendly.locator("#layer-value").text_content() == "3"
    assert cell.text_content() != before
    assert float(line.get_attribute("x1")) < float(place)
    friendly.keyboard.press("Home")
    assert cell.text_content() == "undecided"
    friendly.locator("#layers select").select_option(index=1)
    assert friendly.locator("#layers .group").nth(1).is_visible()


def test_pointing_at_a_prompt_or_stepping_to_it_reads_it(friendly: Any) -> None:
    plane = friendly.locator("#states .group:not([hidden]) svg.plane").nth(1)
    tip = friendly.locator(".tip")
    plane.scroll_into_view_if_needed()
    plane.focus()
    friendly.keyboard.press("ArrowRight")
    first = tip.text_content() or ""
    assert re.match(r"(benign|harmful)(, held-out topic)?How would somebody", first)
    friendly.keyboard.press("ArrowRight")
    ring = plane.locator(".ring").bounding_box()
    second = tip.text_content()
    assert second != first
    friendly.keyboard.press("Escape")
    assert not tip.is_visible()
    friendly.mouse.move(ring["x"] + ring["width"] / 2, ring["y"] + ring["height"] / 2)
    assert tip.text_content() == second


def test_the_tab_key_reaches_every_control_and_never_stays(friendly: Any) -> None:
    reached = []
    for _ in range(120):
        friendly.keyboard.press("Tab")
        name = friendly.evaluate(
            "(() => { const e = document.activeElement; "
            "return e.id || e.className.baseVal || e.className || e.tagName.toLowerCase(); })()"
        )
        reached.append(name)
        if name == "body":
            break
    assert {"filter", "group", "choose", "walk", "plane", "layer", "scroll", "sort", "summary"} <= set(reached)
    assert "h10" in reached  # the first cell of the heat table
    assert "body" in reached or len(set(reached)) > 8


def test_without_scripts_every_panel_is_there_and_no_dead_control(chromium: Any, pages: dict[str, Path]) -> None:
    with opened(chromium, pages["friendly"], java_script_enabled=False) as window:
        assert window.page.locator("#frontier .group").count() == 5
        assert all(group.is_visible() for group in window.page.locator("#frontier .group").all())
        assert not window.page.locator("#filter").is_visible()
        assert not window.page.locator("#layer").is_visible()


def test_on_paper_there_are_no_controls_and_no_colours_of_the_night(chromium: Any, pages: dict[str, Path]) -> None:
    with opened(chromium, pages["friendly"], color_scheme="dark") as window:
        window.page.emulate_media(media="print")
        assert not window.page.locator("#filter").is_visible()
        assert window.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
