import re

import html5lib
import numpy as np
import pytest

from opsin.commands.explore.convolution_steps import INPUTS, draw, matrix_text, read_matrix, show
from opsin.errors import UserError
from opsin.interpretability.convolution.convolution import KERNELS, convolve, parse_kernel

EDGE = matrix_text(INPUTS["an edge"]())


def test_the_example_of_the_lecture() -> None:
    drawing, places, place = draw(EDGE, "sobel_vertical", 1, 0, 1, 3)
    assert (places, place) == (36, 3)
    assert "input 8 x 8" in drawing
    assert "kernel 3 x 3" in drawing
    assert "output 6 x 6" in drawing
    assert "row 1, column 4: -1·1 + 0·0 + 1·0 - 2·1 + 0·0 + 2·0 - 1·1 + 0·0 + 1·0 = -4" in drawing
    assert "(8 - 3 + 2·0) / 1 + 1 = 6" in drawing
    assert html5lib.HTMLParser(strict=True).parseFragment(drawing) is not None


def test_each_sum_equals_the_convolution() -> None:
    values, kernel = INPUTS["a digit: 2"](), KERNELS["sharpen"]
    expected = convolve(values, kernel, stride=2, padding=1).ravel()
    for place in range(len(expected)):
        drawing, places, _ = draw(matrix_text(values), matrix_text(kernel), 2, 1, 1, place)
        assert places == len(expected)
        total = re.search(r" = ([-.e0-9]+)</p>", drawing)
        assert total is not None
        assert float(total[1]) == pytest.approx(expected[place], abs=1e-3)


def test_only_computed_cells_are_shown() -> None:
    assert draw(EDGE, "blur", 1, 0, 1, 0)[0].count('class="unknown"') == 35
    assert draw(EDGE, "blur", 1, 0, 1, 35)[0].count('class="unknown"') == 0


def test_a_position_beyond_the_output_is_clipped() -> None:
    assert draw(EDGE, "blur", 3, 0, 1, 99)[1:] == (4, 3)
    assert draw(EDGE, "blur", 3, 0, 1, -5)[1:] == (4, 0)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_survive_the_text_form(name: str) -> None:
    np.testing.assert_allclose(parse_kernel(matrix_text(KERNELS[name])), KERNELS[name], atol=1e-9)


@pytest.mark.parametrize("text", ["", "1 2\n3", "one two", "1 nan", "1 2; 3 inf", " ".join(["1"] * 17)])
def test_text_that_is_not_a_matrix_is_an_error(text: str) -> None:
    with pytest.raises(UserError, match="the input"):
        read_matrix(text, "the input")


def test_an_error_replaces_the_drawing() -> None:
    error, drawing, _ = show(EDGE, "1 0 x", 1, 0, 1, 1)
    assert 'role="alert"' in error
    assert "Traceback" not in error
    assert drawing is None
    error, drawing, _ = show("1 2\n3 4", "blur", 1, 0, 1, 1)
    assert "does not fit into" in error
    assert drawing is None
    assert show(EDGE, "<script>alert(1)</script>", 1, 0, 1, 1)[0].count("<script") == 0
