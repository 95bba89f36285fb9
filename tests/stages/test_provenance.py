"""What a run folder says of its origin is written once and found again."""

from pathlib import Path

from divalign.records import EnvironmentRecord, read_record
from divalign.stages.provenance import audit_training_sets, versions, write_environment
from divalign.store import read_json, write_json, write_rows
from tests.folders import times


def test_the_versions_are_those_of_the_beginning(tmp_path: Path) -> None:
    write_environment(tmp_path)
    path = tmp_path / "environment.json"
    assert read_record(path, EnvironmentRecord).versions == versions()
    write_json(path, EnvironmentRecord(versions={"torch": "1"}).plain())
    write_environment(tmp_path)
    assert read_record(path, EnvironmentRecord).versions == {"torch": "1"}


def test_training_sets_are_audited_against_the_evaluation_prompts_and_only_once(tmp_path: Path) -> None:
    texts = [f"Tell me about the {word}" for word in ("sun", "moon", "tide", "wind", "rain", "snow")]
    rows = [
        {"prompt": [{"role": "user", "content": text}], "chosen": [{"role": "assistant", "content": "Sure, it is so."}],
         "rejected": [{"role": "assistant", "content": "I will not."}], "harmful": number % 2 == 0}
        for number, text in enumerate(texts)
    ]  # fmt: skip
    write_rows(tmp_path / "data" / "cr-seed0.jsonl", rows)
    write_rows(tmp_path / "data" / "cr-test.jsonl", rows)  # is measured on, not trained on
    write_rows(tmp_path / "data" / "prompts.jsonl", [{"prompt": text, "harmful": True} for text in texts[:3]])
    audits = audit_training_sets(tmp_path)
    assert list(audits) == ["cr-seed0.jsonl"]
    leaks = next(finding for finding in audits["cr-seed0.jsonl"]["findings"] if finding["check"] == "leaks")
    assert leaks["value"] == 1.0
    before = times(tmp_path)
    assert audit_training_sets(tmp_path) == audits
    assert times(tmp_path) == before
    assert read_json(tmp_path / "data" / "cr-seed0.jsonl.audit.json") == audits["cr-seed0.jsonl"]
