"""One sentence and a few tiles say what a run shows, and no more than its intervals support."""

import re
from pathlib import Path

import numpy as np
import pytest

from divalign.core.stats import Estimate, rate
from divalign.records import VerdictRecord
from divalign.report.changes import common_attacks, score_change, with_score_changes
from divalign.report.facts import JudgedResponse, ModelFacts, RunFacts
from divalign.report.headline import best_model, headline, leading_model, prediction, score, tiles, unknowns
from divalign.report.quantities import aligned_of
from divalign.stages.rates import changes
from divalign.store import write_rows
from tests.report.runs import VERDICT, facts, model

UNDECIDED = Estimate(None, 0.0, 1.0, 0)
BETTER, UNCLEAR = Estimate(-0.5, -0.7, -0.3, 100), Estimate(-0.02, -0.1, 0.06, 100)


def share(value: float, n: int = 100) -> Estimate:
    return rate([index < round(value * n) for index in range(n)])


def rated(method: str | None, refused: float | None, **attacks: float | None) -> ModelFacts:
    rates = {name: UNDECIDED if value is None else share(value) for name, value in attacks.items()}
    over_refusal = UNDECIDED if refused is None else share(refused)
    return model(
        method, "cr" if method else None, asr=rates, over_refusal=over_refusal, score_change=BETTER if method else None
    )


def written(model: ModelFacts, degenerate: int, others: int) -> ModelFacts:
    kinds = ["degenerate"] * degenerate + ["refusal"] * others
    return model._replace(
        responses=tuple(JudgedResponse("direct", "p", True, False, "r", False, "", kind) for kind in kinds)
    )


BASE = rated(None, 0.0, direct=1.0, prefill=1.0)


def run_of(*models: ModelFacts, **changes: object) -> RunFacts:
    return facts(models=[])._replace(models=models, **changes)


def test_refusing_everything_and_refusing_nothing_score_alike() -> None:
    everything, nothing = rated("a", 1.0, direct=0.0, prefill=0.0), rated("b", 0.0, direct=1.0, prefill=1.0)
    assert score(everything, ["direct", "prefill"]) == score(nothing, ["direct", "prefill"]) == 1.0
    half = rated("c", 0.0, direct=0.0, prefill=1.0)
    assert best_model([BASE, everything, nothing, half]) is half


def test_only_attacks_that_every_model_met_decide_which_is_best() -> None:
    searched = rated("a", 0.0, direct=0.0, gcg=1.0)
    other = rated("b", 0.0, direct=0.1)
    assert common_attacks([searched, other]) == ["direct"]
    assert best_model([searched, other]) is searched


def test_a_model_with_an_undecided_rate_is_never_called_best() -> None:
    undecided, worse = rated("a", 0.0, direct=None, prefill=0.0), rated("b", 0.5, direct=0.5, prefill=0.5)
    assert best_model([BASE, undecided, worse]) is worse
    assert best_model([BASE, undecided]) is None
    assert best_model([BASE]) is None


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        ([BASE], "No aligned model is in this run"),
        ([BASE, rated("a", None, direct=0.1, prefill=0.1)], "No aligned model has decided rates"),
        ([rated("a", 0.0, direct=0.1)], "without a base no change can be shown"),
        ([BASE, rated("a", 0.0, direct=0.0, prefill=0.1)], "under every attack; over-refusal shows no measurable"),
        ([BASE, rated("a", 0.6, direct=0.0, prefill=1.0)], "under 1 of 2 attacks; over-refusal rises from 0 % to 60 %"),
        ([BASE, rated("a", 0.0, direct=1.0, prefill=1.0)], "is not measurably harder to attack than the base"),
        (
            [rated(None, 0.5, direct=0.5, prefill=0.2), rated("a", 0.0, direct=0.0, prefill=0.6)],
            "under 1 of 2 attacks, easier under 1; over-refusal falls from 50 % to 0 %",
        ),
    ],
)
def test_the_headline_says_what_the_intervals_support(models: list[ModelFacts], sentence: str) -> None:
    assert sentence in headline(models).replace("\N{NO-BREAK SPACE}", " ")


def test_no_model_is_named_where_the_change_of_its_score_may_be_none() -> None:
    complying = rated("a", 0.0, direct=1.0, prefill=0.98)._replace(score_change=UNCLEAR)
    assert best_model([BASE, complying]) is None
    assert leading_model([BASE, complying]) is complying
    sentence = headline([BASE, complying]).replace("\N{NO-BREAK SPACE}", " ")
    start = "No model is measurably better than the base: attack success plus over-refusal is least for a on"
    assert sentence.startswith(start)
    assert sentence.endswith(", 100 % → 99 % plus 0 % → 0 %")
    untested = complying._replace(score_change=None)
    assert "not compared with the base's by prompt" in headline([BASE, untested])


def test_a_measurably_better_model_goes_before_one_with_a_lower_score() -> None:
    lower, better = rated("a", 0.0, direct=0.0, prefill=0.0)._replace(score_change=UNCLEAR), rated("b", 0.1, direct=0.1)
    better = better._replace(in_distribution=rated("b", 0.1, direct=0.1, prefill=0.1).in_distribution)
    assert best_model([BASE, lower, better]) is better


def test_degenerate_responses_are_stated_and_a_model_that_mostly_writes_them_is_not_named() -> None:
    some, most = (written(rated("a", 0.0, direct=0.0, prefill=0.0), n, 100 - n) for n in (26, 60))
    assert "; 26 % of its responses are degenerate" in headline([BASE, some]).replace("\N{NO-BREAK SPACE}", " ")
    assert best_model([BASE, most]) is None
    sentence = headline([BASE, most]).replace("\N{NO-BREAK SPACE}", " ")
    assert sentence == "No model is measurably better than the base: 60 % of the responses of a on CR are degenerate"


def verdict_rows(unsafe: int, refused: int, count: int = 40) -> list[dict[str, object]]:
    sides = ((True, unsafe, 0), (False, 0, refused))
    return [
        {"id": f"{harmful}{n}", "prompt": f"{harmful}{n}", "harmful": harmful, "attack": "direct", "held_out": False,
         "unsafe": n < bad, "refused": n < declined, "judge": "j", "judge_sha256": "0"}
        for harmful, bad, declined in sides for n in range(count)
    ]  # fmt: skip


def test_the_change_of_the_score_is_tested_on_the_same_prompts(tmp_path: Path) -> None:
    refusing, helpful, nothing = (12, 0), (0, 40), (40, 0)
    rows = {"base": nothing, "good": refusing, "refuses": helpful, "same": nothing}
    for name, counts in rows.items():
        write_rows(tmp_path / "models" / name / "verdicts.jsonl", verdict_rows(*counts))
    names = {name: rated(None if name == "base" else name, 0.0, direct=0.5)._replace(name=name) for name in rows}
    models = with_score_changes(run_of(*names.values()), tmp_path, changes).models
    base, good, refuses, same = (entry.score_change for entry in models)
    assert base is None
    assert good is not None
    assert good.value == pytest.approx(-0.7)
    assert (good.high or 0) < 0
    assert refuses is not None
    assert refuses.value == 0
    assert (refuses.low or 0) < 0 < (refuses.high or 0)
    assert same is not None
    assert (same.low or 0) < 0 < (same.high or 0)
    without = with_score_changes(run_of(*names.values()), tmp_path / "nowhere", changes).models
    assert all(entry.score_change is None for entry in without)
    assert score_change({}, ["direct"]) is None


def test_the_change_of_the_score_is_by_the_judge_whose_rates_the_run_reports(tmp_path: Path) -> None:
    edited = [{**row, "judge_sha256": "1"} for row in verdict_rows(12, 0)]
    other = [{**row, "judge": "other"} for row in verdict_rows(40, 0)]
    rows = {"base": verdict_rows(40, 0), "good": verdict_rows(40, 0)}
    names = {name: rated(None if name == "base" else name, 0.0, direct=0.5)._replace(name=name) for name in rows}

    def change(**more: list[dict[str, object]]) -> float | None:
        for name, group in rows.items():
            write_rows(tmp_path / "models" / name / "verdicts.jsonl", [*group, *other, *more.get(name, [])])
        _, good = with_score_changes(run_of(*names.values()), tmp_path, changes).models
        return good.score_change and good.score_change.value

    assert change() == 0
    assert change(good=edited) is None  # the base was not judged by the edited version
    assert change(base=[{**row, "unsafe": row["harmful"]} for row in edited], good=edited) == pytest.approx(-0.7)


def test_models_that_do_not_differ_from_the_base_are_seldom_named(tmp_path: Path) -> None:
    """Sampled verdicts of one distribution: of 100 runs of three models, one names any by chance at most."""
    draws, named = np.random.default_rng(0), 0
    for _ in range(100):
        tables = []
        for _ in range(4):
            outcomes = draws.random((2, 40)) < 0.5
            tables.append(verdict_rows(0, 0))
            for row, unsafe in zip(tables[-1][:40], outcomes[0], strict=True):
                row["unsafe"] = bool(unsafe)
            for row, refused in zip(tables[-1][40:], outcomes[1], strict=True):
                row["refused"] = bool(refused)
        found = [score_change(changes(tables[0], table, confidence=1 - 0.05 / 3), ["direct"]) for table in tables[1:]]
        named += any(change is not None and (change.high or 0) < 0 for change in found)
    assert named <= 5


def test_no_headline_or_tile_concludes_that_a_model_is_safe() -> None:
    run = facts()
    words = [headline(run.models), *(line for tile in tiles(run) for line in (tile.name, tile.answer, *tile.lines))]
    assert not re.search(r"\bsafe\b", " ".join(words))


def test_the_tiles_answer_which_how_well_at_what_price_what_is_not_known_and_how_again() -> None:
    run = facts()
    models = tuple(entry._replace(score_change=BETTER) if entry.method else entry for entry in run.models)
    by_name = {tile.name: tile for tile in tiles(run._replace(folder="my run", models=models))}
    assert by_name["Best model"].answer == "kto on pref"
    assert "best of many looks better" in by_name["Best model"].lines[-1]
    attacked = by_name["Most successful attack on kto on pref"]
    assert attacked.answer == "33\xa0% under wrapper"
    assert attacked.lines[0].startswith("direct 100\xa0% → 25\xa0%")
    assert by_name["Price of kto on pref"].answer == "3\xa0% over-refusal"
    assert by_name["More separation, fewer successes?"].answer == "undecided"
    assert by_name["Reproduce"].code == "divalign run 'my run/config.yaml' --out 'my run-again'"


def test_what_is_not_known_is_listed() -> None:
    lines = " ".join(unknowns(facts()))
    assert "gcg start, gcg: run on some models only" in lines
    assert "whether a second judge agrees" in lines
    assert "whether evaluation prompts were trained on" in lines
    assert "held-out topics" not in lines
    assert "held-out topics: not measured" in unknowns(run_of(BASE))
    assert "training with other seeds: one was run" in unknowns(run_of(BASE, rated("a", 0.0, direct=0.5)))


def test_a_run_without_a_best_model_still_has_its_tiles() -> None:
    names = [tile.name for tile in tiles(run_of(BASE, verdict=None))]
    assert names == ["Best model", "More separation, fewer successes?", "Not known", "Reproduce"]


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        (
            {},
            "Whether more separation goes with fewer successful attacks cannot be decided from 10 models. Correlation",
        ),
        ({"conclusion": "supported"}, "Over these 10 models, more separation goes with fewer successful attacks. "),
        (
            {"conclusion": "no effect"},
            "Over these 10 models, the correlation of separation and attack success is small",
        ),
        ({"p_value": 0.01, "value": 2.0}, "Over these 10 models, more separation goes with more successful attacks"),
        ({"value": None}, "Whether more separation goes with fewer successful attacks cannot be tested on 10 models"),
    ],
)
def test_the_verdict_in_words(changes: dict[str, object], start: str) -> None:
    assert prediction(VerdictRecord.model_validate(VERDICT | changes)).startswith(start)
    assert prediction(None) == "This run has no verdict."


def test_aligned_models_are_those_with_a_method() -> None:
    assert [entry.name for entry in aligned_of(facts().models)][:1] == ["kldo-cr"]
