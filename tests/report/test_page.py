import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from divalign.core.stats import Estimate
from divalign.report import write_report
from divalign.report.comparison import write_comparison
from divalign.report.facts import ModelFacts, PartFacts
from divalign.report.page import render
from divalign.report.quantities import ATTACKS, glossary
from divalign.report.words import attack_words
from divalign.stages.rates import changes
from tests.report.runs import HOSTILE, facts, write_run

SVG_NAMESPACE = "http://www.w3.org/2000/svg"  # a name that nothing fetches
VOID = {"meta", "link", "br", "input", "img", "hr"}


class Page(HTMLParser):
    """What a page consists of: its tags with their attributes, and the text inside each kind of tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self.text.setdefault(tag, []).append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.text[tag][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report(write_run(tmp_path_factory.mktemp("run")), changes=changes).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = write_report(write_run(tmp_path_factory.mktemp("run"), hostile=True), show_completions=True)
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folders = [write_run(tmp_path_factory.mktemp(name), count=4) for name in ("first", "second")]
    return Page(write_comparison(folders, None, lambda before, after: {}).read_text(encoding="utf-8"))


RUN = facts()


def page_of(models: Sequence[ModelFacts], **changes: Any) -> str:
    return render(RUN._replace(models=tuple(models), verdict=None, **changes))


def with_part(model: ModelFacts, **changes: Any) -> ModelFacts:
    return model._replace(in_distribution=model.in_distribution._replace(**changes), held_out=None)


UNDECIDED = Estimate(None, 0.0, 1.0, 0)
NOTHING = PartFacts({}, {}, None)
BARE = [model._replace(in_distribution=NOTHING, held_out=None, divergence={}) for model in RUN.models[:2]]


def test_the_report_lies_in_the_run_folder_and_is_replaced_by_the_next(tmp_path: Path) -> None:
    folder = write_run(tmp_path, count=4)
    path = write_report(folder)
    assert path == tmp_path / "report.html"
    before = path.read_bytes()
    assert write_report(folder).read_bytes() == before


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_folder_that_is_no_run_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"is no run folder: got no results\.json in it, expected one"):
        write_report(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_the_sections_come_in_their_order(page: Page) -> None:
    assert page.text["h2"] == [
        "Safety against over-refusal",
        "Attack success, model by attack",
        "Separation before and after",
        "Separation by layer",
        "All numbers",
        "Training curves",
        "Held-out divergences",
        "White-box search",
        "Does separation predict attack success?",
        "Judges",
        "Training data",
        "Cost",
        "Responses behind the numbers",
        "How to make it again",
        "What the numbers mean",
    ]


def test_a_picture_stands_before_every_table_of_numbers(page: Page) -> None:
    tags = [(tag, attributes.get("class", "")) for tag, attributes in page.tags]
    picture = next(place for place, (_, kind) in enumerate(tags) if kind == "walk")
    assert picture < next(place for place, (tag, kind) in enumerate(tags) if tag == "table" and "data" in kind)


def sentences(page: Page) -> list[str]:
    """The sentences of captions, paragraphs and definitions; commands and lists of names are none."""
    texts = [text for tag in ("p", "figcaption", "dd") for text in page.text.get(tag, [])]
    return [one for text in texts for one in re.split(r"(?<=[.!?;:])\s+", " ".join(text.split())) if one]


@pytest.mark.parametrize("kind", ["page", "comparison"])
def test_prose_is_captions_of_sentences_under_25_words(kind: str, request: pytest.FixtureRequest) -> None:
    content: Page = request.getfixturevalue(kind)
    assert [one for one in sentences(content) if len(one.split()) >= 25] == []
    assert len(content.text["p"]) < 25


@pytest.mark.parametrize("kind", ["page", "hostile"])
def test_nothing_on_the_page_can_run_or_reach_out_but_its_own_script(kind: str, request: pytest.FixtureRequest) -> None:
    content: Page = request.getfixturevalue(kind)
    assert [attributes.get("type") for attributes in content.all("script")] == ["application/json", None]
    assert not {tag for tag, _ in content.tags} & {
        "img",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
        "foreignobject",
        "use",
    }
    names = {name for _, attributes in content.tags for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("src", "style", "xlink:href", "srcdoc")}
    links = {attributes["href"] for _, attributes in content.tags if "href" in attributes} - {"data:,"}
    assert links <= {f"#{section['id']}" for section in content.all("section")}
    own = content.text["style"][0] + content.text["script"][1].replace(SVG_NAMESPACE, "")
    assert not re.search(r"url\(|@import|https?:", own)


def test_the_policy_forbids_all_but_the_page_s_own_style_and_script(hostile: Page) -> None:
    policy = next(tag["content"] for tag in hostile.all("meta") if tag.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    allowed = {"style-src": hostile.text["style"][0], "script-src": hostile.text["script"][1]}
    for rule, content in allowed.items():
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    assert rules.keys() - allowed.keys() == {"default-src", "img-src", "base-uri", "form-action"}


def test_hostile_text_is_shown_as_the_text_it_is(hostile: Page) -> None:
    shown = "".join(hostile.text["bdi"])
    assert all(text in shown for text in HOSTILE[:6])
    assert "lone ? surrogate" in shown
    assert all(text in "".join(hostile.text["pre"]) for text in HOSTILE[:6])


def test_prompts_survive_the_way_to_the_script_and_cannot_leave_it(hostile: Page) -> None:
    raw = hostile.text["script"][0]
    assert not set("<>&\u2028\u2029") & set(raw)
    data = json.loads(raw)
    assert set(HOSTILE) <= {prompt for _, prompt in data["texts"]}
    assert [len(plane) for plane in data["planes"]] == [2 * (72 + len(HOSTILE))] * 20  # ten pairs
    assert len(data["texts"]) < len(data["planes"][0]) * 2  # every prompt once, not once a model


def test_completions_are_not_even_in_the_file_unless_asked_for(tmp_path: Path) -> None:
    folder = write_run(tmp_path, count=4)
    assert "here is something about it" not in write_report(folder).read_text()
    assert "here is something about it" in write_report(folder, show_completions=True).read_text()


def test_every_picture_speaks_or_is_hidden_from_those_who_listen(page: Page) -> None:
    pictures = page.all("svg")
    assert len(pictures) > 30
    for attributes in pictures:
        assert attributes.get("aria-hidden") == "true" or (attributes["role"] == "img" and attributes["aria-label"])


def test_every_table_heading_says_what_it_heads(page: Page) -> None:
    assert len(page.all("table")) > 20
    assert {attributes.get("scope") for attributes in page.all("th")} == {"col", "row"}


def test_without_scripts_tiles_tables_and_pictures_are_there(page: Page) -> None:
    assert page.text["dd"][0].startswith("kto on pref")
    assert "n = 192" in "".join(page.text["small"])
    assert sum("plane" in attributes.get("class", "") for attributes in page.all("svg")) == 20


def test_what_a_run_says_of_its_origin_is_on_the_page(page: Page) -> None:
    facts_of_run = " ".join(page.text["dd"])
    assert "2.13.0" in facts_of_run  # torch
    assert "3f" * 32 in facts_of_run  # the configuration
    assert "/config.yaml --out" in page.text["pre"][0]
    cells = " ".join(page.text["td"])
    assert "30 % of them open alike: look" in cells  # the audit
    assert "the same words but one; a guess" in cells  # contamination
    assert "saturated" in cells  # a flag of a divergence
    heads = " ".join(page.text["th"])
    assert "refusal combined and refusal strings" in heads  # judges that disagree
    assert all(name in heads for name in ("train", "attacks", "TFLOP", "tokens per second"))  # cost


def test_the_index_of_d_b_is_set_as_one_and_its_surroundings_stay_escaped(hostile: Page) -> None:
    assert "DB, paper mode" in "".join(hostile.text["th"])
    assert "B" in hostile.text["sub"]


@pytest.mark.parametrize(
    "models",
    [
        pytest.param([], id="none"),
        pytest.param(RUN.models[:1], id="base"),
        pytest.param(RUN.models[1:], id="no base"),
        pytest.param([model for model in RUN.models if model.data != "pref"], id="cr"),
        pytest.param([model for model in RUN.models if model.data != "cr"], id="pref"),
        pytest.param(BARE, id="bare"),
        pytest.param(
            [with_part(model, over_refusal=None)._replace(divergence={}) for model in RUN.models], id="no held out"
        ),
        pytest.param([with_part(model, asr={}) for model in RUN.models], id="no attack"),
        pytest.param(
            [
                with_part(model, asr={"direct": UNDECIDED}, separation={"bhattacharyya_paper": UNDECIDED})
                for model in RUN.models
            ],
            id="undecided",
        ),
        pytest.param(
            [
                model._replace(seed=seed, name=f"{model.name}-{seed}", title=f"{model.title} seed {seed}")
                for seed in (0, 1)
                for model in RUN.models
            ],
            id="seeds",
        ),
        pytest.param(
            [model._replace(data="mine" if model.data == "pref" else model.data) for model in RUN.models], id="own data"
        ),
    ],
)
def test_a_run_that_holds_less_still_makes_a_whole_page(models: Sequence[ModelFacts]) -> None:
    text = page_of(models, seconds=None)
    assert Page(text).open == []
    assert "This run has no verdict." in text
    assert not re.search(r"\b(nan|None|inf)\b", re.sub(r"<script.*", "", text, flags=re.DOTALL))


def test_what_is_undecided_is_never_shown_as_zero() -> None:
    part = NOTHING._replace(asr={"direct": UNDECIDED}, over_refusal=UNDECIDED)
    page = Page(page_of([model._replace(in_distribution=part) for model in BARE]))
    rates = page.text["td"]
    assert not [text for text in rates if re.match(r"[†<>]?\s*\d", text)]
    assert {"undecided", "not measured"} <= set(rates)
    assert not [attributes for attributes in page.all("rect") if "bar" in attributes.get("class", "")]


def test_topics_of_the_training_data_are_named_only_where_others_were_held_out() -> None:
    apart, together = page_of(RUN.models), page_of([model._replace(held_out=None) for model in RUN.models])
    assert ["Topics of the training data" in text for text in (apart, together)] == [True, False]
    assert "Evaluation prompts" in together


def test_prompts_in_the_training_set_are_a_warning_above_the_table() -> None:
    marked = page_of(RUN.models, trained_on=3)
    assert marked.index("3 of the evaluation prompts are in the training set") < marked.index("<table")
    assert "evaluation prompts are in the training set" not in page_of(RUN.models)


def test_the_title_is_the_verdict() -> None:
    better = Estimate(-0.5, -0.7, -0.3, 192)
    models = [model._replace(score_change=better if model.method else None) for model in RUN.models]
    titles = [Page(page_of(models[:count])).text["h1"][0] for count in (1, 11)]
    assert titles == [
        "No aligned model is in this run",
        "kto on pref is harder to attack than the base under every attack; over-refusal shows no measurable change",
    ]


def test_the_glossary_explains_what_is_on_the_page_and_nothing_else() -> None:
    labels = {entry.label: entry.meaning for entry in glossary(facts().models)}
    attacked = {name for model in facts().models for name in model.in_distribution.asr}
    for name, meaning in ATTACKS.items():
        assert (f"{attack_words(name)}: {meaning}" in labels["attacks"]) == (name in attacked)
    methods = {model.method for model in facts().models if model.method}
    assert all(f"{method}: " in labels["methods"] for method in methods)
    assert "dpo: " not in labels["methods"] or "dpo" in methods


def test_the_page_names_the_base_model_and_its_hash(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    base = run / "models" / "base"
    base.mkdir(parents=True, exist_ok=True)
    (base / "model.json").write_text('{"source": "/somewhere/of/mine/tiny.gguf"}')
    page = write_report(run).read_text()
    assert "base model tiny.gguf" in page
    assert "/somewhere" not in page
    (base / "model.json").write_text('{"source": "owner/name"}')
    assert "base model owner/name" in write_report(run).read_text()
