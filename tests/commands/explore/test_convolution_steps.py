import re

import html5lib
import numpy as np
import pytest

from opsin.commands.explore.convolution_steps import INPUTS, draw, read_matrix, show, typed
from opsin.errors import UserError
from opsin.interpretability.convolution.convolution import KERNELS, convolve, parse_kernel

EDGE = typed(INPUTS["an edge"]())


def test_the_lectures_example() -> None:
    drawing, places, place = draw(EDGE, "sobel_vertical", 1, 0, 1, 3)
    assert (places, place) == (36, 3)
    assert "input 8 x 8" in drawing
    assert "kernel 3 x 3" in drawing
    assert "output 6 x 6" in drawing
    assert "row 1, column 4: -1·1 + 0·0 + 1·0 - 2·1 + 0·0 + 2·0 - 1·1 + 0·0 + 1·0 = -4" in drawing
    assert "(8 - 3 + 2·0) / 1 + 1 = 6" in drawing
    assert html5lib.HTMLParser(strict=True).parseFragment(drawing) is not None


def test_each_sum_is_the_convolutions() -> None:
    values, kernel = INPUTS["a digit: 2"](), KERNELS["sharpen"]
    expected = convolve(values, kernel, stride=2, padding=1).ravel()
    for place in range(len(expected)):
        drawing, places, _ = draw(typed(values), typed(kernel), 2, 1, 1, place)
        assert places == len(expected)
        total = re.search(r" = ([-.e0-9]+)</p>", drawing)
        assert total is not None
        assert float(total[1]) == pytest.approx(expected[place], abs=1e-3)


def test_only_what_is_computed_is_shown() -> None:
    assert draw(EDGE, "blur", 1, 0, 1, 0)[0].count('class="unknown"') == 35
    assert draw(EDGE, "blur", 1, 0, 1, 35)[0].count('class="unknown"') == 0


def test_a_place_beyond_the_output_is_its_last() -> None:
    assert draw(EDGE, "blur", 3, 0, 1, 99)[1:] == (4, 3)
    assert draw(EDGE, "blur", 3, 0, 1, -5)[1:] == (4, 0)


@pytest.mark.parametrize("name", KERNELS)
def test_what_is_typed_is_what_was_meant(name: str) -> None:
    np.testing.assert_allclose(parse_kernel(typed(KERNELS[name])), KERNELS[name], atol=1e-9)


@pytest.mark.parametrize("text", ["", "1 2\n3", "one two", "1 nan", "1 2; 3 inf", " ".join(["1"] * 17)])
def test_what_is_no_matrix_is_said(text: str) -> None:
    with pytest.raises(UserError, match="the input"):
        read_matrix(text, "the input")


def test_errors_are_messages_and_nothing_old_stays() -> None:
    said, drawing, _ = show(EDGE, "1 0 x", 1, 0, 1, 1)
    assert 'role="alert"' in said
    assert "Traceback" not in said
    assert drawing is None
    said, drawing, _ = show("1 2\n3 4", "blur", 1, 0, 1, 1)
    assert "has no place" in said
    assert drawing is None
    assert show(EDGE, "<script>alert(1)</script>", 1, 0, 1, 1)[0].count("<script") == 0
