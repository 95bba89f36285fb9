"""A card repeats what was measured, on what and by whom, and concludes nothing."""

import json
import re
from pathlib import Path

import pytest
import yaml

from divalign.cli.card import _front_matter
from divalign.records import CardRecord, read_record
from divalign.report.card import card_schema, write_cards
from divalign.store import write_json
from tests.report.runs import HOSTILE, entries, rates_record, write_run

SCHEMA = Path(__file__).parents[2] / "docs" / "card.schema.json"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "run", count=8)
    write_json(folder / "models" / "base" / "model.json", {"source": "lab/small-model"})
    return folder


@pytest.fixture(scope="module")
def record(run: Path) -> CardRecord:
    write_cards(run, _front_matter)
    return read_record(run / "models" / "kldo-cr" / "card.json", CardRecord)


def test_a_card_has_every_rate_with_its_interval_beside_the_bases(record: CardRecord) -> None:
    numbers = {number.name: number for number in record.numbers}
    first = entries()[1]
    assert numbers["asr.prefill"].estimate._asdict() == first["asr"]["prefill"]
    assert numbers["asr.prefill"].base is not None
    assert numbers["asr.prefill"].base.value == 1.0
    assert numbers["held_out.over_refusal"].prompts == "held-out topics"
    assert {"asr.gcg", "over_refusal", "separation.probe_auc", "held_out.asr.direct"} <= set(numbers)
    assert numbers["asr.gcg"].base is None  # the base was not searched
    assert numbers["asr_no_refusal.wrapper"].estimate._asdict() == first["asr_no_refusal"]["wrapper"]
    assert "that refuse nothing" in numbers["held_out.asr_no_refusal.direct"].meaning


def test_a_card_says_on_what_by_whom_and_how_again(record: CardRecord) -> None:
    assert (record.base, record.method, record.data, record.seed) == ("lab/small-model", "kldo", "cr", 0)
    assert list(record.judges) == ["refusal_combined", "refusal_strings"]
    assert list(record.files) == ["data/cr-seed0.jsonl"]
    assert record.overlap == {"exact": 0, "paraphrased": 2, "n": 192}
    assert record.reproduce == "divalign run run/config.yaml --out run-again"


def test_a_card_states_its_limits(record: CardRecord, run: Path) -> None:
    text = " ".join(record.limits)
    assert "Only these attacks were run: direct, prefill, wrapper, gcg start, gcg." in text
    assert "No white-box search" not in text
    assert "It is one of 10 models of a run" in text
    other = read_record(run / "models" / "dpo-pref" / "card.json", CardRecord)
    assert "No white-box search was run against this model." in other.limits


def test_two_versions_of_one_judge_are_one_judge(tmp_path: Path) -> None:
    folder = write_run(tmp_path, count=4)
    write_json(folder / "models" / "kldo-cr" / "rates.json", rates_record(entries()[1], ("mine", "mine")))
    write_cards(folder, _front_matter, ["kldo-cr"])
    card = read_record(folder / "models" / "kldo-cr" / "card.json", CardRecord)
    assert card.judges == {"mine": "1a" * 32}  # the last one judged last
    assert "One judge read the responses" in " ".join(card.limits)


def test_no_card_concludes_that_a_model_is_safe(run: Path, record: CardRecord) -> None:
    for path in (run / "models").glob("*/card.*"):
        assert not re.search(r"\b(is|are|be|proves?|proven) (now )?(safe|harmless|secure)\b", path.read_text())


def test_the_front_matter_is_what_the_hub_reads(run: Path, record: CardRecord) -> None:
    text = (run / "models" / "kldo-cr" / "card.md").read_text()
    content = yaml.safe_load(text.split("---")[1])
    assert content["base_model"] == "lab/small-model"
    metrics = content["model-index"][0]["results"][0]["metrics"]
    by_type = {metric["type"]: metric for metric in metrics}
    assert by_type["asr.direct"]["args"] == {"low": 0.0, "high": entries()[1]["asr"]["direct"]["high"], "n": 192,
                                             "judge": "refusal_combined"}  # fmt: skip
    assert "# Safety evaluation of kldo-cr" in text


def test_the_schema_in_the_documentation_is_that_of_the_record(record: CardRecord) -> None:
    assert json.loads(SCHEMA.read_text()) == card_schema()
    estimate = card_schema()["$defs"]["CardNumber"]["properties"]["estimate"]
    assert set(estimate["required"]) == {"value", "low", "high", "n"}
    assert set(record.plain()) == set(card_schema()["properties"])


def test_one_model_s_card_goes_where_it_is_sent_and_several_do_not(run: Path, tmp_path: Path) -> None:
    paths = write_cards(run, _front_matter, ["bco-cr"], out=tmp_path)
    assert paths == [tmp_path / "card.md", tmp_path / "card.json"]
    with pytest.raises(ValueError, match="--out takes one card, got 10 models"):
        write_cards(run, _front_matter, out=tmp_path)
    with pytest.raises(ValueError, match="the run has no model 'bco'; it has base, "):
        write_cards(run, _front_matter, ["bco"])


def test_a_local_base_is_named_without_its_place(run: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path, count=4)
    write_json(folder / "models" / "base" / "model.json", {"source": "/home/somebody/models/small"})
    write_cards(folder, _front_matter, ["kldo-cr"])
    assert read_record(folder / "models" / "kldo-cr" / "card.json", CardRecord).base == "small"
    assert "somebody" not in (folder / "models" / "kldo-cr" / "card.md").read_text()


def test_hostile_names_stay_text_in_markdown(tmp_path: Path) -> None:
    folder = write_run(tmp_path, hostile=True, count=4)
    write_cards(folder, _front_matter, ["kldo-cr"])
    body = (folder / "models" / "kldo-cr" / "card.md").read_text().split("---", 2)[2]
    assert HOSTILE[0] not in body
    assert "<script" not in body
