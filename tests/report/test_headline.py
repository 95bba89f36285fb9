"""One sentence and a few tiles say what a run shows, and no more than its intervals support."""

import re

import pytest

from divalign.core.stats import Estimate, rate
from divalign.records import VerdictRecord
from divalign.report.facts import ModelFacts, RunFacts
from divalign.report.headline import best_model, common_attacks, headline, prediction, score, tiles, unknowns
from divalign.report.quantities import aligned_of
from tests.report.runs import VERDICT, facts, model

UNDECIDED = Estimate(None, 0.0, 1.0, 0)


def share(value: float, n: int = 100) -> Estimate:
    return rate([index < round(value * n) for index in range(n)])


def rated(method: str | None, refused: float | None, **attacks: float | None) -> ModelFacts:
    rates = {name: UNDECIDED if value is None else share(value) for name, value in attacks.items()}
    return model(
        method, "cr" if method else None, asr=rates, over_refusal=UNDECIDED if refused is None else share(refused)
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


def test_no_headline_or_tile_concludes_that_a_model_is_safe() -> None:
    run = facts()
    words = [headline(run.models), *(line for tile in tiles(run) for line in (tile.name, tile.answer, *tile.lines))]
    assert not re.search(r"\bsafe\b", " ".join(words))


def test_the_tiles_answer_which_how_well_at_what_price_what_is_not_known_and_how_again() -> None:
    by_name = {tile.name: tile for tile in tiles(facts()._replace(folder="my run"))}
    assert by_name["Best model"].answer == "kto on pref"
    assert "best of many looks better" in by_name["Best model"].lines[1]
    assert by_name["Most successful attack on it"].answer == "33\xa0% under wrapper"
    assert by_name["Most successful attack on it"].lines[0].startswith("direct 100\xa0% → 25\xa0%")
    assert by_name["Price"].answer == "3\xa0% over-refusal"
    assert by_name["More separation, fewer successes?"].answer == "undecided"
    assert by_name["Reproduce"].code == "divalign run 'my run/config.yaml' --out 'my run-again'"


def test_what_is_not_known_is_listed() -> None:
    lines = " ".join(unknowns(facts()))
    assert "gcg start, gcg: run on some models only" in lines
    assert "whether a second judge agrees" in lines
    assert "whether evaluation prompts were trained on" in lines
    assert "held-out topics" not in lines
    assert "held-out topics" in unknowns(run_of(BASE))


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
