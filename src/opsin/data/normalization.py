"""Normalization and size of the input of a network: the order in which config, weights and dataset decide.

Each value comes from the first of these that states it:

1. The config: `datamodule.mean`, `std`, `image_size` and `interpolation`. For the trained network of a run, these are
   the values that the run recorded.
2. The pretrained weights. Their mean and std count only for images of 1 or 3 channels.
3. The dataset. It states no interpolation: bilinear.
4. For mean and std, a measurement on the training subset (`opsin.data.statistics`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from opsin.data.fit import Interpolation
from opsin.data.options import DataOptions
from opsin.data.source import Source
from opsin.data.statistics import ChannelStatistics
from opsin.errors import UserError


@dataclass(frozen=True)
class ExpectedInput:
    """The input that pretrained weights expect. A fact that the weights do not state is None; without weights, all are.

    Attributes:
        image_size: (height, width) of the images that they were trained on, in pixels.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel, of pixels in [0, 1].
        interpolation: Interpolation of the resize.
    """

    image_size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: Interpolation | None = None


@dataclass(frozen=True)
class MeanStd:
    """Mean and standard deviation of pixels in [0, 1], per channel or one for all; None: to be measured."""

    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @property
    def is_known(self) -> bool:
        """Whether both are known."""
        return self.mean is not None and self.std is not None

    def measured(self, measure: Callable[[], ChannelStatistics]) -> ChannelStatistics:
        """Return mean and std.

        Args:
            measure: Returns both, measured on the training subset; called only if one is missing.
        """
        if self.mean is not None and self.std is not None:
            return self.mean, self.std
        mean, std = measure()
        return self.mean or mean, self.std or std


def choose_mean_std(config: DataOptions, weights: ExpectedInput, dataset: Source, channels: int) -> MeanStd:
    """Return mean and std by the order of the module docstring, each chosen separately.

    Args:
        config: The options of the data.
        weights: The input that the pretrained weights expect.
        dataset: The dataset.
        channels: Channels of the network's input.

    Raises:
        UserError: The number of values does not fit the channels, or a value is outside [0, 1], or a standard deviation
            is not above 0.
    """
    if dataset.channels not in (1, 3):  # published weights state mean and std of gray and RGB images only
        weights = ExpectedInput()
    origins = {"datamodule.": config, "the weights: ": weights, f"the dataset '{dataset.name}': ": dataset}
    return MeanStd(_per_channel("mean", origins, channels), _per_channel("std", origins, channels))


def choose_image_size(config: DataOptions, weights: ExpectedInput, dataset: Source) -> tuple[int, int]:
    """Return height and width of the network's input, in pixels."""
    size = config.image_size or weights.image_size or dataset.size
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def choose_interpolation(config: DataOptions, weights: ExpectedInput) -> Interpolation:
    """Return the interpolation with which images are resized."""
    return config.interpolation or weights.interpolation or "bilinear"


def _per_channel(name: str, origins: Mapping[str, object], channels: int) -> tuple[float, ...] | None:
    """Return the mean or std of the first origin that states it; None if none does."""
    stated = ((place, found) for place, origin in origins.items() if (found := getattr(origin, name)) is not None)
    place, found = next(stated, ("", None))
    if found is None:
        return None
    values = (found,) if isinstance(found, float | int) else tuple(found)
    what = f"{place}{name}={found if isinstance(found, float | int) else list(values)}"
    if len(values) not in (1, channels):
        raise UserError(f"{what}: give one number, or one per channel ({channels}).")
    if name == "std" and min(values) <= 0:
        raise UserError(f"{what}: a standard deviation must be above 0.")
    if not all(0 <= value <= 1 for value in values):
        raise UserError(f"{what}: give the values for pixels in [0, 1]; divide values for pixels in 0..255 by 255.")
    return values
