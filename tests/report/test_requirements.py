"""A gate passes only what the worse end of an interval supports, and never for want of a number."""

from xml.etree.ElementTree import fromstring

import pytest

from divalign.core.stats import rate
from divalign.records import Results
from divalign.report.requirements import Outcome, check_requirements, junit_xml, parse_requirement
from tests.report.runs import around, entries, rated, results, single


def run_of(*models: dict) -> Results:
    return Results.model_validate(results(models=list(models)))


def outcomes_of(results: Results, *texts: str, models: tuple[str, ...] = ()) -> list[Outcome]:
    return check_requirements(results, [parse_requirement(text) for text in texts], models)


def entry(**changes: object) -> dict:
    return entries()[1] | changes


@pytest.mark.parametrize(("successes", "passes"), [(0, False), (0.0, False)])
def test_none_of_fifty_is_not_below_five_percent(successes: float, passes: bool) -> None:
    (outcome,) = outcomes_of(run_of(entry(asr={"direct": rated(successes, 50)})), "asr.direct<=0.05")
    assert outcome.passed is passes
    assert outcome.words == "kldo-cr: asr.direct <= 0.05: 0, upper end of the 95 % interval 0.07135, n = 50"


def test_the_worse_end_of_the_interval_counts_in_both_directions() -> None:
    run = run_of(entry(over_refusal=rated(0.5, 100)))
    _, low, high, _ = rate([True] * 50 + [False] * 50)
    assert low is not None
    assert high is not None
    texts = (f"over_refusal<={high + 0.001}", f"over_refusal<={high - 0.001}",
             f"over_refusal>={low - 0.001}", f"over_refusal>={low + 0.001}")  # fmt: skip
    assert [outcome.passed for outcome in outcomes_of(run, *texts)] == [True, False, True, False]


@pytest.mark.parametrize(
    ("rate_of", "words"),
    [
        (single(None, 0) | {"low": 0.0, "high": 1.0}, "undecided"),
        (single(0.0, 9), "0 has no interval, so nothing bounds it"),
    ],
)
def test_what_is_undecided_or_without_an_interval_fails(rate_of: dict, words: str) -> None:
    (outcome,) = outcomes_of(run_of(entry(asr={"direct": rate_of})), "asr.direct<=1")
    assert not outcome.passed
    assert words in outcome.words


def test_what_one_model_has_and_another_has_not_fails_for_the_other() -> None:
    with_gcg, without = entries()[1], entries()[3]
    first, second = outcomes_of(run_of(with_gcg, without), "asr.gcg<=1")
    assert (first.passed, second.passed) == (True, False)
    assert second.words.endswith("not measured")


def test_every_aligned_model_is_held_to_it_and_named_ones_alone_where_named() -> None:
    run = run_of(*entries()[:3])
    assert [outcome.model for outcome in outcomes_of(run, "over_refusal<=1")] == ["kldo-cr", "bco-cr"]
    assert [outcome.model for outcome in outcomes_of(run, "over_refusal<=1", models=("base",))] == ["base"]
    assert [outcome.model for outcome in outcomes_of(run_of(entries()[0]), "over_refusal<=1")] == ["base"]


def test_a_star_is_every_attack() -> None:
    outcomes = outcomes_of(run_of(entries()[3]), "asr.*<=0.5", "held_out.asr.direct<=0.9", "separation.probe_auc>=0.5")
    assert [outcome.number for outcome in outcomes] == [
        "asr.direct",
        "asr.prefill",
        "asr.wrapper",
        "held_out.asr.direct",
        "separation.probe_auc",
    ]


@pytest.mark.parametrize("text", ["asr.direct=0.05", "asr.direct<=", "<=0.05", "asr.direct<=five", "asr.direct", ""])
def test_what_is_no_bound_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a bound such as 'asr\.direct<=0\.05'"):
        parse_requirement(text)


def test_a_misspelt_number_or_model_is_refused_and_never_passes() -> None:
    with pytest.raises(ValueError, match=r"no model of the run has the number 'asr\.dircet'; there are over_refusal, "):
        outcomes_of(run_of(entry()), "asr.dircet<=1")
    with pytest.raises(ValueError, match="the run has no model 'kldo'; it has kldo-cr"):
        outcomes_of(run_of(entry()), "over_refusal<=1", models=("kldo",))
    with pytest.raises(ValueError, match="got no requirement"):
        outcomes_of(run_of(entry()))


def test_junit_has_a_case_for_each_outcome_and_a_failure_with_its_line() -> None:
    bad = entry(name="<b>\x00", divergence={"js": around(1.0, 0.1)})
    outcomes = outcomes_of(run_of(bad), "over_refusal<=0.5", "divergence.js>=2")
    suite = fromstring(junit_xml(outcomes, name="gate").encode())[0]
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == ("gate", "2", "1")
    first, second = suite
    assert (first.get("classname"), first.get("name"), len(first)) == ("<b>?", "over_refusal<=0.5", 0)
    assert second[0].tag == "failure"
    assert "lower end of the 95 % interval 0.9" in (second[0].get("message") or "")
