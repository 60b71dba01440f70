import pytest

from opsin.commands.explore.pickers import STRIDE, next_image, validation_position


@pytest.mark.parametrize("images", [1, 2, 10, 96, STRIDE, 98, 2 * STRIDE, 5 * STRIDE, STRIDE * 98])
def test_every_validation_image_is_shown_before_one_repeats(images: int) -> None:
    numbers = [next_image(None)]
    while len(numbers) < images:
        numbers.append(next_image(numbers[-1]))
    assert sorted(validation_position(number, images) for number in numbers) == list(range(images))


def test_images_of_sorted_classes_alternate() -> None:
    assert [validation_position(number, 1000) for number in range(4)] == [0, 97, 194, 291]
