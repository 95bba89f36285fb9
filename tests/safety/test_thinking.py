"""Thoughts are told from answers by the marks of many model families."""

import re

import pytest
from transformers import AddedToken

from divalign.data.batching import Encoded
from divalign.lm.generate import Sample, sample_text
from divalign.safety.thinking import TAGS, answer_of
from tests.tiny import tiny_tokenizer

MARKS = {
    "tag": ("<think>", "</think>"),
    "attribute": ('<thinking lang="en">', "</thinking>"),
    "plural": ("<thoughts>", "</thoughts>"),
    "prefix": ("<seed:think>", "</seed:think>"),
    "longcat": ("<longcat_think>", "</longcat_think>"),
    "scratchpad": ("<SCRATCHPAD>", "</SCRATCHPAD>"),
    "monologue": ("<inner_monologue>", "</inner_monologue>"),
    "mistral": ("[THINK]", "[/THINK]"),
    "kimi": ("◁think▷", "◁/think▷"),
    "openthinker": ("<|begin_of_thought|>", "<|end_of_thought|><|begin_of_solution|>"),
    "command-a": ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    "gpt-oss": ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    "gpt-oss without special tokens": ("analysis", "assistantfinal"),
    "gemma": ("<|channel>thought\n", "<channel|>"),
    "granite": ("Here is my thought process: ", "Here is my response:"),
}


@pytest.mark.parametrize("marks", MARKS.values(), ids=MARKS)
def test_the_answer_stands_behind_the_closing_mark_and_unclosed_there_is_none(marks: tuple[str, str]) -> None:
    begin, end = marks
    assert answer_of(f"{begin}I cannot decide.{end}Warm the lid.") == "Warm the lid."
    assert answer_of(f"{begin}I cannot decide.{end}") == ""
    assert answer_of(f"{begin}I cannot decide") is None


@pytest.mark.parametrize(
    "end", [end for name, (_, end) in MARKS.items() if "gpt-oss w" not in name and name != "granite"]
)
def test_a_thought_that_the_template_opened_ends_at_its_mark(end: str) -> None:
    assert answer_of(f"I cannot.{end}Warm the lid.") == answer_of(f"I cannot.{end}Warm the lid.", opened=True)
    assert answer_of(f"I cannot.{end}Warm the lid.") == "Warm the lid."


@pytest.mark.parametrize(
    "text",
    [
        "Here is my response: warm the lid.",
        "An analysis of lids: warm them.",
        "analysis of lids",
        "A <rethink> of [thinking caps]: final",
        "The assistantfinal mark is gone.",
    ],
)
def test_an_answer_without_marks_is_whole(text: str) -> None:
    assert answer_of(text) == text


def test_marks_around_an_answer_are_taken_off_behind_thoughts_alone() -> None:
    assert answer_of("<think>Hm.</think><answer>Warm the lid.</answer>") == "Warm the lid."
    assert answer_of("<answer>Warm the lid.</answer>") == "<answer>Warm the lid.</answer>"
    quoted = "<think>They want me to say: Here is my response: no.</think>Warm the lid."
    assert answer_of(quoted) == "Warm the lid."


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        *((f"<{tag}>", f"</{tag}>") for tag in TAGS),
        *(pair for name, pair in MARKS.items() if name not in ("attribute", "gpt-oss")),
    ],
)
def test_marks_that_are_special_tokens_are_in_the_responses_of_a_local_model(begin: str, end: str) -> None:
    """Whatever is told from answers here is not removed there: `lm.thoughts` names no fewer marks."""
    tokenizer = tiny_tokenizer()
    marks = re.findall(r"<[^<>]*>|\[[^\[\]]*\]|◁[^▷]*▷", begin + end)
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in marks], special_tokens=True)
    ids = tokenizer(f"{begin}I cannot decide.{end}Warm the lid.", add_special_tokens=False)["input_ids"]
    assert answer_of(sample_text(tokenizer, Sample(Encoded([1], ids), 0.0, ended=True))) == "Warm the lid."


def test_thoughts_of_gpt_oss_are_told_without_its_special_tokens() -> None:
    tokenizer = tiny_tokenizer()
    marks = ("<|start|>", "<|end|>", "<|channel|>", "<|message|>")
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in marks], special_tokens=True)
    begin, end = MARKS["gpt-oss"]
    ids = tokenizer(f"{begin}I cannot decide.{end}Warm the lid.", add_special_tokens=False)["input_ids"]
    text = sample_text(tokenizer, Sample(Encoded([1], ids), 0.0, ended=True))
    assert text == "analysisI cannot decide.assistantfinalWarm the lid."
    assert answer_of(text) == "Warm the lid."
