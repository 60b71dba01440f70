"""The confusion matrix as SVG, from two classes to a thousand."""

from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray

from opsin.visualization.confusion_matrix_svg import MOST_CELLS, confusion_chart


def drawn(matrix: NDArray[np.int64], classes: list[str]) -> ElementTree.Element:
    return ElementTree.fromstring(str(confusion_chart(matrix, classes, title="confusion")))


def cells(chart: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [part for part in chart.iter("rect") if part.get("class") == kind]


def test_cells_have_counts_and_hover_titles() -> None:
    chart = drawn(np.array([[9, 1], [0, 4]]), ["cat", "dog"])
    counts = [part.text for part in chart.iter("text") if part.get("class") == "count"]
    assert counts == ["9", "1", "4"]
    words = [part.text for part in chart.iter("title")]
    assert words[1] == "1 of 10 images of cat: classified as dog"
    assert (len(cells(chart, "hit")), len(cells(chart, "miss"))) == (2, 1)


def test_rows_are_true_classes_and_larger_shares_are_darker() -> None:
    chart = drawn(np.array([[6, 4, 0], [0, 9, 1], [0, 0, 10]]), ["a", "b", "c"])
    first, second = cells(chart, "miss")
    assert float(first.get("y", "")) < float(second.get("y", ""))
    assert float(first.get("fill-opacity", "")) > float(second.get("fill-opacity", ""))
    shades = [float(cell.get("fill-opacity", "")) for cell in cells(chart, "hit")]
    assert shades == sorted(shades)


@pytest.mark.parametrize(("count", "names"), [(12, 12), (30, 30), (100, 0)])
def test_names_are_drawn_for_up_to_thirty_classes(count: int, names: int) -> None:
    chart = drawn(np.eye(count, dtype=np.int64), [f"class {i}" for i in range(count)])
    assert sum(part.get("class") == "name" for part in chart.iter("text")) == names
    assert len(cells(chart, "hit")) == count
    side = float(cells(chart, "hit")[0].get("width", ""))
    assert side * count <= 360


def test_the_chart_of_a_thousand_classes_is_small_and_leaves_out_no_row() -> None:
    generator = np.random.default_rng(0)
    matrix = (generator.random((1000, 1000)) < 0.02).astype(np.int64)
    matrix += 2 * (generator.random((1000, 1000)) < 0.003)
    np.fill_diagonal(matrix, 50)
    page = str(confusion_chart(matrix, [f"class {i}" for i in range(1000)], title="confusion"))
    assert "confusion, cells with at least 2 images" in page
    assert page.count("<rect") == (matrix >= 2).sum() + 1 <= MOST_CELLS + 1
    assert page.count('class="hit"') == 1000
    assert len(page) < 1_500_000


def test_the_title_states_no_limit_if_all_cells_are_drawn() -> None:
    page = str(confusion_chart(np.ones((70, 70), np.int64), [f"class {i}" for i in range(70)], title="confusion"))
    assert page.count("<rect") == 4901
    assert "at least" not in page


def test_class_names_are_escaped() -> None:
    chart = confusion_chart(np.array([[1, 1], [1, 1]]), ["<script>", '"&'], title="<b>")
    assert "<script" not in chart
    ElementTree.fromstring(str(chart))


def test_a_class_without_images_has_an_empty_row() -> None:
    chart = drawn(np.array([[3, 1], [0, 0]]), ["seen", "never"])
    assert len(cells(chart, "hit")) + len(cells(chart, "miss")) == 2
