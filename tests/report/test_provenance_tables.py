"""The tables of where numbers come from."""

from divalign.records import CostRecord, RatesRecord
from divalign.report.provenance import (
    agreement_table,
    audit_tables,
    cost_table,
    judges_table,
    overlap_table,
    stage_seconds,
)
from tests.report.runs import entries, facts, model, rates_record


def test_a_stage_belongs_to_the_model_that_its_announcement_ends_with() -> None:
    stages = {"train cr-kldo": 3.0, "hidden states kldo": 1.0, "train kldo": 2.0, "answers nobody": 9.0}
    assert stage_seconds(stages, ["kldo", "cr-kldo"]) == {
        "cr-kldo": {"train": 3.0},
        "kldo": {"hidden states": 1.0, "train": 2.0},
    }
    assert stage_seconds({"train big model": 1.0}, ["model", "big model"]) == {"big model": {"train": 1.0}}


def test_the_cost_has_seconds_tokens_operations_and_speed_of_each_model() -> None:
    stage = {"stage": "train", "rows": 1, "tokens": 2000.0, "operations": 3e12}
    cost = CostRecord.model_validate({"parameters": 9, "stages": [{"model": "kldo-cr-0", **stage}] * 2})
    training = {"updates": 8, "tokens_per_second": 500.0, "mfu": 0.25}
    run = facts(models=[])._replace(
        models=(model("kldo", "cr", training=training), model()), stages={"train kldo-cr-0": 7.0}, cost=cost
    )
    table = cost_table(run)
    assert table is not None
    assert [cell.value for cell in table.rows[0].cells] == ["7", "7", "4,000", "6", "8", "500", "25\xa0%"]
    assert {cell.value for cell in table.rows[1].cells} == {"none"}
    assert cost_table(facts()) is None


def test_a_judge_s_errors_come_with_their_warning() -> None:
    record = rates_record(entries()[1])
    record["judges"][0]["errors"]["warning"] = "measured on other models"
    table = judges_table([model("kldo", "cr", rates=RatesRecord.model_validate(record))])
    assert table is not None
    assert [row.label for row in table.rows] == ["kldo on CR, refusal combined", "kldo on CR, refusal strings"]
    assert [cell.value for cell in table.rows[0].cells] == ["576", "15", "1", "84\xa0%", "93\xa0%"]
    assert table.rows[1].cells[-1].value == "not measured"
    assert table.notes == ("Measured on other models.",)
    assert judges_table([model()]) is None


def test_disagreement_is_shown_where_two_judges_read_the_responses() -> None:
    both, alone = (rates_record(entries()[1], judges) for judges in (("a", "b"), ("a",)))
    table = agreement_table([model("kldo", "cr", rates=RatesRecord.model_validate(both))])
    assert table is not None
    assert [cell.value for cell in table.rows[0].cells] == ["90\xa0%", "0.800", "1"]
    assert agreement_table([model("kldo", "cr", rates=RatesRecord.model_validate(alone))]) is None


def test_what_needs_a_look_and_leaks_come_first_in_the_audit() -> None:
    checks = {"openings": "look", "lengths": "fine", "leaks": "fine", "sides": "do not train", "tokens": "not measured"}
    findings = [{"check": name, "verdict": verdict, "value": None, "words": "w"} for name, verdict in checks.items()]
    first, rest = audit_tables({"cr.jsonl": {"findings": findings}})
    assert first is not None
    assert rest is not None
    assert [row.label for row in first.rows] == ["cr.jsonl, sides", "cr.jsonl, openings", "cr.jsonl, leaks"]
    assert [row.label for row in rest.rows] == ["cr.jsonl, tokens", "cr.jsonl, lengths"]
    assert audit_tables({}) == [None, None]


def test_contamination_is_counted_by_kind_of_how_many() -> None:
    table = overlap_table({"exact": 2, "n": 100})
    assert table is not None
    assert [(row.label, row.cells[0].value, row.cells[0].n) for row in table.rows] == [("exact", "2", "of 100")]
    assert overlap_table(None) is None
