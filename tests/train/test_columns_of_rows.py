"""Columns beside a row's texts reach rewards and clusters as they were given."""

import pytest

from divalign.train.couples import encode_rows
from tests.tiny import tiny_model

TOKENIZER = tiny_model()[1]
PAIR = {"prompt": "ask", "chosen": "yes", "rejected": "no"}


@pytest.mark.parametrize("no", ["false", "False", "0", 0, False])
def test_harmful_is_read_as_files_write_it(no: object) -> None:
    encoded = encode_rows([{**PAIR, "harmful": no}, {**PAIR, "harmful": "true"}], TOKENIZER, max_length=None)
    assert encoded.harmful[0] == [False, True]


def test_a_word_that_is_neither_yes_nor_no_is_refused() -> None:
    with pytest.raises(ValueError, match="'harmful' holds 'maybe', expected true or false"):
        encode_rows([{**PAIR, "harmful": "maybe"}], TOKENIZER, max_length=None)


def test_the_gaps_of_a_data_frame_are_no_values() -> None:
    rows = [{**PAIR, "prompt": name, "harmful": float("nan"), "cluster": float("nan")} for name in ("a", "b")]
    encoded = encode_rows(rows, TOKENIZER, max_length=None)
    assert encoded.harmful[0] == [None, None]
    assert encoded.clusters[0] == ["a", "b"]


def test_no_column_of_a_row_is_overwritten() -> None:
    row = {**PAIR, "reference": "42 is right", "number": 7, "side": "left"}
    encoded = encode_rows([row, row], TOKENIZER, max_length=None)
    assert encoded.rows[0] == encoded.rows[1] == [row, row]
