"""The order in which config, weights, dataset and measurement decide about the input of a network."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from opsin.data import DataOptions
from opsin.data.datasets import ArrayImages, Source
from opsin.data.normalization import (
    ExpectedInput,
    MeanStd,
    choose_image_size,
    choose_interpolation,
    choose_mean_std,
)
from opsin.errors import UserError


def dataset(channels: int = 3) -> Source:
    images = ArrayImages(np.zeros((1, 4, 5, channels), np.uint8), np.zeros(1, np.int64), "fakes")
    return Source("fakes", ("a", "b"), channels, (4, 5), (0.1,) * 3, (0.2,) * 3, {"train": images})


DATASET = dataset()
WEIGHTS = ExpectedInput((32, 32), (0.3,) * 3, (0.4,) * 3, "bicubic")
NONE = ExpectedInput()


def test_the_config_comes_before_the_weights_and_these_before_the_dataset() -> None:
    config = DataOptions(mean=0.5, image_size=8, interpolation="nearest")
    # Each value is chosen for itself: the mean of the config, and the std of the weights or the dataset.
    assert choose_mean_std(config, WEIGHTS, DATASET, 3) == MeanStd((0.5,), (0.4,) * 3)
    assert choose_mean_std(config, NONE, DATASET, 3) == MeanStd((0.5,), (0.2,) * 3)
    assert choose_mean_std(DataOptions(), WEIGHTS, DATASET, 3) == MeanStd(WEIGHTS.mean, WEIGHTS.std)
    sizes = [choose_image_size(*chosen, DATASET) for chosen in ((config, WEIGHTS), (DataOptions(), WEIGHTS))]
    assert (*sizes, choose_image_size(DataOptions(), NONE, DATASET)) == ((8, 8), (32, 32), (4, 5))
    assert choose_image_size(DataOptions(image_size=(2, 3)), WEIGHTS, DATASET) == (2, 3)
    found = [choose_interpolation(*chosen) for chosen in ((config, WEIGHTS), (DataOptions(), WEIGHTS))]
    assert (*found, choose_interpolation(DataOptions(), NONE)) == ("nearest", "bicubic", "bilinear")


@pytest.mark.parametrize(("channels", "expected"), [(1, 0.3), (3, 0.3), (4, 0.1)])
def test_mean_and_std_of_weights_count_for_gray_and_rgb_images_only(channels: int, expected: float) -> None:
    states = replace(dataset(channels), mean=(0.1,))
    assert choose_mean_std(DataOptions(std=1.0), replace(WEIGHTS, mean=(0.3,)), states, 4).mean == (expected,)


def test_only_values_that_no_source_states_are_measured() -> None:
    unknown = replace(DATASET, mean=None, std=None)
    half = choose_mean_std(DataOptions(std=0.7), NONE, unknown, 3)
    assert (half, half.is_known) == (MeanStd(None, (0.7,)), False)
    assert half.measured(lambda: ((0.8,) * 3, (0.9,) * 3)) == ((0.8,) * 3, (0.7,))
    whole = choose_mean_std(DataOptions(), WEIGHTS, unknown, 3)
    assert whole.is_known
    assert whole.measured(lambda: pytest.fail("measured without need")) == (WEIGHTS.mean, WEIGHTS.std)


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"datamodule.mean=\[0.1, 0.2\]: give one number, or one per channel \(3\)"):
        choose_mean_std(DataOptions(mean=(0.1, 0.2)), NONE, DATASET, 3)
    with pytest.raises(UserError, match=r"datamodule.std=0.0: a standard deviation must be above 0"):
        choose_mean_std(DataOptions(std=0.0), NONE, DATASET, 3)


@pytest.mark.parametrize("name", ["mean", "std"])
@pytest.mark.parametrize("values", [125.3, (0.5, 0.5, 1.1), (2.0,), (float("nan"),) * 3])
def test_values_of_another_scale_are_refused_wherever_they_come_from(name: str, values: Any) -> None:
    known: Any = {"mean": 0.5, "std": 0.5, name: values}
    per_channel = values if isinstance(values, tuple) else (values,)
    way_out = "for pixels in .0, 1.; divide values for pixels in 0..255 by 255"
    with pytest.raises(UserError, match=rf"datamodule\.{name}=.*{way_out}"):
        choose_mean_std(DataOptions(**known), WEIGHTS, DATASET, 3)
    with pytest.raises(UserError, match=rf"the weights: {name}=.*{way_out}"):
        choose_mean_std(DataOptions(), replace(WEIGHTS, **{name: per_channel}), DATASET, 3)
    with pytest.raises(UserError, match=rf"the dataset 'fakes': {name}=.*{way_out}"):
        choose_mean_std(DataOptions(), NONE, replace(DATASET, **{name: per_channel}), 3)


def test_the_limits_of_the_scale_are_accepted() -> None:
    chosen = choose_mean_std(DataOptions(mean=(0, 0.5, 1), std=1), NONE, DATASET, 3)
    assert chosen == MeanStd((0, 0.5, 1), (1,))
