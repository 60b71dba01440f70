"""Charts: positions match the values, and names are escaped."""

import math
from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from opsin.visualization.axis import scale
from opsin.visualization.charts import Bar, Series, horizontal_bars, line_chart, reliability_bars, small_multiples
from opsin.visualization.formatting import percent


def parsed(chart: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(str(chart))


def found(chart: Markup, kind: str, name: str) -> list[ElementTree.Element]:
    return [part for part in parsed(chart).iter(kind) if name in part.get("class", "").split()]


def titles(chart: Markup) -> list[str]:
    return [part.text or "" for part in parsed(chart).iter("title")]


def test_points_of_a_line_are_at_their_values() -> None:
    chart = line_chart([Series("val", [1, 2, 3], [0.0, 0.5, 1.0])], title="accuracy", text=percent)
    dots = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in found(chart, "circle", "dot")]
    assert dots[1][0] - dots[0][0] == pytest.approx(dots[2][0] - dots[1][0], abs=0.1)
    assert dots[1][0] - dots[0][0] > 50
    assert dots[0][1] - dots[1][1] == pytest.approx(dots[1][1] - dots[2][1], abs=0.1)
    assert dots[0][1] - dots[1][1] > 50
    assert titles(chart) == ["val, epoch 1: 0 %", "val, epoch 2: 50 %", "val, epoch 3: 100 %"]


def test_equal_factors_are_equal_steps_on_a_logarithmic_axis() -> None:
    chart = line_chart([Series("loss", [1, 2, 3, 4], [100.0, 1.0, 0.01, 0.0])], title="loss", log=True)
    heights = [float(dot.get("cy", "")) for dot in found(chart, "circle", "dot")]
    assert len(heights) == 3  # zero has no place there
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.1)
    assert heights[1] - heights[0] > 50


def test_missing_values_leave_a_gap() -> None:
    chart = line_chart([Series("val", [1, 2, 3, 4, 5, 6], [1, 2, None, math.nan, math.inf, 3])], title="gaps")
    (path,) = [part.get("d", "") for part in parsed(chart).iter("path")]
    assert (path.count("M"), path.count("L")) == (2, 1)
    assert "no values" in line_chart([Series("val", [1], [None])], title="none")


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    ("one", "other"), [(0.5, 0.5000000000000001), (0.002, 0.0020000000000000005), (3e9, 3e9 + 1e-6), (-0.3, -0.1 - 0.2)]
)
def test_values_that_differ_by_a_rounding_error_are_drawn(one: float, other: float, log: bool) -> None:
    chart = line_chart([Series("rate", [1, 2], [one, other])], title="rate", log=log)
    heights = {dot.get("cy") for dot in found(chart, "circle", "dot")}
    assert len(heights) == (0 if log and one < 0 else 1)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("value", [1e308, -1e308, 1e200, 5e-324])
def test_extreme_values_leave_a_gap_or_are_drawn(value: float, log: bool) -> None:
    chart = line_chart([Series("loss", [1, 2, value], [value, 1.0, 2.0])], title="loss", log=log)
    shown = titles(chart)
    assert "loss, epoch 2: 1" in shown
    assert not any(text.startswith("loss, epoch 1:") for text in shown) or (value < 1 and not log)
    numbers = [float(dot.get(place, "")) for dot in found(chart, "circle", "dot") for place in ("cx", "cy")]
    assert all(math.isfinite(number) for number in numbers)
    assert parsed(horizontal_bars([Bar("a", value), Bar("b", 0.5, 0.4, value)], title="bars", low=0)) is not None


def test_the_mark_is_at_its_epoch() -> None:
    chart = line_chart([Series("val", [1, 2, 3], [1, 2, 3])], title="loss", mark=2)
    (mark,) = found(chart, "line", "mark")
    assert mark.get("x1") == found(chart, "circle", "dot")[1].get("cx")
    assert found(line_chart([Series("val", [1, 2], [1, 2])], title="loss", mark=9), "line", "mark") == []


def test_series_beyond_the_number_of_colors_are_dashed() -> None:
    chart = line_chart([Series(f"run {i}", [1, 2], [i, i]) for i in range(10)], title="many")
    kinds = [part.get("class") for part in parsed(chart).iter("li")]
    assert len(set(kinds)) == 10
    assert kinds[9] == "s1 dashed"


def test_names_are_escaped() -> None:
    evil = "<script>alert(1)</script>\"'&"
    charts = [
        line_chart([Series(evil, [1], [1]), Series("b", [1], [1])], title=evil),
        horizontal_bars([Bar(evil, 0.5, note=evil)], title=evil, low=0),
    ]
    page = small_multiples(charts)
    parsed(page)  # well-formed
    assert "<script" not in page


def test_a_reliability_bar_is_as_high_as_its_accuracy() -> None:
    chart = reliability_bars([math.nan, 0.7, 1.0], [math.nan, 0.5, 1.0], [0, 3, 9], title="reliability")
    heights = [float(bar.get("height", "")) for bar in found(chart, "rect", "bar")]
    assert heights[0] / heights[1] == pytest.approx(0.5, abs=0.001)
    assert titles(chart)[0] == "3 images of confidence 70 %: 50 % right"


def test_bars_begin_at_zero_and_become_dots_without_it() -> None:
    bars = [Bar("a", 0.5, 0.4, 0.6), Bar("b", 1.0), Bar("c", math.nan)]
    chart = horizontal_bars(bars, title="recall", low=0)
    widths = [float(bar.get("width", "")) for bar in found(chart, "rect", "bar")]
    assert widths[0] / widths[1] == pytest.approx(0.5, abs=0.001)
    assert widths[2] == 0
    assert len(found(chart, "line", "whisker")) == 1
    dots = horizontal_bars([Bar("a", 0.95, 0.9, 1.0), Bar("c", math.nan)], title="recall", low=0.9)
    assert (len(found(dots, "rect", "bar")), len(found(dots, "circle", "point"))) == (0, 1)


def test_axes_end_at_round_values() -> None:
    assert scale([0.03, 0.97], 0, 100).ticks == (0, 0.2, 0.4, 0.6, 0.8, 1)
    assert scale([0.98, 0.98], 0, 100).high == 1.0
    assert scale([1, 2, 3], 0, 100, integer=True).ticks == (1, 2, 3)
    assert scale([3, 3], 0, 100, integer=True)(3) == 50
    assert scale([], 0, 100).holds(None) is False
    assert scale([1e-5, 1e4], 0, 100, log=True)(1e4) == 100
