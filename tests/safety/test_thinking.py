"""Thoughts are told from answers by the marks of many model families."""

import pytest

from divalign.safety.thinking import answer_of

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
