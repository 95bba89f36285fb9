import csv
import hashlib
import io

import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results
from hypothesis import given, settings
from hypothesis import strategies as st

from divalign.core.stats import Estimate, rate
from divalign.safety.export import FORMULA, model_card, redact, redacted, to_csv

ROWS = [
    {"id": "a", "response": 'the thing, "quoted"\nand <b>more</b>', "unsafe": True},
    {"id": "b", "response": '=HYPERLINK("http://example.org")', "unsafe": None, "extra": "é"},
]


@given(st.text(max_size=60))
@settings(derandomize=True, max_examples=40, deadline=None)
def test_redaction_tells_length_and_hash_and_nothing_else(text: str) -> None:
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert redact(text) == f"[redacted, {len(text)} characters, sha256 {digest[:8]}]"


def test_responses_are_redacted_unless_asked_for_and_the_rows_given_stay() -> None:
    assert [row["response"] for row in redacted(ROWS)] == [redact(row["response"]) for row in ROWS]
    assert redacted(ROWS, show_completions=True) == ROWS
    assert redacted([{"id": "a"}]) == [{"id": "a"}]
    assert "thing" in ROWS[0]["response"]


def test_what_an_attacker_model_wrote_is_redacted_as_well() -> None:
    row = {"id": "a", "message": "a sly thing", "response": "the thing"}
    assert redacted([row]) == [{"id": "a", "message": redact("a sly thing"), "response": redact("the thing")}]
    assert "sly" not in to_csv([row])
    assert redacted([{"id": "a", "message": "a sly thing"}], show_completions=True)[0]["message"] == "a sly thing"


def test_a_csv_is_read_back_and_runs_no_formula() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(ROWS, show_completions=True), newline="")))
    assert rows[0] == {"id": "a", "response": ROWS[0]["response"], "unsafe": "True", "extra": ""}
    assert rows[1]["response"] == "'" + ROWS[1]["response"]
    assert rows[1]["unsafe"] == ""
    text = to_csv([{"cell": f"{start}1"} for start in FORMULA])
    cells = [row[0] for row in csv.reader(io.StringIO(text, newline=""))]
    assert len(cells) == 1 + len(FORMULA)
    assert not [cell for cell in cells if cell.startswith(FORMULA)]


def test_the_name_of_a_column_runs_no_formula() -> None:
    text = to_csv([{f"{start}HYPERLINK": "a", "id": "b"} for start in FORMULA])
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    assert not [name for name in header if name.startswith(FORMULA)]
    assert header[:2] == ["'=HYPERLINK", "id"]
    assert rows[0][:2] == ["a", "b"]


def test_a_csv_holds_no_completion_by_default() -> None:
    assert "thing" not in to_csv(ROWS)
    assert "HYPERLINK" not in to_csv(ROWS)


def test_a_model_card_is_read_back_by_the_hubs_own_reader() -> None:
    numbers = {"asr/direct": rate([True] * 3 + [False] * 7), "over_refusal": Estimate(None, 0.0, 1.0, 0)}
    card = model_card("base", dataset="advbench", judge="refusal_strings", numbers=numbers)
    content = yaml.safe_load(card.strip().strip("-"))
    name, results = model_index_to_eval_results(content["model-index"])
    assert name == "base"
    (only,) = results
    assert (only.metric_type, only.metric_value, only.dataset_name) == ("asr/direct", 0.3, "advbench")
    assert only.metric_args["n"] == 10


def test_thoughts_are_redacted_as_responses_are_and_a_missing_response_stays_missing() -> None:
    rows = [{"id": "a", "response": None, "reasoning_content": "secret thoughts", "reasoning": "more of them"}]
    (hidden,) = redacted(rows)
    assert hidden["response"] is None
    assert "secret" not in str(hidden)
    assert "more of" not in str(hidden)
    assert redacted(rows, show_completions=True) == rows
