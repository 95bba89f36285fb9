"""A prompt is read in one way, wherever it stands."""

import json
from pathlib import Path

import pytest

from divalign.data.convert import Conversion
from divalign.data.files import Notes, read_file, stream_file
from divalign.data.formats import FORMATS
from divalign.data.prompts import prompt_of, read_prompts
from divalign.data.words import text_of

USER = {"role": "user", "content": "Describe the sea."}


@pytest.mark.parametrize(
    "row",
    [
        {"Goal": "Describe the sea."},
        {"prompt": None, "behavior": "Describe the sea."},
        {"messages": [USER]},
        {"messages": [USER, {"role": "assistant", "content": "Wet."}]},
        {"instruction": "Describe", "input": "the sea."},
        {"prompt": "Describe the sea.", "chosen": 3, "rejected": "b"},
        {
            "chosen": [USER, {"role": "assistant", "content": "a"}],
            "rejected": [USER, {"role": "assistant", "content": "u"}],
        },
        {"safety": 1, "prompt": "Describe the sea.", "acc_responses": [], "rej_responses": []},
    ],
)
def test_a_prompt_is_found_where_training_or_evaluation_rows_have_it(row: dict) -> None:
    assert " ".join(prompt_of(row).split()) == "Describe the sea."


def test_rows_without_a_prompt_are_refused_with_the_line_and_a_named_format_is_kept_to(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": " "}, {"query": "q"}, {"prompt": 3}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n" + "".join(f"{json.dumps(row)}\n" for row in rows))
    for source, kept in ((None, ["q"]), ("trl_plain", ["q"]), ("paper", [])):
        done = Conversion(notes=(notes := Notes()))
        assert list(read_prompts(stream_file(path, notes), source, done)) == kept
        assert [one.line for one in done.refused] == [2, 3, 4, 5][len(kept) :]
    with pytest.raises(ValueError, match="did you mean 'trl'"):
        list(read_prompts([], "trll"))
    with pytest.raises(ValueError, match="lacks the column"):
        prompt_of(rows[0], FORMATS["paper"])


def test_text_in_parts_is_put_together_and_what_is_no_text_refused() -> None:
    parts = [{"type": "text", "text": "Describe "}, {"type": "text", "text": "the sea."}]
    assert text_of([{"role": "user", "content": parts}]) == "Describe the sea."
    assert text_of([{"role": "user", "content": None}, USER]) == "Describe the sea."
    for content in ([{"type": "image_url", "image_url": "x"}], 3, [3], [{"type": "text"}]):
        with pytest.raises(ValueError, match="expected text, in one piece or in parts"):
            text_of([{"role": "user", "content": content}])


def test_lines_of_a_text_file_are_rows_with_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "eval.txt"
    path.write_bytes("Où est la mer?\r\n\r\nDescribe the sea.".encode("cp1252"))
    lines = []
    notes = Notes()
    for row in stream_file(path, notes):
        lines.append((notes.line, row["text"]))
    assert lines == [(1, "Où est la mer?"), (3, "Describe the sea.")]
    assert "not all UTF-8" in read_file(path).notes.sentences(path)[0]
