import math
import re
from xml.etree.ElementTree import Element, fromstring

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divalign.core.stats import Estimate
from divalign.draw.axis import linear, shares
from divalign.draw.crowd import APART, around
from divalign.draw.numbers import percent
from divalign.draw.plane import HEIGHT, WIDTH, PlanePoint, plane_picture
from divalign.draw.plots import MOST_POINTS, Curve, Dot, curves_picture, dots_picture
from divalign.draw.rows import LONGEST, Mark, MarkRow, rows_picture
from divalign.draw.svg import markup, node, symbol
from tests.report.runs import HOSTILE

RATES = shares(percent)


def elements(picture: str, tag: str, kind: str = "") -> list[Element]:
    """The elements of a picture with a tag and, where one is given, a CSS class."""
    return [
        element for element in fromstring(picture).iter(tag) if not kind or kind in element.get("class", "").split()
    ]


def words(picture: str) -> list[str]:
    return [element.text or "" for element in elements(picture, "text")]


def row_of(value: float | None, low: float | None = None, high: float | None = None) -> MarkRow:
    return MarkRow("kldo on CR", (Mark(Estimate(value, low, high, 9), "tone-0", 0, "kldo on CR"),))


@settings(derandomize=True, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_marks_lie_at_their_rates(rates: list[float]) -> None:
    picture = rows_picture([row_of(0.0), row_of(1.0), *(row_of(rate) for rate in rates)], RATES, description="marks")
    starts = [float(path.get("d", "")[1:].split(" ")[0]) for path in elements(picture, "path", "mark")]
    zero, one, *places = starts  # a circle's path begins at its left end
    assert places == pytest.approx([zero + rate * (one - zero) for rate in rates], abs=0.11)


def test_an_interval_spans_its_low_and_high_end() -> None:
    row = row_of(0.5, 0.25, 0.75)
    ticks = [float(line.get("x1", "")) for line in elements(rows_picture([row], RATES, description=""), "line", "grid")]
    path = elements(rows_picture([row], RATES, description=""), "path", "whisker")[0].get("d", "")
    left, right = (float(number) for number in re.findall(r"M([\d.]+) .*H([\d.]+)", path)[0])
    assert [left, right] == pytest.approx([ticks[1], ticks[3]], abs=0.06)


@pytest.mark.parametrize("estimate", [None, Estimate(None, 0.0, 1.0, 0)])
def test_a_mark_without_a_number_has_its_blank_written_and_is_no_shape(estimate: Estimate | None) -> None:
    marks = (Mark(estimate, "tone-0", 0, "a", "no number"),)
    picture = rows_picture([MarkRow("a", marks)], RATES, description="")
    assert "no number" in words(picture)
    assert not elements(picture, "rect") + elements(picture, "path")


def test_marks_of_a_row_are_joined_where_both_are_known() -> None:
    def joined(*values: float | None) -> int:
        marks = tuple(Mark(Estimate(value, None, None, 9), "tone-0", 0, "m") for value in values)
        return len(elements(rows_picture([MarkRow("a", marks)], RATES, description=""), "path", "join"))

    assert (joined(0.1, 0.9), joined(0.1, None), joined(0.1)) == (1, 0, 0)


def test_the_reference_stands_at_its_number() -> None:
    picture = rows_picture([row_of(0.5)], RATES, description="", reference=0.25)
    tick = elements(picture, "line", "grid")[1]
    assert elements(picture, "line", "reference")[0].get("x1") == tick.get("x1")


def test_a_long_label_is_cut_and_kept_whole_in_its_title() -> None:
    picture = rows_picture([MarkRow("x" * 50, row_of(0.5).marks)], RATES, description="")
    label = elements(picture, "text", "label")[0]
    assert label.text == "x" * (LONGEST - 1) + "…"
    assert [title.text for title in label] == ["x" * 50]


def test_six_shapes_differ_and_then_repeat() -> None:
    shapes = [symbol(shape, 0.0, 0.0) for shape in range(7)]
    assert len(set(shapes[:6])) == 6
    assert shapes[6] == shapes[0]


@pytest.mark.parametrize("text", HOSTILE[:6])
def test_text_and_attributes_come_back_from_a_parser_as_they_went_in(text: str) -> None:
    element = fromstring(markup(node("g", node("title", text), aria_label=text, missing=None)))
    assert (element.get("aria-label"), element[0].text, element.get("missing")) == (text, text, None)


def cloud(seed: int = 0, n: int = 40) -> list[PlanePoint]:
    draws = np.random.default_rng(seed).normal(size=(n, 2)) @ np.array([[3.0, 1.0], [0.0, 0.5]])
    return [
        PlanePoint(float(x), float(y), ("harmful", "benign")[i % 2], i % 8 == 0, "kind", f"prompt {i}")
        for i, (x, y) in enumerate(draws)
    ]


@settings(derandomize=True, max_examples=25)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=9))
def test_the_plane_keeps_all_ratios_of_distances_and_stays_in_its_frame(places: list[tuple[float, float]]) -> None:
    spots = plane_picture(
        [PlanePoint(x, y, "harmful", False, "", "") for x, y in places], index=0, description=""
    ).spots
    assert all(0 < spot.x < WIDTH and 0 < spot.y < HEIGHT for spot in spots)
    true = [math.dist(a, b) for a in places for b in places]
    seen = [math.dist((a.x, a.y), (b.x, b.y)) for a in spots for b in spots]
    scale = max(seen) / (max(true) or 1.0)
    assert seen == pytest.approx([scale * distance for distance in true], abs=1e-6 * (1 + max(seen)))


def test_every_prompt_is_one_mark_of_its_class_and_kind() -> None:
    points = cloud()
    picture = plane_picture(points, index=3, description="").picture
    for tone in ("benign", "harmful"):
        dots, crosses = (elements(picture, "path", kind) for kind in ("dots", "crosses"))
        of_tone = [next(path for path in paths if tone in path.get("class", "").split()) for paths in (dots, crosses)]
        crossed = [point.cross for point in points if point.tone == tone]
        assert of_tone[0].get("d", "").count("M") == crossed.count(False)
        assert of_tone[1].get("d", "").count("M") == crossed.count(True)
    assert fromstring(picture).get("data-plane") == "3"


def test_points_on_the_ellipses_are_one_and_two_standard_deviations_from_the_mean() -> None:
    points = [point._replace(cross=False, tone="harmful") for point in cloud(n=60)]
    plane = plane_picture(points, index=0, description="")
    data = np.array([(point.x, point.y) for point in points])
    # The map from the picture back to the plane, read off the marks themselves.
    across, up = (np.polyfit([spot[axis] for spot in plane.spots], data[:, axis], 1) for axis in (0, 1))
    inverse = np.linalg.inv(np.cov(data.T))
    for sigmas, ellipse in zip((1, 2), elements(plane.picture, "ellipse", "harmful"), strict=True):
        cx, cy, rx, ry = (float(ellipse.get(name, "")) for name in ("cx", "cy", "rx", "ry"))
        turn = math.radians(float(re.findall(r"rotate\((\S+)", ellipse.get("transform", ""))[0]))
        for angle in np.linspace(0, 2 * math.pi, 12):
            along, aside = rx * math.cos(angle), ry * math.sin(angle)
            x = cx + along * math.cos(turn) - aside * math.sin(turn)
            y = cy + along * math.sin(turn) + aside * math.cos(turn)
            off = np.array([np.polyval(across, x), np.polyval(up, y)]) - data.mean(axis=0)
            assert math.sqrt(off @ inverse @ off) == pytest.approx(
                sigmas, rel=0.02
            )  # the turn is rounded to 0.1 degrees


@pytest.mark.parametrize("points", [cloud(n=2), [PlanePoint(1.0, 1.0, "harmful", False, "", "same")] * 5, cloud(n=1)])
def test_few_or_equal_points_still_make_a_picture(points: list[PlanePoint]) -> None:
    plane = plane_picture(points, index=0, description="")
    assert len(plane.spots) == len(points)
    assert all(math.isfinite(spot.x) and math.isfinite(spot.y) for spot in plane.spots)
    assert "nan" not in plane.picture


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    points = tuple((float(step), float(step)) for step in range(10 * MOST_POINTS + 7))
    axis = linear([0.0, points[-1][0]])
    short = curves_picture([Curve("chosen", points)], axis, axis, x_label="step", description="")
    path = elements(short, "path", "curve")[0].get("d", "")
    ends = elements(
        curves_picture([Curve("chosen", (points[0], points[-1]))], axis, axis, x_label="", description=""),
        "path",
        "curve",
    )
    assert path.count("L") <= MOST_POINTS + 1
    assert [path.split("L")[0], path.split("L")[-1]] == ends[0].get("d", "").split("L")


def test_a_model_without_a_decided_rate_on_either_axis_is_no_dot() -> None:
    pairs = [(0.5, 0.5), (None, 0.5), (0.5, None)]
    dots = [Dot(Estimate(x, None, None, 9), Estimate(y, None, None, 9), "tone-0", 0, "m") for x, y in pairs]
    picture = dots_picture(dots, RATES, RATES, x_label="over-refusal", description="")
    assert len(elements(picture, "path", "mark")) == 1
    assert not elements(picture, "path", "whisker")


def test_the_intervals_of_a_dot_span_their_ends_on_both_axes_and_cross_at_its_place() -> None:
    dot = Dot(Estimate(0.5, 0.25, 0.75, 9), Estimate(0.25, 0.0, 0.5, 9), "tone-0", 0, "m")
    picture = dots_picture([dot], RATES, RATES, x_label="", description="")
    across = [float(label.get("x", "")) for label in elements(picture, "text", "middle")][:5]
    up = [float(line.get("y1", "")) for line in elements(picture, "line")]
    path = elements(picture, "path", "whisker")[0].get("d", "")
    (left, _, right, _, _, low, high, _) = (float(n) for n in re.findall(INTERVALS, path)[0])
    assert [left, right] == pytest.approx([across[1], across[3]], abs=0.06)
    assert [low, high] == pytest.approx([up[0], up[2]], abs=0.06)


INTERVALS = r"M([\d.]+) ([\d.]+)v.*?H([\d.]+)m.*?v([\d.]+)M([\d.]+) ([\d.]+)h.*?V([\d.]+)m.*?h([\d.]+)"


@settings(derandomize=True, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=14))
def test_symbols_of_one_place_never_hide_each_other_and_stay_near_it(cells: list[tuple[int, int]]) -> None:
    places = [(100.0 * x, 100.0 * y) for x, y in cells]
    shown = around(places)
    for index, (place, at) in enumerate(zip(places, shown, strict=True)):
        alike = places.count(place)
        assert math.dist(place, at) == pytest.approx(0 if alike == 1 else APART / (2 * math.sin(math.pi / alike)))
        others = shown[:index] + shown[index + 1 :]
        assert all(math.dist(at, other) >= APART - 1e-6 for other in others)


@settings(derandomize=True, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 60), st.floats(0, 60)), min_size=1, max_size=12))
def test_no_symbol_hides_another_wherever_they_lie(places: list[tuple[float, float]]) -> None:
    shown = around(places)
    assert len(shown) == len(places)
    for index, at in enumerate(shown):
        assert all(math.dist(at, other) >= APART - 1e-6 for other in shown[index + 1 :])


@pytest.mark.parametrize("count", [15, 40, 60])
def test_many_symbols_of_one_place_fill_rings_that_stay_small(count: int) -> None:
    shown = around([(0.0, 0.0)] * count)
    assert max(math.hypot(*at) for at in shown) <= 5 * APART  # one ring of sixty would have a radius of 76
    for index, at in enumerate(shown):
        assert all(math.dist(at, other) >= APART - 1e-6 for other in shown[index + 1 :])


def test_pictures_within_the_same_points_share_their_axes() -> None:
    points = [point._replace(x=2 * point.x) for point in cloud()]
    whole = plane_picture(points, index=0, description="").spots
    part = plane_picture(points[:5], index=0, description="", within=points).spots
    assert part == whole[:5]


def test_symbols_that_touch_through_others_share_a_ring() -> None:
    shown = around([(0.0, 0.0), (APART - 1, 0.0), (2 * APART - 2, 0.0), (500.0, 0.0)])
    assert shown[3] == (500.0, 0.0)
    assert {round(math.dist(at, (APART - 1, 0.0)), 6) for at in shown[:3]} == {round(APART / math.sqrt(3), 6)}
