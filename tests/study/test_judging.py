"""Judging folders: no generation, several judges, corrections, comparisons, and what may not be judged."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from divalign.cli import main
from divalign.core.stats import (
    clustered_difference,
    clustered_rate,
    corrected_rate,
    independent_count,
    paired_difference,
    rate,
)
from divalign.data.examples import Row
from divalign.safety.export import redact
from divalign.safety.judges import JUDGES
from divalign.store import cached_rows, read_json, read_rows, write_rows
from divalign.study import judging, sitting
from divalign.study.judgement import Judgement, exported, judge_all
from divalign.study.judging import Errors
from divalign.study.progress import silent
from divalign.study.redteam import Means, attack_folder
from divalign.study.sitting import sitting_judge
from tests.study.test_redteam import Echo

REFUSAL, ANSWER = "I'm sorry, but I can't help with that.", "Sure, here is how it is done: slowly."


def prompts(n: int = 6, **more: Any) -> list[Row]:
    return [{"id": str(k), "prompt": f"Tell me about bridge {k}", "harmful": k % 3 > 0, **more} for k in range(n)]


def folder(out: Path, refused: Sequence[int], names: Sequence[str] = ("direct",), n: int = 6, **means: Any) -> Path:
    """An attack folder in which the prompts of these numbers are refused under every attack."""

    def answer(talk: Any) -> str:
        return REFUSAL if any(talk.messages[-1]["content"].endswith(f"bridge {k}") for k in refused) else ANSWER

    attack_folder(Echo(answer).writer, prompts(n), names, out, means=Means(**means), progress=silent)
    return out


def judged(path: Path, *judges: str, **options: Any) -> Judgement:
    return judge_all(path, judges or ("refusal_strings",), path, **options)


def test_rates_over_refusal_and_their_difference_come_from_the_same_verdicts(tmp_path: Path) -> None:
    found = judged(folder(tmp_path / "a", refused=[0, 1, 2]))
    (entry,) = found.numbers["judges"]
    assert entry["attacks"]["direct"]["asr"] == rate([False, False, True, True])._asdict()
    assert entry["over_refusal"] == rate([True, False])._asdict()
    assert entry["selectivity"]["value"] == pytest.approx(0.5 - 0.5)
    assert read_json(tmp_path / "a" / "rates.json") == json.loads(json.dumps(found.numbers))
    assert read_rows(tmp_path / "a" / "verdicts.jsonl") == found.verdicts[0]


def test_judging_again_asks_no_judge_and_another_judge_costs_no_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder(tmp_path / "a", refused=[1])
    first = judged(path)
    calls: list[str] = []
    before = judging.judge_rows
    monkeypatch.setattr(judging, "judge_rows", lambda judge, rows: calls.append(judge.id) or before(judge, rows))
    assert judged(path) == first
    assert not calls
    judged(path, "refusal_strings_paper")
    assert calls == ["refusal_strings_paper"]


def test_several_judges_are_compared_response_by_response(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", refused=[1, 2], names=["direct", "best_of_n(2)"])
    found = judged(path, "refusal_strings", "refusal_strings_paper", "small_classifier")
    pairs = [pair["judges"] for pair in found.numbers["agreement"]]
    names = ("refusal_strings", "refusal_strings_paper", "small_classifier")
    assert pairs == [(names[0], names[1]), (names[0], names[2]), (names[1], names[2])]
    total = sum(sum(row.values()) for row in found.numbers["agreement"][0]["confusion"].values())
    assert total == len(found.verdicts[0]) == 4 + 8 + 2


def test_best_of_n_succeeds_where_any_try_does(tmp_path: Path) -> None:
    found = judged(folder(tmp_path / "a", refused=[], names=["best_of_n(3)"]))
    (entry,) = found.numbers["judges"]
    assert entry["attacks"]["best_of_n(3)"]["asr"] == rate([True] * 4)._asdict()
    assert entry["responses"] == 3 * 4 + 2
    assert entry["selectivity"] is None  # harmful prompts were not asked directly


def test_a_rate_is_corrected_by_the_errors_that_are_given(tmp_path: Path) -> None:
    errors = Errors(rate([True] * 84 + [False] * 16), rate([True] * 90 + [False] * 10))
    (entry,) = judged(folder(tmp_path / "a", refused=[1]), errors=errors).numbers["judges"]
    observed = rate([False, True, True, True])
    expected = corrected_rate(observed, sensitivity=errors.sensitivity, specificity=errors.specificity)
    assert entry["attacks"]["direct"]["corrected"] == expected._asdict()
    assert entry["errors"]["sensitivity"] == errors.sensitivity._asdict()


def test_each_judge_is_corrected_by_its_own_errors_on_labelled_responses(tmp_path: Path) -> None:
    texts = [(REFUSAL, True)] * 9 + [("I'd rather talk of the weather.", True)] + [(ANSWER, False)] * 10
    labelled = [{"prompt": "Tell me", "response": text, "refused": refused} for text, refused in texts]
    path = folder(tmp_path / "a", refused=[1])
    first, second = judged(path, "refusal_strings", "refusal_strings_paper", labelled=labelled).numbers["judges"]
    assert first["errors"]["specificity"] == rate([True] * 9 + [False])._asdict()
    assert first["attacks"]["direct"]["corrected"]["n"] == 4
    assert second["errors"] is not None


def test_no_correction_exists_for_a_judge_no_better_than_chance(tmp_path: Path) -> None:
    coin = rate([True] * 50 + [False] * 50)
    (entry,) = judged(folder(tmp_path / "a", refused=[1]), errors=Errors(coin, coin)).numbers["judges"]
    assert entry["attacks"]["direct"]["corrected"] is None


def test_two_folders_are_compared_prompt_by_prompt_with_mcnemars_exact_test(tmp_path: Path) -> None:
    before = folder(tmp_path / "before", refused=[0], n=30)
    after = folder(tmp_path / "after", refused=range(30), n=30)
    (comparison,) = judged(after, compare=before).numbers["changes"]
    harmful = [k for k in range(30) if k % 3]
    tested = paired_difference([True] * len(harmful), [False] * len(harmful))
    row = comparison["changes"]["direct"]
    assert (row["value"], row["p_value"]) == (tested.estimate.value, tested.p_value)
    assert comparison["changes"]["over-refusal"]["value"] == pytest.approx(0.9)
    assert row["p_holm"] >= row["p_value"]
    assert not (before / "verdicts.jsonl").exists()


def test_folders_without_a_prompt_in_common_are_not_compared(tmp_path: Path) -> None:
    before = folder(tmp_path / "before", refused=[], names=["rot13"], n=2)
    after = folder(tmp_path / "after", refused=[], names=["base64"], n=2)
    rows = [row for row in read_rows(after / "responses.jsonl") if row["harmful"]]
    assert rows
    with pytest.raises(ValueError, match="share no prompt"):
        judging.changes(
            [row for row in judged(before).verdicts[0] if row["harmful"]],
            [row for row in judged(after).verdicts[0] if row["harmful"]],
        )


def paired_prompts(out: Path, refused: Sequence[int], size: int = 5) -> Path:
    """An attack folder of 30 prompts, `size` in a row in one cluster, in which these are refused."""
    rows = [{**row, "cluster": f"topic {int(row['id']) // size}"} for row in prompts(30)]
    echo = Echo(lambda talk: REFUSAL if int(talk.messages[0]["content"].split()[-1]) in refused else ANSWER)
    attack_folder(echo.writer, rows, ["direct"], out, means=Means(), progress=silent)
    return out


HARMFUL = [k for k in range(30) if k % 3]
TOPICS = [k // 5 for k in HARMFUL]


def test_the_intervals_of_prompts_that_share_a_cluster_rest_on_the_clusters(tmp_path: Path) -> None:
    (entry,) = judged(paired_prompts(tmp_path / "a", range(15))).numbers["judges"]
    expected = clustered_rate([k >= 15 for k in HARMFUL], TOPICS)
    assert entry["attacks"]["direct"]["asr"] == expected._asdict()
    assert entry["attacks"]["direct"].keys() == {"asr", "undecided", "corrected"}


def test_a_correction_rests_on_as_many_outcomes_as_are_independent(tmp_path: Path) -> None:
    errors = Errors(rate([True] * 84 + [False] * 16), rate([True] * 90 + [False] * 10))
    (entry,) = judged(paired_prompts(tmp_path / "a", range(15)), errors=errors).numbers["judges"]
    observed = rate([k >= 15 for k in HARMFUL])
    count = independent_count([float(k >= 15) for k in HARMFUL], TOPICS)
    expected = corrected_rate(observed._replace(n=int(count)), **errors._asdict())
    assert entry["attacks"]["direct"]["corrected"] == expected._replace(n=20)._asdict()


def test_changes_of_prompts_that_share_a_cluster_are_tested_by_cluster(tmp_path: Path) -> None:
    before, after = paired_prompts(tmp_path / "before", []), paired_prompts(tmp_path / "after", range(15))
    (comparison,) = judged(after, compare=before).numbers["changes"]
    expected = clustered_difference([True] * 20, [k >= 15 for k in HARMFUL], TOPICS)
    row = comparison["changes"]["direct"]
    assert (row["value"], row["low"], row["high"], row["n"]) == expected.estimate
    assert (row["p_value"], row["clusters"]) == (expected.p_value, 6)
    plain = paired_prompts(tmp_path / "one", [1], size=1), paired_prompts(tmp_path / "two", [2], size=1)
    (alone,) = judged(plain[0], compare=plain[1]).numbers["changes"]
    assert alone["changes"]["direct"]["clusters"] is None


def test_a_protocol_keeps_its_own_denominators_and_names_the_stand_in(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", refused=[1], protocol="kldo")
    (entry,) = judged(path, "small_classifier").numbers["judges"]
    assert entry["protocol"]["protocol"] == "kldo (harmbench_13b: small_classifier)"
    assert entry["protocol"]["attacks"]["direct"]["asr"] == rate([False, True, True, True])._asdict()
    rows = read_rows(path / "verdicts.jsonl")
    assert {row["stage"]: row["reason"][:4] for row in rows} == {1: "says", 2: "comp"}


@pytest.mark.parametrize("harmful", [True, False])
def test_prompts_of_one_side_are_judged_under_a_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], harmful: bool
) -> None:
    rows = [{**row, "harmful": harmful} for row in prompts()]
    attack_folder(Echo().writer, rows, ["direct"], tmp_path / "a", means=Means(protocol="kldo"), progress=silent)
    assert run(monkeypatch, "judge", str(tmp_path / "a"), "--judge", "refusal_strings") == 0
    (entry,) = read_json(tmp_path / "a" / "rates.json")["judges"]
    assert set(entry["protocol"]["attacks"]["direct"]) == ({"asr", "undecided"} if harmful else set())
    assert "own rule" in capsys.readouterr().out


def test_a_rubric_asks_its_model_once_per_response_and_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grader = Echo(lambda _talk: "verdict: safe\nwritten")
    monkeypatch.setattr(sitting, "find_writer", lambda spec, loading: grader.writer)
    path = folder(tmp_path / "a", refused=[])
    (entry,) = judged(path, "harm_rubric@http://localhost/v1#m").numbers["judges"]
    assert entry["attacks"]["direct"]["asr"]["value"] == 0.0
    asked = len(grader.asked)
    (path / "verdicts.jsonl").unlink()
    judged(path, "harm_rubric@http://localhost/v1#m")
    assert len(grader.asked) == asked > 0


def test_a_rubric_that_answers_nonsense_is_undecided_and_never_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sitting, "find_writer", lambda spec, loading: Echo(lambda _talk: "<html>").writer)
    (entry,) = judged(folder(tmp_path / "a", refused=[]), "harm_rubric@m").numbers["judges"]
    assert entry["attacks"]["direct"]["asr"]["value"] is None
    assert entry["attacks"]["direct"]["undecided"] == 4


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("refusal_string", "did you mean 'refusal_strings'"),
        ("harm_rubrik", "did you mean 'harm_rubric'"),
        ("harm_rubric", "needs a model that answers"),
        ("harm_rubric@http://localhost/v1", "names a server and no model"),
        ("llama_guard_3@/no/such/folder", "no model folder"),
    ],
)
def test_a_judge_that_cannot_sit_is_refused_in_a_sentence(tmp_path: Path, spec: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        judged(folder(tmp_path / "a", refused=[]), spec)
    assert not (tmp_path / "a" / "verdicts.jsonl").exists()


def test_a_judge_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="each once"):
        judged(folder(tmp_path / "a", refused=[]), "refusal_strings", "refusal_strings")


def test_unfinished_or_changed_responses_are_not_judged(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", refused=[])
    file = path / "responses.jsonl"
    file.write_text(file.read_text().replace("Sure", "Surely"))
    with pytest.raises(ValueError, match="unfinished or were changed"):
        judged(path)
    with pytest.raises(ValueError, match="no responses at"):
        judged(tmp_path / "nothing")


def test_a_runs_own_verdicts_stay_as_they_are(tmp_path: Path) -> None:
    rows = [{**row, "attack": "direct", "response": ANSWER} for row in prompts()]
    cached_rows(tmp_path / "model" / "responses.jsonl", "key", lambda: rows)
    with pytest.raises(ValueError, match="another folder as --out"):
        judged(tmp_path / "model")
    found = judge_all(tmp_path / "model", ["refusal_strings"], tmp_path / "out")
    assert len(found.verdicts[0]) == 6
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"responses.jsonl", ".responses.jsonl.stamp"}


def test_a_runs_responses_are_judged_as_the_run_wrote_them_or_not_at_all(tmp_path: Path) -> None:
    rows = [{**row, "attack": "direct", "response": ANSWER} for row in prompts()]
    file = tmp_path / "model" / "responses.jsonl"
    cached_rows(file, "key", lambda: rows)
    whole = file.read_text()
    for text in (whole.replace("Sure", "Surely"), whole[: len(whole) // 2], whole.partition("\n")[0]):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"were changed.*same `divalign run` again"):
            judge_all(tmp_path / "model", ["refusal_strings"], tmp_path / "out")
    write_rows(file, rows)
    judge_all(tmp_path / "model", ["refusal_strings"], tmp_path / "out")


@pytest.mark.parametrize("text", ["", '{"target": "ec', "[]", '{"target": "echo"}'])
def test_a_torn_attack_folder_is_no_run_and_the_same_attack_mends_it(tmp_path: Path, text: str) -> None:
    path = folder(tmp_path / "a", refused=[1])
    before = judged(path)
    (path / "attack.json").write_text(text)
    with pytest.raises(ValueError, match=r"attack\.json is torn; run the same `divalign attack` again"):
        judge_all(path, ["refusal_strings"], tmp_path / "out")
    folder(path, refused=[1])
    assert judged(path) == before


def test_exports_hold_no_completion_unless_asked_for(tmp_path: Path) -> None:
    found = judged(folder(tmp_path / "a", refused=[1]))
    files = {"csv": tmp_path / "v.csv", "card": tmp_path / "card.md"}
    exported(found, **files)
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    assert [row["response"] for row in rows] == [redact(row["response"]) for row in found.verdicts[0]]
    card = yaml.safe_load(files["card"].read_text().strip().strip("-"))
    metrics = card["model-index"][0]["results"][0]["metrics"]
    assert [metric["type"] for metric in metrics] == ["asr/direct", "over_refusal", "selectivity"]
    exported(found, csv=files["csv"], show_completions=True)
    assert ANSWER in files["csv"].read_text()


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["divalign", *arguments])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_the_terminal_shows_rates_and_no_completion_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rude = "I'd rather not.\x1b]0;owned\x07 [bold]Now[/bold]"
    echo = Echo(lambda talk: rude if "1" in talk.messages[0]["content"] else ANSWER)
    attack_folder(echo.writer, prompts(), ["direct"], tmp_path / "a", means=Means(), progress=silent)
    judges = ["--judge", "refusal_strings", "--judge", "small_classifier"]
    assert run(monkeypatch, "judge", str(tmp_path / "a"), *judges) == 0
    out = capsys.readouterr().out
    assert "Attack success" in out
    assert "kappa" in out
    assert "rather" not in out
    assert redact(f"{rude} in 64") in out
    assert run(monkeypatch, "judge", str(tmp_path / "a"), *judges, "--show-completions") == 0
    out = capsys.readouterr().out
    assert "I'd rather not." in out
    assert "[bold]Now[/bold]" in out
    assert "\x1b]0;" not in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--sensitivity", "84/100"], "needs both"),
        (["--sensitivity", ".84", "--specificity", ".9"], "expected counts such as 84/100"),
        (["--sensitivity", "101/100", "--specificity", "9/10"], "expected counts such as 84/100"),
        (["--labelled", "/no/such/file"], "no file at"),
        (["--judge", "refusal_string"], "did you mean"),
    ],
)
def test_bad_input_ends_with_2_and_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    assert run(monkeypatch, "judge", str(folder(tmp_path / "a", refused=[])), *arguments) == 2
    assert sentence in capsys.readouterr().err


def test_a_server_that_is_down_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from divalign.lm import connection

    refused = connection.RetryableError("refused", 0.0)
    monkeypatch.setattr(connection.Connection, "send", lambda *_: (_ for _ in ()).throw(refused))
    write_rows(tmp_path / "p.jsonl", prompts())
    told = ["--prompts", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "a"), "--quiet"]
    assert run(monkeypatch, "attack", "--server", "http://localhost:1/v1", "--served-model", "m", *told) == 1
    assert "is the server up" in capsys.readouterr().err
    assert run(monkeypatch, "attack", "toy", "--server", "http://localhost:1/v1", *told) == 2


def test_every_judge_of_the_table_can_sit(tmp_path: Path) -> None:
    from divalign.safety.journal import Journal

    with Journal(tmp_path / "journal") as journal:
        assert [sitting_judge(name, journal) for name in JUDGES] == list(JUDGES.values())
