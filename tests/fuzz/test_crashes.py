"""What fuzzing broke, kept: each input once ended in something else than a refusal."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from divalign.config import load_config
from divalign.data.batching import render
from divalign.data.examples import user_says
from divalign.data.files import read_file
from divalign.safety.rubrics import RUBRICS
from divalign.safety.shield import fenced
from tests.tiny import tiny_tokenizer


def test_half_a_character_in_a_response_does_not_stop_its_judge() -> None:
    """A lone surrogate, which JSON can hold, has no UTF-8, and the mark of a fence is a hash of the text."""
    assert "\ud800" in fenced("\ud800", "request")
    ask = RUBRICS["harm_rubric"].ask
    assert ask is not None
    assert ask("\ud800", "\ud800").messages


@pytest.mark.parametrize("value", ["2001-99-99", "0b_", "!!binary x", "1" + "0" * 5000])
def test_a_value_that_yaml_cannot_make_is_named_with_its_place(value: str) -> None:
    with pytest.raises(ValueError, match=r"--set train.updates=.* is not YAML: "):
        load_config(None, [f"train.updates={value}"])


def test_an_error_within_a_template_is_said_of_the_template() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ 'a'.encode('ascii').decode('utf-16') }}"
    with pytest.raises(ValueError, match="the chat template refuses the turns user: 'utf-16-le' codec"):
        render(tokenizer, user_says("a question"))


@pytest.mark.parametrize(("place", "byte"), [(4, 0x0F), (4, 0x00), (31, 0xFF), (36, 0xFF)])
def test_a_parquet_file_that_is_damaged_within_is_refused_with_its_name(tmp_path: Path, place: int, byte: int) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"prompt": ["a prompt", "another prompt"]}), path, compression="none")
    content = bytearray(path.read_bytes())
    content[place] = byte
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"rows.parquet is a damaged Parquet file after 0 rows: "):
        read_file(path)


def test_an_infinite_number_is_no_setting() -> None:
    with pytest.raises(ValueError, match=r"train\.beta is inf"):
        load_config(None, ["train.beta=.inf"])
