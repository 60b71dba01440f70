"""The suggestion of the nearest known name."""

import pytest

from opsin.errors import did_you_mean


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("max_epoch", ["max_steps", "max_epochs"], ": did you mean max_epochs?"),
        ("Dog", ["cat", "dog"], ": did you mean dog?"),
        ("PETIMAGES", ["PetImages"], ": did you mean PetImages?"),
        ("zebra", ["cat", "dog"], ""),
        ("word", [], ""),
    ],
)
def test_the_nearest_name_is_suggested(word: str, known: list[str], hint: str) -> None:
    assert did_you_mean(word, known) == hint


def test_several_nearest_names_are_suggested_with_their_prefix() -> None:
    assert did_you_mean("resnet27", ["mlp", "resnet26", "resnet17"], "model.", 2) in (
        ": did you mean model.resnet26 or model.resnet17?",
        ": did you mean model.resnet17 or model.resnet26?",
    )
