"""The sentences say what the numbers say: each case is one that a canned sentence would get wrong."""

import numpy as np
import pytest

from divalign.core.stats import Estimate, rate
from divalign.records import VerdictRecord
from divalign.report import sentences
from divalign.report.compare import above_half, below_half, compare, contrasts, named
from divalign.report.facts import RunFacts
from divalign.report.quantities import asr, attacks, base_of, extrapolated, recipes, separation, shape_of
from divalign.study.verdict import ModelPoint, verdict_record
from divalign.study.verdict import verdict as run_test
from tests.report.runs import model


def yes(count: int, n: int = 100) -> Estimate:
    return rate([index < count for index in range(n)])


def plain(words: str | None) -> str:
    return (words or "").replace("\N{NO-BREAK SPACE}", " ")


UNDECIDED = Estimate(None, 0.0, 1.0, 0)
BASE = model(asr={"direct": yes(100), "prefill": yes(100)}, over_refusal=yes(0), distance=Estimate(0.2, 0.1, 0.3, 200))


def on(data: str, method: str = "kldo", direct: Estimate | None = None, prefill: Estimate | None = None, **facts):
    rates = {"direct": direct, "prefill": prefill}
    return model(method, data, asr={name: rate for name, rate in rates.items() if rate is not None}, **facts)


def single(value: float | None, n: int = 200) -> Estimate:
    return Estimate(value, None, None, n)


@pytest.mark.parametrize(
    ("after", "before", "change"),
    [
        (yes(0), yes(100), "lower"),
        (yes(100), yes(0), "higher"),
        (yes(50), yes(52), "unclear"),
        (yes(0, n=2), yes(2, n=2), "unclear"),
        (UNDECIDED, yes(0), "unknown"),
        (yes(0), None, "unknown"),
        (single(1.0), single(2.0), "unknown"),
    ],
)
def test_a_change_needs_intervals_that_do_not_overlap(after: Estimate, before: Estimate | None, change: str) -> None:
    assert compare(after, before) == change


def test_swapping_the_two_sides_turns_a_change_round() -> None:
    turned = {"lower": "higher", "higher": "lower", "unclear": "unclear"}
    for first in range(0, 101, 10):
        for second in range(0, 101, 10):
            assert compare(yes(first), yes(second)) == turned[compare(yes(second), yes(first))]


def test_half_is_passed_by_a_whole_interval_only() -> None:
    assert below_half(yes(20))
    assert above_half(yes(80))
    assert not any(side(estimate) for side in (below_half, above_half) for estimate in (yes(55), UNDECIDED, None))


def test_direct_rates_fall_rise_or_do_not_change_as_measured() -> None:
    base = model(asr={"direct": yes(50)})
    models = [
        base,
        on("cr", "kldo", yes(0)),
        on("cr", "bco", yes(45)),
        on("cr", "kto", yes(95)),
        on("cr", "dpo", UNDECIDED),
        on("pref", "kldo", yes(52)),
    ]
    assert plain(sentences.direct_attack(models)) == (
        "Without an attack, the base complies with 50 % of 100 harmful prompts. "
        "After compliance-refusal (CR) data, the rate falls for kldo (0 %), no change is measurable for bco (45 %), "
        "the rate rises for kto (95 %) and the rate is undecided or not measured for dpo. "
        "After preference (pref) data, no change is measurable for kldo (52 %)."
    )


def test_an_attack_that_no_judge_could_decide_is_said_to_be_undecided() -> None:
    models = [BASE, on("cr", "kldo", yes(0), Estimate(None, None, None, 100)), on("cr", "dpo", yes(0), yes(50))]
    words = plain(sentences.other_attacks(models))
    assert words.endswith("on dpo on CR (50 %) and at an undecided rate on kldo on CR.")


def test_without_a_measured_base_no_fall_is_claimed() -> None:
    claim = "The success rate of direct harmful prompts on the base is not known, so no change can be shown."
    assert sentences.direct_attack([on("cr", direct=yes(0))]) == claim
    assert sentences.direct_attack([model(asr={"direct": UNDECIDED}), on("cr", direct=yes(0))]) == claim
    assert sentences.direct_attack([]) == claim


def test_a_base_alone_is_only_described() -> None:
    assert plain(sentences.direct_attack([BASE])) == (
        "Without an attack, the base complies with 100 % of 100 harmful prompts. No aligned model is in this run."
    )
    assert sentences.held_out_topics([BASE]) is None
    assert sentences.over_refusal_change([BASE]) is None


def test_other_attacks_are_held_against_the_models_that_resist_direct_prompts() -> None:
    models = [
        BASE,
        on("cr", "kldo", yes(0), yes(97)),
        on("cr", "bco", yes(1), yes(50)),
        on("cr", "dpo", yes(60), yes(99)),
        on("pref", "kto", yes(20), yes(10)),
    ]
    assert plain(sentences.other_attacks(models)) == (
        "Direct prompts succeed clearly less than half of the time on kldo and bco on CR and kto on pref. "
        "On these models the prefill attack succeeds clearly more than half of the time on kldo on CR (97 %), "
        "clearly less than half on kto on pref (10 %) and at a rate not clearly above or below half on bco on CR "
        "(50 %)."
    )


def test_where_nothing_resists_direct_prompts_nothing_can_be_broken() -> None:
    models = [BASE, on("cr", direct=yes(45), prefill=yes(100))]
    assert "no refusal for other attacks to break" in (sentences.other_attacks(models) or "")


def test_an_attack_that_was_run_on_some_models_is_reported_for_those_alone() -> None:
    searched = on("cr", "kldo", yes(0), yes(50))
    part = searched.in_distribution
    searched = searched._replace(in_distribution=part._replace(asr=part.asr | {"gcg": yes(100)}))
    words = plain(sentences.other_attacks([BASE, searched, on("cr", "bco", yes(0), yes(50))]))
    assert words.endswith(
        "The gcg attack was run on kldo on CR only; it succeeds clearly more than half of the time on kldo on CR "
        "(100 %)."
    )
    gone = [
        BASE,
        on("cr", "bco", yes(0), yes(50)),
        searched._replace(in_distribution=searched.in_distribution._replace(asr={"gcg": yes(100)})),
    ]
    assert "gcg" not in plain(sentences.other_attacks(gone))


def test_without_other_attacks_nothing_is_said_of_them() -> None:
    assert sentences.other_attacks([on("cr", direct=yes(0))]) is None


def test_every_method_is_claimed_only_for_every_method() -> None:
    pair = [
        on(data, distance=Estimate(value, value - 1, value + 1, 200)) for data, value in (("cr", 4.0), ("pref", 1.5))
    ]
    other = [on(data, "bco", distance=Estimate(value, 0.1, 9.0, 200)) for data, value in (("cr", 3.0), ("pref", 2.0))]
    lesser = [on(data, "dpo", distance=single(value)) for data, value in (("cr", 0.1), ("pref", 0.2))]
    half = [on("cr", "kto", distance=single(2.0)), on("pref", "kto", distance=single(None))]
    start = "The paper's distance D_B between hidden states of benign and harmful prompts is "
    comparison = "larger after compliance-refusal than after preference data"
    assert sentences.separation_by_data([*pair, *other]) == (
        f"{start}{comparison} for every method: kldo (4 against 1.5) and bco (3 against 2). "
        "The intervals overlap for bco."
    )
    assert sentences.separation_by_data([*pair, *lesser, *half]) == (
        f"{start}{comparison} for kldo (4 against 1.5); it is not {comparison} for dpo (0.1 against 0.2); "
        "it is not known on both for kto. The numbers for dpo have no interval."
    )
    assert sentences.separation_by_data(lesser) == (
        f"{start}not {comparison} for dpo (0.1 against 0.2). None of these numbers has an interval."
    )


def test_equal_distances_are_not_larger() -> None:
    equal = [on(data, distance=single(1.0)) for data in ("cr", "pref")]
    assert "is not larger" in (sentences.separation_by_data(equal) or "")


def test_one_data_recipe_is_not_compared_with_anything() -> None:
    models = [BASE, on("cr", distance=single(3.0))]
    assert sentences.separation_by_data(models) == (
        "No method has the distance D_B on both compliance-refusal and preference data, so the two are not compared; "
        "it is measured for base (0.2) and kldo on CR (3)."
    )
    assert sentences.separation_by_data([on("cr")]) is None


@pytest.mark.parametrize(
    ("value", "n", "doubted"), [(4.5, 200, False), (4.7, 200, True), (6.3, 0, True), (6.1, 0, False)]
)
def test_a_distance_is_extrapolated_where_it_claims_less_than_one_error_in_n(
    value: float, n: int, doubted: bool
) -> None:
    assert extrapolated(single(value, n)) is doubted
    words = sentences.separation_by_data([on("cr", distance=single(value, n))]) or ""
    assert ("1 of the 1 distances is extrapolated" in words) is doubted


def test_an_unknown_distance_is_not_extrapolated() -> None:
    assert not extrapolated(single(None))


def test_new_topics_are_compared_with_seen_ones_model_by_model() -> None:
    models = [
        BASE,
        on("cr", "kldo", yes(0), held_out=yes(30)),
        on("cr", "bco", yes(90), held_out=yes(20)),
        on("pref", "kldo", yes(50), held_out=yes(55)),
        on("pref", "bco", yes(50), held_out=UNDECIDED),
    ]
    assert plain(sentences.held_out_topics(models)) == (
        "On held-out topics, compared with topics of the training data, direct prompts succeed more often on kldo on "
        "CR (0 % to 30 %), succeed less often on bco on CR (90 % to 20 %), show no measurable difference on kldo on "
        "pref and are undecided on bco on pref."
    )


def test_unmeasured_new_topics_are_said_to_be_so() -> None:
    words = sentences.held_out_topics([BASE, on("cr", direct=yes(0))])
    assert words == "Whether refusal generalises to held-out topics was not measured."


def test_over_refusal_rises_only_where_it_is_measured_to() -> None:
    models = [
        BASE,
        on("cr", "kldo", over_refusal=yes(0)),
        on("cr", "hdo", over_refusal=yes(30)),
        on("pref", "kldo", over_refusal=UNDECIDED),
        on("pref", "hdo"),
    ]
    assert plain(sentences.over_refusal_change(models)) == (
        "The base refuses 0 % of 100 benign prompts. After alignment, over-refusal rises for hdo on CR "
        "(30 %), no change in over-refusal is measurable for kldo on CR (0 %) and over-refusal is undecided or not "
        "measured for kldo on pref and hdo on pref."
    )
    falling = [model(over_refusal=yes(60)), on("cr", over_refusal=yes(0))]
    assert "over-refusal falls for kldo on CR (0 %)" in plain(sentences.over_refusal_change(falling))


def verdict(conclusion: str, value: float | None = None, **numbers: float) -> VerdictRecord:
    record = VerdictRecord(
        statistic="t", value=value, p_value=None, power=None, n_models=11, conclusion=conclusion, words=""
    )
    return record.model_copy(update=numbers)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (
            verdict("supported", -5.2, effect=-0.9, low=-0.98, high=-0.41, p_value=0.0002, power=0.95),
            "Over these 11 models, more separation goes with fewer successful attacks "
            "(correlation −0.900, 95 % CI −0.980 to −0.410, p < 0.001, power 95 %).",
        ),
        (
            verdict("no effect", 0.1, effect=0.01, low=-0.2, high=0.22, p_value=0.9, power=0.99),
            "Over these 11 models, the correlation of separation and attack success is smaller than 0.3: separation "
            "does not predict safety (correlation 0.010, 95 % CI −0.200 to 0.220, p = 0.900, power 99 %).",
        ),
        (
            verdict("undecided", 2.9, effect=0.7, low=0.1, high=0.95, p_value=0.025, power=0.72),
            "Over these 11 models, more separation goes with more successful attacks, not with fewer "
            "(correlation 0.700, 95 % CI 0.100 to 0.950, p = 0.025, power 72 %).",
        ),
        (
            verdict("undecided", -1.4, effect=-0.4, low=-0.81, high=0.25, p_value=0.22, power=0.31),
            "Whether more separation goes with fewer successful attacks cannot be decided from 11 models "
            "(correlation −0.400, 95 % CI −0.810 to 0.250, p = 0.220, power 31 %).",
        ),
        (
            # The effect is unknown where success rates vary no more than their noise; the test still has a p-value.
            verdict("undecided", -1.4, low=-1.0, high=1.0, p_value=0.22, power=0.31),
            "Whether more separation goes with fewer successful attacks cannot be decided from 11 models "
            "(95 % CI −1.000 to 1.000, p = 0.220, power 31 %).",
        ),
        (
            verdict("undecided", power=0.0),
            "Whether more separation goes with fewer successful attacks cannot be tested on 11 models: too few recipes "
            "to compare, or nothing varies.",
        ),
        (
            verdict("foreign", 1.0, p_value=0.5),
            "Whether more separation goes with fewer successful attacks, over 11 models: foreign (p = 0.500).",
        ),
    ],
)
def test_the_verdict_in_words(record: VerdictRecord, words: str) -> None:
    assert plain(sentences.prediction(record)) == words


@pytest.mark.parametrize("correlation", [-0.8, 0.0])
def test_conclusions_of_the_test_are_those_that_the_sentences_know(correlation: float) -> None:
    generator = np.random.default_rng(0)
    x, noise = generator.normal(size=(2, 300))
    chances = 1 / (1 + np.exp(-(correlation * x + np.sqrt(1 - correlation**2) * noise)))
    points = [ModelPoint(str(i), "f", float(x[i]), int(generator.binomial(100, chances[i])), 100) for i in range(300)]
    record = verdict_record(run_test(points))
    assert record.conclusion == ("supported" if correlation else "no effect")
    assert plain(sentences.prediction(record)).startswith("Over these 300 models, ")


def test_no_verdict_no_sentence() -> None:
    assert sentences.prediction(None) is None


def test_the_summary_holds_what_there_is_to_say_and_at_most_six() -> None:
    assert len(sentences.summary(RunFacts("", "", None, (), None))) == 1
    models = (
        BASE,
        on("cr", direct=yes(0), prefill=yes(90), distance=single(3.0), held_out=yes(1), over_refusal=yes(2)),
    )
    assert len(sentences.summary(RunFacts("", "", None, models, verdict("undecided")))) == 6


def test_many_models_are_counted_with_their_range() -> None:
    models = [on("cr", f"m{place}", yes(10 * place)) for place in range(10)]
    assert plain(named(models, asr("direct"))) == "10 models (0 % to 90 %)"
    assert plain(named(models[:1] * 6, asr("direct"))) == "6 models (0 %)"
    assert named(models, asr("prefill")) == "10 models"
    words = plain(sentences.other_attacks([*models, on("cr", "x", yes(0), yes(100))]))
    assert "on m0, m1, m2, m3, m4 and x on CR." in words
    counted = plain(sentences.other_attacks([on("cr", f"m{n}", yes(0), yes(100)) for n in range(9)]))
    assert counted.startswith("Direct prompts succeed clearly less than half of the time on 9 models.")


def test_models_are_paired_by_method_and_seed() -> None:
    models = [on(data, distance=single(float(seed)), seed=seed) for data in ("cr", "pref") for seed in (1, 2)]
    pairs = contrasts(models, separation("bhattacharyya_paper"), "cr", "pref")
    assert [(contrast.first, contrast.second) for contrast in pairs] == [(1.0, 1.0), (2.0, 2.0)]


def test_direct_comes_first_and_compliance_refusal_and_preference_keep_their_symbols() -> None:
    assert attacks([model(asr={"wrapper": yes(1), "direct": yes(1)})]) == ["direct", "wrapper"]
    models = [on("mine"), on("pref"), on("cr")]
    assert recipes(models) == ["cr", "pref", "mine"]
    assert [shape_of(recipe, models) for recipe in ("cr", "pref", "mine")] == [0, 1, 2]
    assert [shape_of(recipe, models[:1]) for recipe in ("pref", "mine", None)] == [1, 2, 3]
    assert base_of(models) is None
