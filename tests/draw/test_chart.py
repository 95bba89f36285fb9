"""The chart as a file of its own: what it draws, what it leaves out, and that it needs nothing but itself."""

import re
from xml.etree.ElementTree import Element, fromstring

import pytest

from divalign.draw.axis import linear
from divalign.draw.chart import BOX, COLOURS, Chart, chart_svg
from tests.report.runs import HOSTILE

SVG = "{http://www.w3.org/2000/svg}"


def parts(chart: Chart, tag: str, kind: str = "") -> list[Element]:
    root = fromstring(chart_svg(chart, "a title"))
    return [element for element in root.iter(SVG + tag) if not kind or kind in element.get("class", "").split()]


def test_every_point_is_a_mark_in_its_series_colour() -> None:
    chart = Chart("x", "y", {"a": ([1, 2, 3], [1.0, 2.0, 3.0]), "b": ([1, 2], [3.0, 1.0])})
    colours = [mark.get("fill") for mark in parts(chart, "path", "mark")]
    assert colours == [COLOURS[0]] * 3 + [COLOURS[1]] * 2
    texts = [text.text for text in parts(chart, "text")]
    assert {"x", "y", "a title", "a", "b"} <= set(texts)


def test_series_differ_in_shape_and_not_only_in_colour() -> None:
    chart = Chart("x", "y", {"a": ([1, 2], [1.0, 2.0]), "b": ([1, 2], [1.0, 2.0])})
    shapes = [re.sub(r"[\d.-]+", "", mark.get("d", "")) for mark in parts(chart, "path", "mark")]
    assert shapes[0] == shapes[1] != shapes[2]


def test_lines_join_a_series_and_a_diagonal_has_equal_coordinates() -> None:
    chart = Chart("x", "y", {"a": ([0, 1, 2], [0.0, 1.0, 2.0])}, lines=True, diagonal=True)
    (curve,), (diagonal,) = parts(chart, "path", "curve"), parts(chart, "path", "diagonal")
    ends = re.findall(r"[ML]([\d.]+) ([\d.]+)", curve.get("d", ""))
    assert [ends[0], ends[-1]] == re.findall(r"[ML]([\d.]+) ([\d.]+)", diagonal.get("d", ""))


def test_axes_that_are_alike_put_equal_coordinates_on_the_whole_diagonal() -> None:
    chart = Chart("x", "y", {"a": ([0.2, 2.0], [6.0, 9.0])}, diagonal=True, alike=True)
    (diagonal,) = parts(chart, "path", "diagonal")
    (left, low), (right, high) = re.findall(r"[ML]([\d.]+) ([\d.]+)", diagonal.get("d", ""))
    assert (float(left), float(low)) == BOX.place(linear([0.0, 10.0]), linear([0.0, 10.0]), 0.0, 0.0)
    assert (float(right), float(high)) == BOX.place(linear([0.0, 10.0]), linear([0.0, 10.0]), 10.0, 10.0)


def test_a_logarithmic_axis_leaves_out_what_it_cannot_show_and_refuses_an_empty_chart() -> None:
    chart = Chart("x", "y", {"a": ([0, 1, 10], [1.0, 1.0, 0.0])}, log_x=True, log_y=True)
    assert len(parts(chart, "path", "mark")) == 1
    with pytest.raises(ValueError, match="no point to show"):
        chart_svg(Chart("x", "y", {"a": ([0.0], [1.0])}, log_x=True), "empty")


def test_names_stand_under_their_marks() -> None:
    chart = Chart("method", "y", {"a": (["kldo", "bco"], [1.0, 2.0])})
    places = {text.text: float(text.get("x", "")) for text in parts(chart, "text", "end")}
    assert places["kldo"] < places["bco"]


def test_hostile_labels_are_text_and_nothing_is_fetched() -> None:
    chart = Chart(HOSTILE[0], HOSTILE[1], {HOSTILE[2]: ([1], [1.0]), HOSTILE[3]: ([2], [2.0])})
    texts = [text.text for text in parts(chart, "text")]
    assert set(HOSTILE[:4]) <= set(texts)
    drawing = chart_svg(chart, HOSTILE[0])
    assert not re.search(r"<script|<img|<iframe|url\(|href", drawing)
