"""What records say stays text in Markdown: a renderer shows it as it is, and makes nothing else of it."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from divalign.core.stats import Estimate
from divalign.records import SweepModel, SweepRecord
from divalign.report import write_methods_page
from divalign.report.card import write_cards
from divalign.report.claims_page import write_claims_page
from divalign.report.markdown import Markdown, code, fill, line, plain, strong, table
from divalign.report.study_page import study_page
from divalign.store import read_json, write_json
from divalign.study.sweep_verdict import weigh
from tests.report.claim_sweeps import sweep
from tests.report.runs import HOSTILE, write_run
from tests.study.sweep_models import changed, simulated

EVIL = (
    "cr | `x` </td>\n\n# Heading\n\n<script>x</script> <img src=x> ![y](https://example.invalid/beacon) "
    "[z](javascript:1)"
)
SHORT_EVIL = "<img src=x> `[z](javascript:1)`"  # a model's name is that of a folder
MARKS = st.text(st.sampled_from("ab1 _*`[]()!<>|&;#\\~{}-+=\n:/\"'") | st.characters(), max_size=30)
OURS = {"h1", "h2", "p", "ul", "li", "code", "pre", "strong", "em", "a", "img"}
OURS |= {"table", "thead", "tbody", "tr", "th", "td"}


class Page(HTMLParser):
    """The tags, the addresses and the text of what a renderer makes of Markdown."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


def signs(text: str) -> str:
    """The text without white space, which a renderer trims."""
    return "".join(line(text).split())


@given(MARKS)
def test_text_of_any_marks_is_shown_as_it_is(text: str) -> None:
    for markdown in (f"{plain(text)}", f"Of {plain(text)}.", f"Of {code(text)}."):
        page = Page(markdown)
        assert signs(page.text) in (signs(text), signs(f"Of {text}."))
        assert set(page.tags) <= {"p", "code"}


@given(MARKS)
def test_a_cell_of_any_marks_is_one_cell_and_shown_as_it_is(text: str) -> None:
    page = Page(table(("a", "b"), [(f"x{text}x", code(text))]))
    assert page.tags.count("td") == 2
    assert set(page.tags) <= {"table", "thead", "tbody", "tr", "th", "td", "code"}
    assert signs(page.text) == signs(f"abx{text}x{text}")


def test_what_is_markdown_already_stays_so() -> None:
    assert plain(strong("no effect")) == "**no effect**"
    assert fill("{a} {b} {c:.1f}", a=Markdown("[0, 1]"), b="D_B _x_", c=0.25) == "[0, 1] D_B &#95;x&#95; 0.2"
    assert table(("a",), [("x|y",)]).splitlines()[-1] == "| x\\|y |"
    assert code("asr.gcg_start") == "`asr.gcg_start`"
    assert plain("\x1b]0;x\x07 \ud800\u202e") == "\ufffd&#93;0;x\ufffd \ufffd\ufffd"


def check_page(path: Path) -> None:
    page = Page(path.read_text().split("---\n", 2)[-1] if path.name == "card.md" else path.read_text())
    assert set(page.tags) <= OURS
    assert page.tags.count("h1") == 1
    assert not [address for address in page.addresses if address.startswith(("javascript:", "https://example.", "x"))]
    assert "<script>x</script>" in page.text or "<script>document" in page.text


def hostile(model: SweepModel) -> SweepModel:
    return changed(
        model, name=SHORT_EVIL, run=EVIL, family=EVIL, length=f"{model.length} {EVIL}", recipe=f"{model.recipe} {EVIL}",
        asr={EVIL: model.asr["direct"]}, asr_no_refusal={EVIL: Estimate(0.5, 0.0, 1.0, 100)},
    )  # fmt: skip


def hostile_record(models: list[SweepModel], folder: Path) -> SweepRecord:
    study, arm = weigh(models, folder), changed(models[0], control=EVIL, data=EVIL, method=EVIL)
    words = {"words": EVIL, "conclusion": EVIL}
    verdicts = {f"{name}{EVIL}": verdict.model_copy(update=words) for name, verdict in study.verdicts.items()}
    primary = study.evidence["D_B, held out"]
    changes = {"verdict": primary.verdict.model_copy(update=words), "adjusted": {EVIL: primary.verdict}}
    groups = {"verdicts": verdicts, "by_attack": {EVIL: verdicts}, "joint": {EVIL: None}}
    fields: dict[str, Any] = dict(study) | groups | {"evidence": {"D_B, held out": primary.model_copy(update=changes)}}
    everyone = [hostile(model) for model in (*models, arm, changed(arm, method="separate", data=None))]
    return SweepRecord(divalign=EVIL, sweep_sha256="<img src=x>", seconds=1.0, models=everyone, **fields)


def test_a_strangers_sweep_writes_no_markup_into_the_pages(tmp_path: Path) -> None:
    record = hostile_record(simulated(0, slope=1.2), tmp_path)
    (tmp_path / "study.md").write_text(study_page(record, command="x")["study.md"])
    check_page(tmp_path / "study.md")
    write_json(tmp_path / "sweep.json", hostile_record(sweep(tmp_path, own=4.0, difference=0.8), tmp_path).plain())
    check_page(write_claims_page(tmp_path, tmp_path / "claims.md", lambda _models, _rho: None))


@pytest.mark.parametrize("evil", [EVIL, *HOSTILE[:6]])
def test_a_strangers_run_writes_no_markup_into_the_pages(tmp_path: Path, evil: str) -> None:
    write_run(tmp_path, hostile=True, count=4)
    content = read_json(tmp_path / "results.json")
    for model in content["models"][1:]:
        model |= {"method": f"{evil}<script>x</script>", "data": f"{evil}<script>x</script>"}
    content |= {"divalign": evil, "config_sha256": evil, "overlap": {evil: 2, "n": 9}}
    (tmp_path / "results.json").write_text(json.dumps(content))
    check_page(write_methods_page(tmp_path, tmp_path / "methods.md"))
    write_cards(tmp_path, lambda _record: "---\na: b\n---\n", ["kldo-cr"])
    check_page(tmp_path / "models" / "kldo-cr" / "card.md")
