"""`divalign data` as a user meets it: files in, tables, files and exit codes out."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import divalign.cli.audit as verbs
from bench.data import bad_rows, evaluation_rows, world_rows
from divalign.cli.app import app
from divalign.data.writing import write_file
from divalign.store import read_json, read_rows
from divalign.toy.world import ASSETS
from tests.tiny import tiny_tokenizer

HERE = str(Path(__file__).parents[2])


def data(*arguments: object) -> tuple[int, str]:
    """Run a verb of `divalign data` and return its exit code and what it printed; let bad input raise."""
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "printed", lambda: Console(width=250))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sets")
    write_file(path / "world.jsonl", world_rows())
    write_file(path / "bad.jsonl", bad_rows())
    write_file(path / "evaluation.csv", evaluation_rows())
    write_file(path / "typo.jsonl", [{"prompt": "q", "chosen": "a", "rejcted": "b"}])
    write_file(path / "other_typo.jsonl", [{"promt": "q", "chosen": "a", "rejected": "b"}])
    return path


def test_the_bad_set_is_stopped_with_exit_1_and_the_card_says_why(folder: Path, tmp_path: Path) -> None:
    card, findings = tmp_path / "card.html", tmp_path / "findings.json"
    options = ("--against", folder / "evaluation.csv", "--html", card, "--json", findings)
    code, said = data("audit", folder / "bad.jsonl", *options)
    assert code == 1
    assert "bad.jsonl: do not train" in said
    found = read_json(findings)
    assert found["verdict"] == "do not train"
    page = card.read_text()
    assert "bad.jsonl: do not train" in page
    assert "Content-Security-Policy" in page
    for finding in found["findings"]:
        assert finding["check"] in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_exit_code_reaches_the_shell(tmp_path: Path) -> None:
    write_file(tmp_path / "one.jsonl", [{"prompt": "What is the sea?", "chosen": "Water.", "rejected": "Sand."}])
    write_file(tmp_path / "other.jsonl", [{"prompt": "What is the sky?"}])
    for evaluation, code in (("one.jsonl", 1), ("other.jsonl", 0), ("none.jsonl", 2)):
        command = [sys.executable, "-m", "divalign", "data", "overlap", "one.jsonl", evaluation]
        ran = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": HERE}, capture_output=True)
        assert ran.returncode == code


def test_the_embedded_set_passes_and_its_card_file_speaks_for_its_licence(folder: Path, tmp_path: Path) -> None:
    findings = tmp_path / "findings.json"
    (folder / "world.jsonl.card.json").write_text('{"licence": "Apache-2.0", "source": "embedded world"}')
    options = ("--against", folder / "evaluation.csv", "--tokenizer", ASSETS, "--max-length", 160)
    code, said = data("audit", folder / "world.jsonl", *options, "--json", findings)
    verdicts = {one["check"]: one["verdict"] for one in read_json(findings)["findings"]}
    assert code == 0
    assert "world.jsonl: fine" in said
    assert {name for name, verdict in verdicts.items() if verdict != "fine"} == {"repeated ids", "divergence"}


def test_a_models_features_tell_the_sides_apart(tmp_path: Path) -> None:
    write_file(tmp_path / "some.jsonl", world_rows()[::8])
    data("audit", tmp_path / "some.jsonl", "--features", "toy", "--json", tmp_path / "findings.json")
    found = {one["check"]: one for one in read_json(tmp_path / "findings.json")["findings"]}["divergence"]
    assert found["verdict"] == "fine"
    assert found["numbers"]["low"] < found["numbers"]["value"] < found["numbers"]["high"]


def test_torn_lines_are_told_and_counted_in_the_audit(folder: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.jsonl"
    torn.write_text((folder / "world.jsonl").read_text() + "{torn\n")
    data("audit", torn, "--json", tmp_path / "findings.json")
    found = read_json(tmp_path / "findings.json")
    assert found["findings"][0]["numbers"]["unreadable"] == 1
    assert "1 line of 1537 set aside in torn.jsonl.rejected.jsonl" in found["notes"][0]
    assert read_rows(tmp_path / "torn.jsonl.rejected.jsonl")[0]["line"] == 1537


def test_hostile_text_in_a_set_stays_text_on_its_card(folder: Path, tmp_path: Path) -> None:
    rows = [{**row, "source": "<script>alert(1)</script>"} for row in world_rows()[:100]]
    write_file(tmp_path / "<b>rows.jsonl", rows)
    data("audit", tmp_path / "<b>rows.jsonl", "--html", tmp_path / "card.html")
    page = (tmp_path / "card.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<b>rows" not in page


def test_a_set_goes_to_csv_and_back_by_way_of_another_trainers_rows(folder: Path, tmp_path: Path) -> None:
    code, said = data("convert", folder / "world.jsonl", "--to", "llamafactory_kto", "--out", tmp_path / "kto.csv")
    assert code == 0
    assert "3072 rows, trl to llamafactory_kto" in said
    code, _ = data("convert", tmp_path / "kto.csv", "--to", "trl", "--out", tmp_path / "back.jsonl")
    assert read_rows(tmp_path / "back.jsonl") == world_rows()


def test_what_a_format_cannot_hold_is_told(folder: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app,
        ["data", "convert", str(folder / "world.jsonl"), "--to", "openai_preference", "--out", f"{tmp_path}/o.jsonl"],
    )
    assert result.exit_code == 0
    assert "does not hold the column 'cluster': lost in 1536 rows" in " ".join(result.output.split())
    assert {"input", "preferred_output", "non_preferred_output"} == read_rows(tmp_path / "o.jsonl")[0].keys()


def test_rows_that_cannot_be_converted_are_set_aside_and_none_left_is_exit_1(tmp_path: Path) -> None:
    write_file(tmp_path / "rows.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    code, _ = data("convert", tmp_path / "rows.jsonl", "--to", "paper", "--out", tmp_path / "out.jsonl")
    assert code == 1
    aside = tmp_path / "out.jsonl.left_out.jsonl"
    assert "add the column 'harmful'" in read_rows(aside)[0]["reason"]
    data("convert", tmp_path / "rows.jsonl", "--to", "trl", "--out", tmp_path / "out.jsonl")
    assert not aside.exists()


def test_a_file_is_never_written_over_itself(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n{torn\n')
    (tmp_path / "link.jsonl").symlink_to(file)
    before = file.read_bytes()
    for out in (file, tmp_path / ".." / tmp_path.name / "train.jsonl", tmp_path / "link.jsonl"):
        with pytest.raises(ValueError, match="is the file that is read"):
            data("convert", file, "--to", "trl", "--out", out)
    with pytest.raises(ValueError, match="is the file that is read"):
        data("split", file, "--out", tmp_path)
    assert file.read_bytes() == before


def test_a_split_names_the_line_of_a_row_without_a_prompt(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('\n{"prompt": "q"}\n{"prompt": ""}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 3: its prompt is empty"):
        data("split", tmp_path / "rows.jsonl", "--out", tmp_path / "o")
    (tmp_path / "rows.jsonl").write_text('{"query": "q"}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1: a row has the columns query; expected one of prompt"):
        data("split", tmp_path / "rows.jsonl", "--out", tmp_path / "o")


def test_overlap_says_how_many_prompts_leak_and_where(folder: Path, tmp_path: Path) -> None:
    assert data("overlap", folder / "world.jsonl", folder / "evaluation.csv")[0] == 0
    prompts = [row["prompt"][0]["content"] for row in world_rows()]
    (tmp_path / "eval.txt").write_text("\n".join([prompts[3].upper(), "What is the sea made of?"]))
    code, said = data("overlap", folder / "world.jsonl", tmp_path / "eval.txt", "--json", tmp_path / "leaks.json")
    assert code == 1
    assert "50.0" in said
    assert read_json(tmp_path / "leaks.json") == {
        "train": {"file": str(folder / "world.jsonl"), "prompts": 1536, "unreadable": 0},
        "evaluations": {
            str(tmp_path / "eval.txt"): {
                "prompts": 2,
                "unreadable": 0,
                "leaks": [{"kind": "normalised", "evaluation": 1, "train": 4}],
            }
        },
    }


def test_leaks_are_numbered_as_the_lines_stand_in_their_files(tmp_path: Path) -> None:
    rows = [{"prompt": text, "chosen": "a", "rejected": "b"} for text in ("Name a sea.", "Describe tides at night.")]
    (tmp_path / "train.jsonl").write_text("{torn\n\n" + "".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "eval.csv").write_text('goal\n"Draw\na cloud."\n""\nDescribe tides at night.\n')
    with (tmp_path / "eval.csv").open("a") as file:
        file.write("Bake bread,and more\n")
    code, _ = data("overlap", tmp_path / "train.jsonl", tmp_path / "eval.csv", "--json", tmp_path / "leaks.json")
    found = read_json(tmp_path / "leaks.json")
    leak = found["evaluations"][str(tmp_path / "eval.csv")]
    assert code == 1
    assert found["train"] == {"file": str(tmp_path / "train.jsonl"), "prompts": 2, "unreadable": 1}
    assert leak == {"prompts": 2, "unreadable": 2, "leaks": [{"kind": "exact", "evaluation": 5, "train": 4}]}
    result = CliRunner().invoke(app, ["data", "overlap", str(tmp_path / "train.jsonl"), str(tmp_path / "eval.csv")])
    said = " ".join(result.output.split())
    assert "train.jsonl: 1 line of 3 set aside" in said
    assert "eval.csv: rows left out: 1; the first is line 4: its prompt is empty" in said


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Translate into French.", "input": "The sea is calm today.", "chosen": "a", "rejected": "b"},
        {"conversations": [{"from": "human", "value": "Describe the sea."}]}
        | {side: {"from": "gpt", "value": side} for side in ("chosen", "rejected")},
        {"input": {"messages": [{"role": "user", "content": "Describe the sea."}]}}
        | {f"{side}preferred_output": [{"role": "assistant", "content": "a"}] for side in ("", "non_")},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "Describe the sea."}]}]}
        | {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")},
    ],
    ids=["instruction and input", "sharegpt", "openai", "parts of text"],
)
def test_a_file_leaks_into_itself_whatever_its_format(tmp_path: Path, row: dict) -> None:
    file = tmp_path / "rows.jsonl"
    write_file(file, [row])
    code, _ = data("overlap", file, file, "--json", tmp_path / "leaks.json")
    assert (code, read_json(tmp_path / "leaks.json")["evaluations"][str(file)]["leaks"]) == (
        1,
        [{"kind": "exact", "evaluation": 1, "train": 1}],
    )
    data("audit", file, "--against", file, "--json", tmp_path / "found.json")
    leaks = next(one for one in read_json(tmp_path / "found.json")["findings"] if one["check"] == "leaks")
    assert leaks["numbers"][str(file)]["leaked"] == 1
    data("split", file, "--out", tmp_path / "parts")


def test_instructions_with_other_inputs_are_no_leaks(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Translate into French.", "input": text}
        for text in ("The sea is calm today, and the ships are out.", "My uncle breeds brown rabbits.")
    ]
    write_file(tmp_path / "train.jsonl", [{**rows[0], "chosen": "a", "rejected": "b"}])
    write_file(tmp_path / "other.jsonl", rows[1:])
    write_file(tmp_path / "same.jsonl", rows[:1])
    assert data("overlap", tmp_path / "train.jsonl", tmp_path / "other.jsonl")[0] == 0
    assert data("overlap", tmp_path / "train.jsonl", tmp_path / "same.jsonl")[0] == 1


def test_evaluation_files_of_one_name_are_both_looked_at_and_their_bad_rows_told(tmp_path: Path) -> None:
    rows = [{"prompt": "Describe the sea.", "chosen": "a", "rejected": "b"}]
    write_file(tmp_path / "train.jsonl", rows)
    for name, goal in (("a", "Describe the sea."), ("b", "Bake some bread.")):
        write_file(tmp_path / name / "set" / "eval.jsonl", [{"goal": goal}, {"goal": 3}])
    files = [tmp_path / name / "set" / "eval.jsonl" for name in ("a", "b")]
    against = [part for file in files for part in ("--against", file)]
    code, _ = data("audit", tmp_path / "train.jsonl", *against, "--json", tmp_path / "found.json")
    found = read_json(tmp_path / "found.json")
    leaks = next(one for one in found["findings"] if one["check"] == "leaks")
    assert code == 1
    assert {name: one["leaked"] for name, one in leaks["numbers"].items()} == {str(files[0]): 1, str(files[1]): 0}
    assert f"{files[1]}: rows left out: 1; the first is line 2: " in found["notes"][1]


def test_a_picture_in_a_row_is_refused_and_not_taken_for_no_text(tmp_path: Path) -> None:
    good = {"prompt": "q", "chosen": "a", "rejected": "b"}
    picture = [{"role": "user", "content": [{"type": "image", "image": "x.png"}, {"type": "text", "text": "What?"}]}]
    (tmp_path / "rows.jsonl").write_text(
        "".join(f"{json.dumps(row)}\n" for row in (good, {**good, "prompt": picture}, good))
    )
    data("audit", tmp_path / "rows.jsonl", "--json", tmp_path / "found.json")
    found = read_json(tmp_path / "found.json")
    assert found["findings"][0]["numbers"]["unreadable"] == 1
    assert found["notes"] == [
        "rows left out: 1; the first is line 2: a message holds image; expected text, in one piece "
        "or in parts of type text"
    ]


def test_findings_and_refusals_name_lines_of_the_file(tmp_path: Path) -> None:
    good = [{"id": n, "prompt": f"Question {n}?", "chosen": "a", "rejected": "b"} for n in (1, 2, 2)]
    bad = {"prompt": "q", "chosen": "a"}
    lines = [json.dumps(row) for row in (*good[:2], bad, good[2])]
    (tmp_path / "rows.jsonl").write_text("\n".join(["{torn", "", *lines]))
    data("audit", tmp_path / "rows.jsonl", "--json", tmp_path / "found.json")
    found = read_json(tmp_path / "found.json")
    ids = next(one for one in found["findings"] if one["check"] == "repeated ids")
    assert found["findings"][0]["numbers"]["unreadable"] == 2
    assert set(ids["rows"]) <= {4, 6}
    assert "the first is line 5: it lacks the column 'rejected'" in found["notes"][1]
    data("convert", tmp_path / "rows.jsonl", "--to", "trl", "--out", tmp_path / "out.jsonl")


def test_a_split_is_files_of_the_same_rows_and_stays_when_rows_are_added(folder: Path, tmp_path: Path) -> None:
    code, said = data(
        "split", folder / "world.jsonl", "--out", tmp_path / "a", "--share", "train=3", "--share", "test=1"
    )
    assert code == 0
    assert "0 of them also in train" in said
    first = {name: read_rows(tmp_path / "a" / f"{name}.jsonl") for name in ("train", "test")}
    assert sorted(map(json.dumps, first["train"] + first["test"])) == sorted(map(json.dumps, world_rows()))
    write_file(tmp_path / "more.jsonl", [*bad_rows(), *world_rows()])
    data("split", tmp_path / "more.jsonl", "--out", tmp_path / "b", "--share", "train=3", "--share", "test=1")
    for name, rows in first.items():
        later = read_rows(tmp_path / "b" / f"{name}.jsonl")
        assert all(row in later for row in rows[::50])
    assert read_json(tmp_path / "a" / "split.json")["rows"]["train"] == len(first["train"])


def test_a_split_over_one_of_more_sides_leaves_no_side_of_old_beside_the_new_ones(folder: Path, tmp_path: Path) -> None:
    out, fewer = tmp_path / "o", ("--share", "train=0.9", "--share", "test=0.1")
    data("split", folder / "world.jsonl", "--out", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ValueError, match=r"o holds validation\.jsonl of an earlier split .*; delete .* another --out"):
        data("split", folder / "world.jsonl", "--out", out, *fewer)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "validation.jsonl").unlink()
    data("split", folder / "world.jsonl", "--out", out, *fewer)
    (out / "notes.jsonl").write_text("mine")
    data("split", folder / "world.jsonl", "--out", out, *fewer, "--seed", 1)
    assert sorted(path.name for path in out.iterdir()) == ["notes.jsonl", "split.json", "test.jsonl", "train.jsonl"]


@pytest.mark.parametrize("text", ["{", "[1]", '{"shares": ["validation"]}', "mine"])
def test_a_split_does_not_write_over_a_split_json_that_is_none(folder: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(ValueError, match=r"split\.json is no record of a split; move it away, or name another --out"):
        data("split", folder / "world.jsonl", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["split.json"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("convert", "world.jsonl", "--to", "trll", "--out", "x.jsonl"), "did you mean 'trl'"),
        (("convert", "world.jsonl", "--to", "trl", "--out", "x.xlsx"), "ends in .xlsx; expected one of"),
        (("audit", "wrld.jsonl"), "did you mean world.jsonl"),
        (("audit", "evaluation.csv"), "no known format has the columns prompt"),
        (("audit", "typo.jsonl"), "is 'rejcted' meant to be 'rejected'"),
        (
            ("audit", "other_typo.jsonl"),
            "holds no row that can be read: rows left out: 1; .* lacks the column 'prompt'; is it 'promt'",
        ),
        (("split", "world.jsonl", "--out", "o", "--share", "train"), "expected SIDE=SHARE"),
        (("split", "world.jsonl", "--out", "o", "--share", "../x=1"), "is no name for a file"),
        (("split", "world.jsonl", "--out", "o", "--share", "a=0.5", "--share", "a=0.5"), "the side 'a' is there twice"),
        (("split", "world.jsonl", "--out", "o", "--share", "a=nan"), "^the shares are {'a': nan}; expected at least"),
        (("audit", "world.jsonl", "--tokenizer", "nowhere"), "expected a tokenizer.json"),
        (("audit", "world.jsonl", "--chat-template", "plain"), "name it with --tokenizer FOLDER"),
    ],
)
def test_bad_input_is_told_in_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=sentence):
        data(*arguments)


def test_a_spreadsheets_yes_and_no_are_understood(tmp_path: Path) -> None:
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "completion", "label", "harmful"], ["q", "a", "TRUE", "0"]])
    data("convert", tmp_path / "rows.csv", "--to", "trl_unpaired_plain", "--out", tmp_path / "out.jsonl")
    assert read_rows(tmp_path / "out.jsonl") == [{"prompt": "q", "completion": "a", "label": True, "harmful": False}]


def test_a_built_set_is_split_without_leaks_though_prompts_differ_in_case(tmp_path: Path) -> None:
    rows = [
        {"prompt": text, "harmful": n % 2 == 0, "compliance": f"Sure {n}.", "refusal": f"No {n}."}
        for n, row in enumerate(world_rows()[:60])
        for text in (row["prompt"][0]["content"], row["prompt"][0]["content"].upper())
    ]
    write_file(tmp_path / "own.jsonl", rows)
    data("build", f"file:{tmp_path / 'own.jsonl'}", "--out", tmp_path / "set.jsonl")
    _, said = data(
        "split", tmp_path / "set.jsonl", "--out", tmp_path / "parts", "--share", "train=1", "--share", "test=1"
    )
    assert "test: 0 rows" not in said
    assert "0 of them also in train" in said


def test_a_file_of_which_no_row_is_known_is_named_with_the_line_of_the_first(tmp_path: Path) -> None:
    for count in (1, 150):
        (tmp_path / "rows.jsonl").write_text("\n" + '{"prompt": "q", "chosen": null, "rejected": "u"}\n' * count)
        with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: chosen is null in the columns prompt"):
            data("audit", tmp_path / "rows.jsonl")


@pytest.mark.parametrize("licence", ["not stated", "Unknown", "n/a", "MIT, not verified", ["none"], ""])
def test_a_card_that_states_no_licence_is_no_licence(tmp_path: Path, licence: Any) -> None:
    write_file(tmp_path / "some.jsonl", [{**row, "license": "unknown"} for row in world_rows()[:40]])
    card = tmp_path / "some.jsonl.card.json"
    for text, verdict in ((licence, "look"), ("MIT, Apache-2.0", "fine"), (["cc-by-4.0"], "fine")):
        card.write_text(json.dumps({"licence": text, "source": "somewhere"}))
        data("audit", tmp_path / "some.jsonl", "--json", tmp_path / "found.json")
        found = next(one for one in read_json(tmp_path / "found.json")["findings"] if one["check"] == "licences")
        assert found["verdict"] == verdict
    for text in ("{", "[1]"):
        card.write_text(text)
        with pytest.raises(ValueError, match=r"some\.jsonl\.card\.json (is no JSON|holds a list)"):
            data("audit", tmp_path / "some.jsonl")


def test_a_tokenizer_saved_with_padding_and_truncation_counts_the_same(tmp_path: Path) -> None:
    inner = tiny_tokenizer().backend_tokenizer
    inner.save(str(tmp_path / "plain.json"))
    inner.enable_padding(length=64)
    inner.enable_truncation(3)
    inner.save(str(tmp_path / "stateful.json"))
    texts = ["a", "abcdefgh"]
    assert verbs._counter(tmp_path / "stateful.json")(texts) == verbs._counter(tmp_path / "plain.json")(texts) == [1, 8]


def test_the_prompt_that_responses_repeat_is_taken_off_in_conversion_and_audit(tmp_path: Path) -> None:
    turn = {"role": "user", "content": "Describe the sea to me."}
    row = {"prompt": turn["content"]} | {
        side: [turn, {"role": "assistant", "content": f"{side} words"}] for side in ("chosen", "rejected")
    }
    plain = {"prompt": turn["content"], "chosen": f"{turn['content']} a", "rejected": f"{turn['content']} b"}
    write_file(tmp_path / "rows.jsonl", [row, plain])
    data("convert", tmp_path / "rows.jsonl", "--to", "trl_plain", "--out", tmp_path / "out.jsonl")
    expected = {"prompt": turn["content"], "chosen": "chosen words", "rejected": "rejected words"}
    assert read_rows(tmp_path / "out.jsonl") == [expected]
    assert "which would count twice" in read_rows(tmp_path / "out.jsonl.left_out.jsonl")[0]["reason"]
    data("audit", tmp_path / "rows.jsonl", "--json", tmp_path / "found.json")
    assert read_json(tmp_path / "found.json")["findings"][0]["numbers"]["unreadable"] == 1
