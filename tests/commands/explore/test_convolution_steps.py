import base64
import io
import re
from pathlib import Path

import gradio as gr
import html5lib
import numpy as np
import pytest
from PIL import Image

from opsin.commands.explore.convolution_steps import INPUTS, choose_input, choose_operation, show
from opsin.commands.explore.step_drawing import Layer, draw
from opsin.errors import UserError
from opsin.interpretability.convolution.convolution import KERNELS, convolve, parse_kernel
from opsin.interpretability.convolution.dataset_images import dataset_image
from opsin.interpretability.convolution.matrix_text import matrix_text, parse_matrix
from opsin.interpretability.convolution.sample_images import gray

EDGE = matrix_text(INPUTS["an edge"]())


def test_the_example_of_the_lecture() -> None:
    drawing, places, place = draw(Layer(EDGE, "vertical"), 3)
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
        drawing, places, _ = draw(Layer(matrix_text(values), matrix_text(kernel), 2, 1), place)
        assert places == len(expected)
        total = re.search(r" = ([-.e0-9]+)</p>", drawing)
        assert total is not None
        assert float(total[1]) == pytest.approx(expected[place], abs=1e-3)


def test_a_long_sum_is_not_written_out() -> None:
    drawing, *_ = draw(Layer(EDGE, "; ".join(["1 1 1 1 1 1 1 1 1 1"] * 10), padding=2), 0)
    assert "row 1, column 1: 100 terms give 32<" in drawing


def test_only_computed_cells_are_shown() -> None:
    assert draw(Layer(EDGE, "blur"), 0)[0].count('class="unknown"') == 35
    assert draw(Layer(EDGE, "blur"), 35)[0].count('class="unknown"') == 0


def test_a_position_beyond_the_output_is_clipped() -> None:
    assert draw(Layer(EDGE, "blur", 3), 99)[1:] == (4, 3)
    assert draw(Layer(EDGE, "blur", 3), -5)[1:] == (4, 0)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_survive_the_text_form(name: str) -> None:
    np.testing.assert_allclose(parse_kernel(matrix_text(KERNELS[name])), KERNELS[name], atol=1e-9)


@pytest.mark.parametrize("text", ["", "1 2\n3", "one two", "1 nan", "1 2; 3 inf", " ".join(["1"] * 65)])
def test_text_that_is_not_a_matrix_is_an_error(text: str) -> None:
    with pytest.raises(UserError, match="the input"):
        draw(Layer(text, "blur"), 0)


def test_a_step_over_an_image_of_a_dataset() -> None:
    """The whole 28 x 28 image is drawn with one pixel per value; the window under the kernel is shown as numbers."""
    error, text, number = choose_input("dataset: digits", 3, None)
    assert error == ""
    assert (number.visible, number.label) == (True, "Image 0 to 1796; this one is of class 3")
    values = parse_matrix(text, "the input", 28)
    np.testing.assert_allclose(values, gray(dataset_image("digits", 3, None).pixels), atol=1e-9)
    drawing, places, place = draw(Layer(text, "horizontal"), 13 * 26 + 12)
    assert (places, place) == (26 * 26, 13 * 26 + 12)
    assert "row 14, column 13: 1·" in drawing
    expected = convolve(values, KERNELS["horizontal"])[13, 12]
    assert float(drawing.split(" = ")[1].split("<")[0]) == pytest.approx(expected, rel=1e-3)
    assert re.findall(r"<figcaption>(.*?)</figcaption>", drawing) == [
        "input 28 x 28", "window", "kernel 3 x 3", "output 26 x 26",
    ]  # fmt: skip
    window, output = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        for data in re.findall(r'href="data:image/png;base64,(.*?)"', drawing)
    )
    np.testing.assert_allclose(window[..., 0], values * 255, atol=1)
    assert np.count_nonzero(output[..., 3]) == place + 1
    assert html5lib.HTMLParser(strict=True).parseFragment(drawing) is not None
    assert len(drawing) < 20_000


def test_a_dataset_that_is_missing_is_an_error(tmp_path: Path) -> None:
    error, text, _ = choose_input("dataset: mnist", 0, str(tmp_path))
    assert "the images of mnist are not in" in error
    assert text == gr.skip()


def test_pooling_of_the_lecture() -> None:
    text = matrix_text(INPUTS["4 x 4 for pooling"]())
    steps = [draw(Layer(text, stride=2, operation="max pooling"), place)[0] for place in range(4)]
    assert [re.search(r"column \d: (.*?)</p>", step)[1] for step in steps] == [  # type: ignore[index]
        "max(1, 3, 5, 6) = 6", "max(2, 4, 1, 2) = 4", "max(3, 2, 4, 7) = 7", "max(8, 1, 3, 9) = 9",
    ]  # fmt: skip
    average, places, _ = draw(Layer(text, stride=2, operation="average pooling"), 0)
    assert places == 4
    assert "(1 + 3 + 5 + 6) / 4 = 3.75" in average
    assert "rows and columns: (4 - 2 + 2·0) / 2 + 1 = 2" in average
    assert "kernel" not in average
    assert choose_operation("max pooling")[-1] == 2


def test_an_error_replaces_the_drawing() -> None:
    error, drawing, _ = show(EDGE, "1 0 x", 1, 0, 1, "convolution", 2, 1)
    assert 'role="alert"' in error
    assert "Traceback" not in error
    assert drawing is None
    error, drawing, _ = show("1 2\n3 4", "blur", 1, 0, 1, "convolution", 2, 1)
    assert "does not fit into" in error
    assert drawing is None
    assert show(EDGE, "<script>alert(1)</script>", 1, 0, 1, "convolution", 2, 1)[0].count("<script") == 0
