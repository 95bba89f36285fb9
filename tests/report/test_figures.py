import numpy as np
import pytest

from divalign.core.stats import Estimate
from divalign.records import SeparationPart
from divalign.report import figures, hidden_states
from divalign.report.attack_table import attack_table
from divalign.report.facts import Point
from divalign.report.hidden_states import describe_points, plane_points, planes, thinned
from divalign.report.layers import layer_view
from tests.draw.test_pictures import elements, words
from tests.report.runs import layers_part, model


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


def test_every_aligned_model_stands_beside_the_base_on_the_same_axes() -> None:
    wide = tuple(point._replace(x=100 * point.x, y=100 * point.y) for point in cloud(3))
    figure = planes([MODELS[0], MODELS[1]._replace(plane=wide)])
    assert [[panel.title for panel in group] for group in figure.groups] == [["base", "kldo on pref"]]
    before, after = ([(spot.x, spot.y) for spot in spots] for spots in figure.spots)
    spans = [np.ptp(np.array(places), axis=0) for places in (before, after)]
    assert spans[0] == pytest.approx(spans[1] / 100, rel=1.5)  # the base shrinks by the same scale
    assert max(spans[0]) < 10


def test_without_a_base_or_without_aligned_models_planes_stand_alone() -> None:
    assert [[panel.title for panel in group] for group in planes(MODELS[:1]).groups] == [["base"]]
    titles = [[panel.title for panel in group] for group in planes(MODELS[1:3]).groups]
    assert titles == [["kldo on pref"], ["kldo on CR"]]
    assert planes(MODELS[3:]).groups == []


def test_a_bounded_divergence_shows_its_upper_bound_and_an_unbounded_one_none() -> None:
    models = [model("kldo", "cr", divergence={"js": estimate(1.0), "kl": estimate(None), "hellinger": estimate(1.5)})]
    js, kl, hellinger = (group[0] for group in figures.divergences(models).groups)
    assert [panel.title for panel in (js, kl, hellinger)] == ["js (of 1.386)", "kl", "hellinger (of 2)"]
    assert [len(elements(panel.picture, "line", "reference")) for panel in (js, kl, hellinger)] == [1, 0, 1]
    assert "undecided" in words(kl.picture)
    unbounded = figures.divergences([model("a", "cr", divergence={"kl": estimate(1.0)})])
    assert not [key for key in unbounded.keys if "bound" in key.label]


def test_every_column_of_the_logs_that_varies_has_a_panel_whatever_its_name() -> None:
    rows = tuple(
        {"step": float(step), "epoch": step / 9, "loss": 1.0 - step, "my/own": step * 2.0} for step in range(3)
    )
    flat = tuple({"step": float(step), "reward": None, "clip": 0.2, "kl": 0.1 * step} for step in range(3))
    figure = figures.curves([model("kldo", "cr", metrics=rows), model("rlhf", "cr", metrics=flat), model("bco", "cr")])
    panels = [group[0] for group in figure.groups]
    assert [panel.title for panel in panels] == ["loss", "kl", "my/own"]
    assert [len(elements(panel.picture, "path", "curve")) for panel in panels] == [1, 1, 1]
    assert [title.text for title in elements(panels[2].picture, "title")] == ["kldo on CR: 4 at the end"]


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
    assert any(title.startswith("kldo on CR: attack success 25\u00a0%") and "50\u00a0%" in title for title in titles)
    assert figures.frontier(models[:1]).groups == []
    alone = model("kldo", "cr", over_refusal=estimate(0.5), asr={"direct": estimate(0.0), "gcg": estimate(1.0)})
    assert [panel.title for (panel,) in figures.frontier([models[0], alone]).groups] == ["direct"]


def test_a_cell_of_the_heat_table_is_as_dark_as_its_rate_and_the_unknown_is_no_shade() -> None:
    rates = {"direct": estimate(0.0), "prefill": estimate(1.0), "wrapper": estimate(None), "gcg": estimate(0.004)}
    content = attack_table([model("kldo", "cr", asr=rates, over_refusal=None)])
    assert content is not None
    assert content.columns == ("direct", "prefill", "wrapper", "gcg", "over-refusal")
    cells = content.rows[0].cells
    assert [cell.kind for cell in cells] == ["h0", "h10", "undecided", "h0", "unmeasured"]
    assert [cell.text for cell in cells] == ["0", "100", "?", "0.4", ""]
    assert cells[2].title == "kldo on CR, wrapper: undecided (n = 9)"
    assert cells[4].title == "kldo on CR, over-refusal: not measured"
    assert attack_table([model()]) is None


def test_the_layer_view_has_every_layer_of_every_position_and_needs_two_layers() -> None:
    part = SeparationPart.model_validate(layers_part(3.0))
    view = layer_view([model("kldo", "cr", layers=part), model("bco", "cr")])
    assert view is not None
    assert view.layers == [0, 1, 2, 3, 4]
    assert list(view.data) == ["start of answer", "end of instruction"]
    rows = view.data["start of answer"]["rows"]["kldo-cr-0"]
    assert [row[0][0] for row in rows] == ["undecided", "0.6", "1.2", "1.8", "2.4"]
    assert rows[0][0][2] is None
    assert view.table.rows[0].cells[0].value == "2.4"  # the last layer, until the slider moves
    one = part.model_copy(update={"map": [entry for entry in part.map if entry.layer == 4]})
    assert layer_view([model("kldo", "cr", layers=one)]) is None


def test_many_prompts_are_thinned_evenly_in_both_classes_and_the_panel_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    points = cloud(n=40)
    assert thinned(points, 40) == tuple(points)
    drawn = thinned(points, 10)
    assert [point.harmful for point in drawn].count(True) == [point.harmful for point in drawn].count(False) == 5
    monkeypatch.setattr(hidden_states, "MOST_POINTS", 120)
    figure = planes([MODELS[0], *(model("kldo", data, plane=tuple(cloud(n=40))) for data in ("cr", "pref"))])
    assert [len(spots) for spots in figure.spots] == [20] * 4
    assert figure.groups[0][1].note == "D_B not measured; 20 of 40 prompts drawn"


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
