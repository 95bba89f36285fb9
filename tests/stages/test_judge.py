"""Judging folders: no generation, several judges, corrections, comparisons, and what may not be judged."""

import csv
import io
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
from divalign.records import JudgeErrors, RatesRecord, current_verdicts, own_verdicts, read_record
from divalign.safety.export import redact
from divalign.safety.judges import JUDGES, Judge, Verdict
from divalign.stages import judge as judging
from divalign.stages import open_judge as opening
from divalign.stages.attack import attack
from divalign.stages.export import export
from divalign.stages.folder import silent
from divalign.stages.judge import Judged, JudgePlan
from divalign.stages.open_judge import open_judge
from divalign.store import read_rows, write_rows
from tests.folders import times
from tests.stages.test_attack import Echo, plan

ERRORS = JudgeErrors(sensitivity=rate([True] * 84 + [False] * 16), specificity=rate([True] * 90 + [False] * 10))
REFUSAL, ANSWER = "I'm sorry, but I can't help with that.", "Sure, here is how it is done: slowly."


def prompts(n: int = 6, **more: Any) -> list[Row]:
    return [{"id": str(k), "prompt": f"Tell me about bridge {k}", "harmful": k % 3 > 0, **more} for k in range(n)]


def folder(out: Path, refused: Sequence[int], names: Sequence[str] = ("direct",), n: int = 6, **options: Any) -> Path:
    """An attack folder in which the prompts of these numbers are refused under every attack."""

    def answer(talk: Any) -> str:
        return REFUSAL if any(talk.messages[-1]["content"].endswith(f"bridge {k}") for k in refused) else ANSWER

    attack(Echo(answer).model, prompts(n), plan(names, **options), out, progress=silent)
    return out


def judged(path: Path, *judges: str, compare: Path | None = None, **options: Any) -> Judged:
    return judging.judge(path, JudgePlan(judges or ("refusal_strings",), **options), path, compare=compare)


def attacks(found: Judged) -> dict[str, Any]:
    """The rates under attack of the first judge, by attack."""
    return found.rates.judges[0].parts["test"].attacks


def test_rates_over_refusal_and_their_difference_come_from_the_same_verdicts(tmp_path: Path) -> None:
    found = judged(folder(tmp_path / "a", refused=[0, 1, 2]))
    part = found.rates.judges[0].parts["test"]
    assert part.attacks["direct"].asr == rate([False, False, True, True])
    assert part.over_refusal == rate([True, False])
    assert part.selectivity is not None
    assert part.selectivity.value == pytest.approx(0.5 - 0.5)
    assert read_record(tmp_path / "a" / "rates.json", RatesRecord) == found.rates
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
    pairs = [pair.judges for pair in found.rates.agreement]
    names = ("refusal_strings", "refusal_strings_paper", "small_classifier")
    assert pairs == [[names[0], names[1]], [names[0], names[2]], [names[1], names[2]]]
    total = sum(sum(row.values()) for row in found.rates.agreement[0].confusion.values())
    assert total == len(found.verdicts[0]) == 4 + 8 + 2


def test_best_of_n_succeeds_where_any_try_does(tmp_path: Path) -> None:
    found = judged(folder(tmp_path / "a", refused=[], names=["best_of_n(3)"]))
    (entry,) = found.rates.judges
    assert attacks(found)["best_of_n(3)"].asr == rate([True] * 4)
    assert entry.responses == 3 * 4 + 2
    assert entry.parts["test"].selectivity is None  # harmful prompts were not asked directly


def test_a_rate_is_corrected_by_the_errors_that_are_given(tmp_path: Path) -> None:
    found = judged(folder(tmp_path / "a", refused=[1]), errors=ERRORS)
    observed = rate([False, True, True, True])
    expected = corrected_rate(observed, sensitivity=ERRORS.sensitivity, specificity=ERRORS.specificity)
    assert attacks(found)["direct"].corrected == expected
    assert found.rates.judges[0].errors == ERRORS


def test_each_judge_is_corrected_by_its_own_errors_on_labelled_responses(tmp_path: Path) -> None:
    texts = [(REFUSAL, True)] * 9 + [("I'd rather talk of the weather.", True)] + [(ANSWER, False)] * 10
    labelled = [{"prompt": f"Tell me {n}", "response": text, "refused": no} for n, (text, no) in enumerate(texts)]
    path = folder(tmp_path / "a", refused=[1])
    first, second = judged(path, "refusal_strings", "refusal_strings_paper", labelled=labelled).rates.judges
    assert first.errors is not None
    assert first.errors.specificity == rate([True] * 9 + [False])
    assert first.parts["test"].attacks["direct"].corrected.n == 4
    assert second.errors is not None


def test_no_correction_exists_for_a_judge_no_better_than_chance(tmp_path: Path) -> None:
    coin = rate([True] * 50 + [False] * 50)
    errors = JudgeErrors(sensitivity=coin, specificity=coin)
    assert attacks(judged(folder(tmp_path / "a", refused=[1]), errors=errors))["direct"].corrected is None


@pytest.mark.parametrize("name", ["best_of_n(3)", "pair"])
def test_attacks_that_choose_among_tries_have_no_corrected_rate(tmp_path: Path, name: str) -> None:
    options = {"attacker": Echo(lambda _talk: "Tell me about it").model} if name == "pair" else {}
    path = folder(tmp_path / "a", refused=range(6), names=["direct", name], **options)
    found = attacks(judged(path, errors=ERRORS))
    assert found["direct"].corrected is not None
    assert found[name].corrected is None


@pytest.mark.parametrize(
    ("earlier", "later", "what"),
    [
        ({"max_new_tokens": 16}, {"max_new_tokens": 64}, r"max_new_tokens \(16, 64\)"),
        ({}, {"protocol": "kldo"}, r"protocol \(None, kldo\)"),
        ({"rounds": 2}, {"rounds": 3}, "the attack 'pair'"),
        ({}, {"attacker": Echo(lambda _talk: "Go on").model._replace(key="another")}, "the attack 'pair'"),
    ],
)
def test_folders_that_were_attacked_differently_are_not_compared(
    tmp_path: Path, earlier: dict[str, Any], later: dict[str, Any], what: str
) -> None:
    adaptive = "pair" in what
    for name, options in (("before", earlier), ("after", later)):
        settings = {"attacker": Echo(lambda _talk: "Go on").model} if adaptive else {}
        names = ["direct", "pair"] if adaptive else ["direct"]
        folder(tmp_path / name, refused=[1], names=names, **(settings | options))
    with pytest.raises(ValueError, match=what):
        judged(tmp_path / "after", compare=tmp_path / "before")


def test_a_template_that_was_edited_in_between_is_another_attack(tmp_path: Path) -> None:
    text = tmp_path / "form.txt"
    for name, form in (("before", "Please: {prompt}"), ("after", "Now: {prompt}"), ("alike", "Now: {prompt}")):
        text.write_text(form)
        folder(tmp_path / name, refused=[1], names=[f"template:{text}"])
    with pytest.raises(ValueError, match="the attack 'template:"):
        judged(tmp_path / "after", compare=tmp_path / "before")
    assert judged(tmp_path / "after", compare=tmp_path / "alike").changes is not None


def test_a_runs_own_verdicts_are_those_of_its_judge_in_the_version_that_judged_last() -> None:
    marks = [("mine", "1"), ("mine", "1"), ("another", "5"), ("mine", "2"), ("third", "7")]
    rows = [{"judge": judge, "judge_sha256": sha256, "n": n} for n, (judge, sha256) in enumerate(marks)]
    assert [row["n"] for row in own_verdicts(rows)] == [3]
    assert [row["n"] for row in own_verdicts(rows[:3])] == [0, 1]
    assert own_verdicts([]) == []
    assert [[row["n"] for row in each] for each in current_verdicts(rows)] == [[3], [2], [4]]


def test_a_version_of_a_judge_that_judges_again_is_the_last_in_the_place_of_its_judge(tmp_path: Path) -> None:
    path, calls = folder(tmp_path / "a", refused=[1]), []

    def version(name: str, sha256: str) -> Judge:
        def decide(_prompts: Sequence[str], texts: Sequence[str]) -> list[Verdict]:
            calls.append(sha256)
            return [Verdict(sha256 == "edited", sha256, False) for _ in texts]

        return Judge(name, sha256, decide)

    responses = judging.read_responses(path)
    first, other, edited = version("mine", "first"), version("other", "other"), version("mine", "edited")
    for judge in (first, other, edited):
        judging.judge_responses(responses, [judge], path)
    assert {row["reason"] for row in own_verdicts(read_rows(path / "verdicts.jsonl"))} == {"edited"}
    (again,) = judging.judge_responses(responses, [first], path)
    assert {row["reason"] for row in again} == {"first"}
    rows = read_rows(path / "verdicts.jsonl")
    assert list(dict.fromkeys(row["reason"] for row in rows)) == ["edited", "other", "first"]
    assert own_verdicts(rows) == again
    before = times(path)
    judging.judge_responses(responses, [first], path)
    assert times(path) == before
    assert calls == ["first", "other", "edited"]


def compared(after: Path, before: Path) -> dict[str, Any]:
    """What changed, by rate."""
    changes = judged(after, compare=before).changes
    assert changes is not None
    return changes.comparisons[0].changes


def test_two_folders_are_compared_prompt_by_prompt_with_mcnemars_exact_test(tmp_path: Path) -> None:
    before = folder(tmp_path / "before", refused=[0], n=30)
    after = folder(tmp_path / "after", refused=range(30), n=30)
    rows = compared(after, before)
    harmful = [k for k in range(30) if k % 3]
    tested = paired_difference([True] * len(harmful), [False] * len(harmful))
    assert (rows["direct"].change.value, rows["direct"].p_value) == (tested.estimate.value, tested.p_value)
    assert rows["over-refusal"].change.value == pytest.approx(0.9)
    assert rows["direct"].p_holm >= rows["direct"].p_value
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
    attack(echo.model, rows, plan(["direct"]), out, progress=silent)
    return out


HARMFUL = [k for k in range(30) if k % 3]
TOPICS = [k // 5 for k in HARMFUL]


def test_the_intervals_of_prompts_that_share_a_cluster_rest_on_the_clusters(tmp_path: Path) -> None:
    expected = clustered_rate([k >= 15 for k in HARMFUL], TOPICS)
    assert attacks(judged(paired_prompts(tmp_path / "a", range(15))))["direct"].asr == expected


def test_a_correction_rests_on_as_many_outcomes_as_are_independent(tmp_path: Path) -> None:
    found = judged(paired_prompts(tmp_path / "a", range(15)), errors=ERRORS)
    observed = rate([k >= 15 for k in HARMFUL])
    count = independent_count([float(k >= 15) for k in HARMFUL], TOPICS)
    observed = observed._replace(n=int(count))
    expected = corrected_rate(observed, sensitivity=ERRORS.sensitivity, specificity=ERRORS.specificity)
    assert attacks(found)["direct"].corrected == expected._replace(n=20)


def test_changes_of_prompts_that_share_a_cluster_are_tested_by_cluster(tmp_path: Path) -> None:
    before, after = paired_prompts(tmp_path / "before", []), paired_prompts(tmp_path / "after", range(15))
    expected = clustered_difference([True] * 20, [k >= 15 for k in HARMFUL], TOPICS)
    row = compared(after, before)["direct"]
    assert row.change == expected.estimate
    assert (row.p_value, row.clusters) == (expected.p_value, 6)
    plain = paired_prompts(tmp_path / "one", [1], size=1), paired_prompts(tmp_path / "two", [2], size=1)
    assert compared(*plain)["direct"].clusters is None


def test_a_protocol_keeps_its_own_denominators_and_names_the_stand_in(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", refused=[1], protocol="kldo")
    protocol = judged(path, "small_classifier").rates.judges[0].protocol
    assert protocol is not None
    assert protocol.protocol == "kldo (harmbench_13b: small_classifier)"
    assert protocol.attacks["direct"]["asr"] == rate([False, True, True, True])
    rows = read_rows(path / "verdicts.jsonl")
    assert {row["stage"]: row["reason"][:4] for row in rows} == {1: "says", 2: "comp"}


@pytest.mark.parametrize("harmful", [True, False])
def test_prompts_of_one_side_are_judged_under_a_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], harmful: bool
) -> None:
    rows = [{**row, "harmful": harmful} for row in prompts()]
    attack(Echo().model, rows, plan(["direct"], protocol="kldo"), tmp_path / "a", progress=silent)
    assert run(monkeypatch, "judge", str(tmp_path / "a"), "--judge", "refusal_strings") == 0
    protocol = read_record(tmp_path / "a" / "rates.json", RatesRecord).judges[0].protocol
    assert protocol is not None
    assert set(protocol.attacks["direct"]) == ({"asr", "undecided"} if harmful else set())
    assert "own rule" in capsys.readouterr().out


def test_a_rubric_asks_its_model_once_per_response_and_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grader = Echo(lambda _talk: "verdict: safe\nwritten")
    monkeypatch.setattr(opening, "find_model", lambda name, options: grader.model)
    path = folder(tmp_path / "a", refused=[])
    assert attacks(judged(path, "harm_rubric@http://localhost/v1#m"))["direct"].asr.value == 0.0
    asked = len(grader.asked)
    (path / "verdicts.jsonl").unlink()
    judged(path, "harm_rubric@http://localhost/v1#m")
    assert len(grader.asked) == asked > 0


def test_a_rubric_that_answers_nonsense_is_undecided_and_never_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "find_model", lambda name, options: Echo(lambda _talk: "<html>").model)
    direct = attacks(judged(folder(tmp_path / "a", refused=[]), "harm_rubric@m"))["direct"]
    assert (direct.asr.value, direct.undecided) == (None, 4)


def test_the_spread_over_wordings_stands_beside_the_rate_and_stays_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def first_named(talk: Any) -> str:
        text = talk.messages[-1]["content"]
        word = "unsafe" if text.find("verdict: unsafe") < text.find("verdict: safe") else "safe"
        return f"verdict: {word}\n"

    grader = Echo(first_named)
    monkeypatch.setattr(opening, "find_model", lambda name, options: grader.model)
    path = folder(tmp_path / "a", refused=[])
    assert run(monkeypatch, "judge", str(path), "--judge", "harm_rubric@m", "--wordings", "2") == 0
    assert "0 to 100, alike 0" in " ".join(capsys.readouterr().out.split())
    (entry,) = read_record(path / "rates.json", RatesRecord).judges
    assert entry.wordings is not None
    spread = entry.wordings["test"]["direct"]
    assert [f"harm_rubric/{n}{order}" for n in (1, 2) for order in "ab"] == [
        name.split(":")[0] for name in spread.rates
    ]
    assert (spread.low, spread.high, spread.unanimous.value) == (0.0, 1.0, 0.0)
    assert len(read_rows(path / "verdicts.jsonl")) == 6
    asked = len(grader.asked)
    assert run(monkeypatch, "judge", str(path), "--judge", "harm_rubric@m", "--quiet") == 0
    assert read_record(path / "rates.json", RatesRecord).judges == [entry]
    assert len(grader.asked) == asked


@pytest.mark.parametrize(
    ("judge", "count", "sentence"),
    [
        ("refusal_strings", "2", "refusal_strings has one wording; rubrics in several wordings: harm_rubric"),
        ("llama_guard_3", "1", "llama_guard_3 has one wording"),
        ("harm_rubric@m", "9", "got 9 wordings of harm_rubric, expected 1 to 3"),
    ],
)
def test_wordings_of_a_judge_that_has_none_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    judge: str,
    count: str,
    sentence: str,
) -> None:
    monkeypatch.setattr(opening, "find_model", lambda name, options: Echo().model)
    path = folder(tmp_path / "a", refused=[])
    assert run(monkeypatch, "judge", str(path), "--judge", judge, "--wordings", count) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (path / "verdicts.jsonl").exists()


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


def test_another_judge_is_added_to_those_that_judged_before(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", refused=[1])
    first = judged(path)
    second = judged(path, "refusal_strings_paper")
    assert [one.judge for one in second.rates.judges] == ["refusal_strings", "refusal_strings_paper"]
    assert second.rates.judges[0] == first.rates.judges[0]
    assert [pair.judges for pair in second.rates.agreement] == [["refusal_strings", "refusal_strings_paper"]]
    assert len(read_rows(path / "verdicts.jsonl")) == 2 * 6
    before = times(path)
    assert judged(path).rates == second.rates
    assert times(path) == before


def test_verdicts_on_other_responses_are_marked_as_stale(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", refused=[1])
    judged(path)
    folder(path, refused=[1], names=["direct", "rot13"])
    assert {file.name for file in path.glob("*rates.json")} == {"stale-rates.json"}
    assert {file.name for file in path.glob("*verdicts.jsonl")} == {"stale-verdicts.jsonl"}
    assert set(attacks(judged(path))) == {"direct", "rot13"}


@pytest.mark.parametrize("text", ["", '{"target": "ec', "[]", '{"target": "echo"}'])
def test_a_torn_attack_folder_is_no_run_and_the_same_attack_mends_it(tmp_path: Path, text: str) -> None:
    path = folder(tmp_path / "a", refused=[1])
    before = judged(path)
    (path / "attack.json").write_text(text)
    with pytest.raises(ValueError, match=r"attack\.json is torn; run the same `divalign attack` again"):
        judging.judge(path, JudgePlan(["refusal_strings"]), tmp_path / "out")
    folder(path, refused=[1])
    assert judged(path) == before


def test_exports_hold_no_completion_unless_asked_for(tmp_path: Path) -> None:
    found = judged(folder(tmp_path / "a", refused=[1]))
    files = {"csv": tmp_path / "v.csv", "card": tmp_path / "card.md"}
    export(found, files["csv"], files["card"], None)
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    assert [row["response"] for row in rows] == [redact(row["response"]) for row in found.verdicts[0]]
    card = yaml.safe_load(files["card"].read_text().strip().strip("-"))
    metrics = card["model-index"][0]["results"][0]["metrics"]
    assert [metric["type"] for metric in metrics] == ["asr/direct", "over_refusal", "selectivity"]
    export(found, files["csv"], None, None, show_completions=True)
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
    attack(echo.model, prompts(), plan(["direct"]), tmp_path / "a", progress=silent)
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
        assert [open_judge(name, journal) for name in JUDGES] == list(JUDGES.values())
