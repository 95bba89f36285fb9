import re

import numpy as np

from divalign.core.stats import Estimate
from divalign.report import figures
from divalign.report.facts import Point
from divalign.report.hidden_states import describe_points, plane_points, planes
from tests.draw.test_pictures import elements, words
from tests.report.runs import model


def cloud(seed: int = 0, n: int = 40) -> list[Point]:
    draws = np.random.default_rng(seed).normal(size=(n, 2))
    return [Point(float(x), float(y), i % 2 == 0, i % 8 == 0, f"prompt {i}") for i, (x, y) in enumerate(draws)]


def estimate(value: float | None) -> Estimate:
    return Estimate(value, None, None, 9)


MODELS = [
    model(distance=estimate(0.2), asr={"direct": estimate(1.0)}, plane=tuple(cloud())),
    model("kldo", "pref", distance=estimate(3.0), asr={"direct": estimate(0.3)}, plane=tuple(cloud(1))),
    model("kldo", "cr", distance=estimate(90.0), asr={"direct": estimate(0.0)}, plane=tuple(cloud(2))),
    model("bco", "cr", distance=estimate(None), asr={"direct": estimate(None)}, divergence={"js": estimate(1.0)}),
]


def test_a_method_s_models_stand_side_by_side_compliance_refusal_first() -> None:
    figure = planes(MODELS)
    assert [[panel.title for panel in group] for group in figure.groups] == [["base"], ["kldo on CR", "kldo on pref"]]
    assert [re.findall(r'data-plane="(\d)"', panel.picture) for group in figure.groups for panel in group] == [
        ["0"],
        ["1"],
        ["2"],
    ]
    assert [len(spots) for spots in figure.spots] == [40, 40, 40]


def test_side_by_side_draws_only_what_some_aligned_model_has() -> None:
    assert [panel.title for group in figures.side_by_side(MODELS).groups for panel in group] == [
        "D_B, paper mode",
        "ASR, direct",
    ]
    assert figures.side_by_side(MODELS[:1]).groups == []


def test_held_out_bars_appear_only_where_topics_were_held_out() -> None:
    held_out = [model("kldo", "cr", asr={"direct": estimate(0.5)}, held_out=estimate(0.7)), MODELS[0]]
    with_held_out, without = figures.attack_bars(held_out), figures.attack_bars(MODELS)
    assert len(elements(with_held_out.groups[0][0].picture, "rect", "light")) == 1
    assert "not measured" in words(with_held_out.groups[0][0].picture)
    assert not elements(without.groups[0][0].picture, "rect", "light")
    assert len(with_held_out.keys) == len(without.keys) + 1  # two fills more, preference data less


def test_a_bounded_divergence_shows_its_upper_bound_and_an_unbounded_one_none() -> None:
    models = [model("kldo", "cr", divergence={"js": estimate(1.0), "kl": estimate(None), "hellinger": estimate(1.5)})]
    js, kl, hellinger = (group[0] for group in figures.divergences(models).groups)
    assert [panel.title for panel in (js, kl, hellinger)] == ["js (of 1.386)", "kl", "hellinger (of 2)"]
    assert [len(elements(panel.picture, "line", "reference")) for panel in (js, kl, hellinger)] == [1, 0, 1]
    assert "undecided" in words(kl.picture)
    unbounded = figures.divergences([model("a", "cr", divergence={"kl": estimate(1.0)})])
    assert not [key for key in unbounded.keys if "bound" in key.label]


def test_rewards_of_one_method_share_their_scale_and_gaps_are_left_out() -> None:
    rows = tuple({"step": float(step), "rewards/chosen": 10.0 * step, "rewards/rejected": None} for step in range(3))
    small = tuple({"step": float(step), "rewards/chosen": 0.1 * step} for step in range(3))
    figure = figures.curves(
        [model("kldo", "cr", metrics=rows), model("kldo", "pref", metrics=small), model("bco", "cr")]
    )
    ((cr, pref),) = figure.groups
    ticks = [[label.text for label in elements(panel.picture, "text", "end")] for panel in (cr, pref)]
    assert ticks[0] == ticks[1]
    assert len(elements(cr.picture, "path", "curve")) == 1
    assert cr.note == "at the end: chosen 20"


def test_separation_is_drawn_against_attacks_for_models_that_have_both() -> None:
    ((panel,),) = figures.separation_against_attacks(MODELS).groups
    assert len(elements(panel.picture, "path", "mark")) == 3
    assert figures.separation_against_attacks(MODELS[:1]).groups == []


def test_the_frontier_has_every_model_at_its_over_refusal_and_attack_success() -> None:
    models = [
        model(over_refusal=estimate(0.0), asr={"direct": estimate(1.0)}),
        model("kldo", "cr", over_refusal=estimate(0.5), asr={"direct": estimate(0.25)}),
        model("bco", "cr", over_refusal=estimate(None), asr={"direct": estimate(0.5)}),
    ]
    ((panel,),) = figures.frontier(models).groups
    assert len(elements(panel.picture, "path", "mark")) == 2
    titles = [title.text or "" for title in elements(panel.picture, "title")]
    assert any(title.startswith("kldo on CR: 25\u00a0%") and " at 50\u00a0%" in title for title in titles)
    assert figures.frontier(models[:1]).groups == []
    alone = model("kldo", "cr", over_refusal=estimate(0.5), asr={"direct": estimate(0.0), "gcg": estimate(1.0)})
    assert [panel.title for (panel,) in figures.frontier([models[0], alone]).groups] == ["direct"]


def test_the_plane_in_words_counts_the_prompts_of_each_class() -> None:
    assert (
        describe_points([Point(1.0, 2.0, True, False, ""), Point(3.0, 2.0, True, True, "")])
        == "2 harmful prompts around (2, 2)"
    )
    assert describe_points([]) == "no prompts"


def test_benign_points_are_drawn_first_and_held_out_topics_are_crosses() -> None:
    points = plane_points([Point(0.0, 0.0, True, True, "a"), Point(1.0, 0.0, False, False, "b")])
    assert [(point.tone, point.cross, point.kind, point.text) for point in points] == [
        ("benign", False, "benign", "b"),
        ("harmful", True, "harmful, held-out topic", "a"),
    ]
