"""The base's own answers: written once, on the side their prompt says, and left out where they stand for neither."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from divalign.cli import main
from divalign.config import load_config
from divalign.data.examples import Conversation, Request
from divalign.data.recipes import training_rows
from divalign.lm.responses import Response
from divalign.safety.journal import Journal
from divalign.stages.answers import (
    AnswerPlan,
    answer_corpora,
    needs_worse_answer,
    placeholders,
    whole_sentences,
    write_answers,
)
from divalign.stages.corpus import Corpus
from divalign.stages.folder import silent
from divalign.stages.models import OpenModel, find_model
from divalign.store import read_json, read_rows
from divalign.study.run import read_inputs, run
from tests.folders import times
from tests.study.test_run import small
from tests.tiny import save_tiny

REFUSAL = "I'm sorry, but I can't help with that."


def request(prompt: str, *, harmful: bool) -> Request:
    return Request(prompt, harmful, "", "", "", "")


TRAIN = [request(f"harmful {n}", harmful=True) for n in range(4)] + [
    request(f"benign {n}", harmful=False) for n in range(4)
]
TEST = [request("harmful test", harmful=True), request("benign test", harmful=False)]


class Scripted:
    """A model that answers by a table, and a count of what it was asked at each temperature."""

    def __init__(self, answers: dict[str, str] | None = None) -> None:
        self.answers, self.asked = answers or {}, []

    def model(self) -> OpenModel:
        return OpenModel("scripted", "key of scripted", self.generate, None)

    def generate(
        self, conversations: Sequence[Conversation], *, on_response: Any, temperature: float = 0.0, **_: Any
    ) -> list[Response]:
        for place, one in enumerate(conversations):
            prompt = one.messages[-1]["content"]
            self.asked.append((prompt, temperature))
            text = self.answers.get(prompt, f"Here is what I know of {prompt}. It is much.")
            on_response(place, Response(f"A draw for {prompt}." if temperature else text))
        return []


def answered(scripted: Scripted, folder: Path, **plan: Any) -> Corpus:
    corpora = {0: Corpus(TRAIN, TEST, [])}
    return answer_corpora(corpora, scripted.model(), AnswerPlan(**plan), folder, progress=silent)[0]


def test_own_answers_are_aligned_on_benign_prompts_and_unaligned_on_harmful_ones(tmp_path: Path) -> None:
    rows = training_rows(answered(Scripted(), tmp_path).train, "cr")
    assert len(rows) == 8
    for row in rows:
        own, other = ("rejected", "chosen") if row["harmful"] else ("chosen", "rejected")
        assert row[own][0]["content"] == f"Here is what I know of {row['prompt'][0]['content']}. It is much."
        assert "know of" not in row[other][0]["content"]


def test_an_answer_is_written_once_and_found_again_whatever_is_lost(tmp_path: Path) -> None:
    scripted = Scripted()
    answered(scripted, tmp_path)
    assert len(scripted.asked) == 10
    before = times(tmp_path)
    answered(scripted, tmp_path)
    assert times(tmp_path) == before
    (tmp_path / "answers.jsonl").unlink()
    answered(scripted, tmp_path)
    assert len(scripted.asked) == 10


def test_a_torn_line_of_the_journal_costs_one_answer(tmp_path: Path) -> None:
    scripted = Scripted()
    answered(scripted, tmp_path)
    path = tmp_path / "answers.journal"
    path.write_bytes(path.read_bytes()[:-5])
    (tmp_path / "answers.jsonl").unlink()
    answered(scripted, tmp_path)
    assert len(scripted.asked) == 11
    with Journal(path) as journal:
        assert len(journal) == 10


def test_empty_and_refused_answers_make_no_rows_and_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scripted = Scripted({"harmful 0": " ", "harmful 1": REFUSAL, "benign 2": "\n", "benign test": REFUSAL})
    with caplog.at_level(logging.WARNING):
        corpus = answered(scripted, tmp_path)
    assert {one.prompt for one in corpus.train} == {f"harmful {n}" for n in (2, 3)} | {f"benign {n}" for n in (0, 1, 3)}
    assert "2 rows left out of 5 harmful prompts: 1 answers are empty, 1 refuse" in caplog.text
    counts = read_json(tmp_path / "answers.json")
    expected = {"prompts": 5, "empty": 1, "refused": 1, "incomplete": 0, "degenerate": 0}
    assert counts["harmful"] == counts["benign"] == expected
    assert [one.prompt for one in corpus.test] == ["harmful test", "benign test"]  # asked all the same
    assert [one.prompt for one in corpus.rows_of_test()] == ["harmful test"]


THOUGHTS = "<think>\nThe user asks. Which flour should I"
LOOP = "bread bread bread bread bread bread bread bread bread bread"


def test_unfinished_thoughts_cut_openings_and_loops_make_no_rows_and_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scripted = Scripted({"harmful 0": THOUGHTS, "benign 0": THOUGHTS, "benign 1": "Sure, here is:", "benign 2": LOOP})
    with caplog.at_level(logging.WARNING):
        corpus = answered(scripted, tmp_path)
    assert {one.prompt for one in corpus.train} == {f"harmful {n}" for n in (1, 2, 3)} | {"benign 3"}
    assert "3 rows left out of 5 benign prompts" in caplog.text
    assert "0 answers are empty, 0 refuse, 2 are incomplete, 1 are degenerate" in caplog.text
    counts = read_json(tmp_path / "answers.json")["benign"]
    assert counts == {"prompts": 5, "empty": 0, "refused": 0, "incomplete": 2, "degenerate": 1}


def test_what_is_learnt_is_the_answer_behind_the_thoughts(tmp_path: Path) -> None:
    scripted = Scripted({"benign 0": "<think>Hm. Rye.</think>\n\nTake rye flour. Then", "benign test": THOUGHTS})
    corpus = answered(scripted, tmp_path)
    assert {one.compliance for one in corpus.train if one.prompt == "benign 0"} == {"Take rye flour."}
    assert corpus.unanswered == {"benign test"}


def test_thoughts_that_the_template_opens_are_no_answer_before_they_end(tmp_path: Path) -> None:
    folder = save_tiny("Llama", tmp_path / "model")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<assistant>{%", "<assistant><think>\n{%"))
    rows = write_answers(find_model(str(folder)), TRAIN[:2], AnswerPlan(4), tmp_path / "run", progress=silent)
    assert [(row["answer"], row["kind"]) for row in rows] == [("", "incomplete")] * 2


def test_a_base_that_refuses_already_has_nothing_to_align(tmp_path: Path) -> None:
    refusing = {f"harmful {n}": REFUSAL for n in range(4)}
    scripted = Scripted({**refusing, "harmful test": REFUSAL})
    with pytest.raises(ValueError, match=r"refuses 5 of the 5 harmful prompts already.*there is nothing to align"):
        answered(scripted, tmp_path / "all")
    with pytest.raises(ValueError, match="no answer of scripted is left of 5 harmful prompts"):
        answered(scripted, tmp_path / "all", allow_refusing=True)
    almost = Scripted(refusing)  # 4 of 5 is 80 %, and not over it
    assert len(answered(almost, tmp_path / "some").train) == 4


def test_the_worse_answer_is_the_models_own_at_a_high_temperature(tmp_path: Path) -> None:
    scripted = Scripted()
    rows = training_rows(answered(scripted, tmp_path, worse=True).train, "pref")
    assert sum(temperature > 1 for _, temperature in scripted.asked) == 5
    benign = [row for row in rows if not row["harmful"]]
    assert {row["rejected"][0]["content"] for row in benign} == {f"A draw for benign {n}." for n in range(4)}
    assert all("know of" in row["chosen"][0]["content"] for row in benign)


def test_a_draw_that_says_the_same_gives_way_to_the_answer_to_another_prompt(tmp_path: Path) -> None:
    same = Scripted({"benign 1": "A draw for benign 1."})
    rows = training_rows(answered(same, tmp_path, worse=True).train, "pref")
    row = next(row for row in rows if row["prompt"][0]["content"] == "benign 1")
    assert "know of benign" in row["rejected"][0]["content"]


@pytest.mark.parametrize(
    ("recipe", "needed"),
    [("cr", False), ("cr_plus", False), ("ranked_refusals", False), ("pref", True), ("ranked", True)],
)
def test_worse_answers_are_drawn_for_recipes_that_read_them(recipe: str, needed: bool) -> None:
    assert needs_worse_answer(recipe) is needed


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("One is this. Two is", "One is this."),
        (' Is it "so?" Then', 'Is it "so?"'),
        ("No end here", "No end here"),
        ("These: 1. salt 2. su", "These: 1. salt 2. su"),
        ("Use 3.5 grams! Then 2.", "Use 3.5 grams!"),
        ("  ", ""),
    ],
)
def test_a_cut_answer_ends_with_its_last_whole_sentence(text: str, whole: str) -> None:
    assert whole_sentences(text) == whole


def test_placeholders_are_as_long_as_the_answers_may_be() -> None:
    corpus = placeholders(Corpus(TRAIN, TEST, []), 12)
    assert {len(one.compliance.split()) for one in (*corpus.train, *corpus.test)} == {12}
    assert len(training_rows(corpus.train, "pref")) == 8


def test_another_length_or_model_is_another_answer(tmp_path: Path) -> None:
    scripted = Scripted()
    write_answers(scripted.model(), TRAIN, AnswerPlan(8), tmp_path, progress=silent)
    write_answers(scripted.model(), TRAIN, AnswerPlan(9), tmp_path, progress=silent)
    write_answers(scripted.model()._replace(key="other"), TRAIN, AnswerPlan(9), tmp_path, progress=silent)
    assert len(scripted.asked) == 24


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    save_tiny("Llama", folder / "model")
    run(own(folder), folder / "out")
    return folder


def own(folder: Path) -> Any:
    return small(
        f"model.source={folder / 'model'}", "data.source=everyday_train", "data.measure_on=everyday_test",
        "data.answers=model", "data.answer_tokens=6", "data.n_test=40", "train.methods=[dpo]", "train.sft_weight=1",
        "train.lora.rank=2", "train.epochs=0.4", "train.updates=null", "train.updates_on={}",
    )  # fmt: skip


def test_a_run_trains_on_the_answers_of_its_base(finished: Path) -> None:
    answers = {row["prompt"]: row for row in read_rows(finished / "out/data/answers.jsonl")}
    rows = read_rows(finished / "out/data/cr-seed0.jsonl")
    assert rows
    for row in rows:
        own = row["rejected" if row["harmful"] else "chosen"][0]["content"]
        assert own == answers[row["prompt"][0]["content"]]["answer"]
    benign = [row for row in read_rows(finished / "out/data/pref-seed0.jsonl") if not row["harmful"]]
    assert any(row["rejected"][0]["content"] == answers[row["prompt"][0]["content"]]["worse"] for row in benign)
    results = read_json(finished / "out/results.json")
    assert [model["name"] for model in results["models"]] == ["base", "cr-dpo", "pref-dpo"]
    assert "sft_weight: 1.0" in (finished / "out/config.yaml").read_text()


def test_a_second_run_with_own_answers_does_no_work(finished: Path) -> None:
    def refuse(stage: str, total: int, unit: str) -> Any:
        raise AssertionError(f"the stage {stage!r} was done again")

    before = times(finished / "out")
    run(own(finished), finished / "out", progress=refuse)
    assert times(finished / "out") == before


def test_reading_the_inputs_asks_no_model(finished: Path) -> None:
    inputs = read_inputs(own(finished))
    assert len(inputs.models) == 2
    assert "word word" in json.dumps(inputs.models[0].rows[0])


def test_train_alone_lets_the_base_answer_too(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = finished / "out/config.yaml"
    assert load_config(path).data.answers == "model"
    options = ["--method", "kto", "--epochs", "1", "--out", str(tmp_path), "--quiet"]
    monkeypatch.setattr("sys.argv", ["divalign", "train", str(path), *options])
    main()
    rows = read_rows(tmp_path / "data/answers.jsonl")
    assert len(rows) == 24
    assert (tmp_path / "checkpoint/adapter_model.safetensors").is_file()
    training = read_json(tmp_path / "training.json")
    assert training["rows"]["rows"] == sum(
        row["answer"] != "" and row["kind"] not in ("refusal", "incomplete", "degenerate") for row in rows
    )
    assert training["updates"] == math.ceil(training["rows"]["rows"] / 4)  # of 4 pairs each
