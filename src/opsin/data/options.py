"""The keys of the `datamodule` section that hold for every dataset, with their defaults."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from opsin.data.cache.image_store import OnBadImage
from opsin.data.fit import Interpolation, Resize
from opsin.data.loader.device_cache import OnDevice
from opsin.data.loader.samplers import Sampler
from opsin.data.splitting import SplitOptions
from opsin.data.types import Side
from opsin.errors import UserError

DATA_DIR = "data"
"""Default folder of downloads and decoded images; `configs/train.yaml` shows the same value."""

Fraction = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True)
class DataOptions:
    """Options for preparing, splitting and batching the images of any dataset.

    Attributes:
        data_dir: Folder of the data; decoded images are kept in its `.opsin/stores`.
        image_size: Side, or height and width, in pixels. None: that of the pretrained weights, else that of the
            dataset (`opsin.data.normalization`; the same holds for `mean`, `std` and `interpolation`).
        mean: Mean of pixels in [0, 1], per channel or for all. None: that of the pretrained weights, else that
            of the dataset, else measured on the training subset.
        std: Standard deviation of pixels in [0, 1], with the same rules as `mean`.
        batch_size: Training images per step, over all devices together. `auto`: measured by `opsin.training.tuning`.
        base_batch_size: The batch size for which the learning rate was chosen.
        eval_batch_size: Images per validation or test batch, over all devices together. None: the larger of
            `batch_size` and 256, the latter lowered for images above 90 pixels so that a batch has no more than two
            million pixels; rounded down to a multiple of the processes, at least one image each.
        sampler: `shuffle` visits every image once per epoch; `balanced` draws with replacement, each class equally
            likely; `fixed` repeats the order of the first epoch (to overfit a few batches).
        val_fraction: Fraction of the training images for validation, for datasets without a validation split.
        test_fraction: Fraction of the training images for the test, for datasets without a test split.
        train_fraction: Fraction of the training subset that is used; at least one image of each class.
        num_folds: Number of folds of the training subset and the dataset's validation split; one fold is the
            validation subset. None: no folds.
        fold: Number of the validation fold, from 0.
        split_seed: Seed of the splits. None: the seed of the run.
        resize: Stretch images to the size, cover it and crop the center, or fit them inside it on black.
        interpolation: Interpolation of the resize. None: that of the pretrained weights, else bilinear.
        on_bad_image: Leave out images that cannot be decoded, or refuse them. All are named in one report.
        on_device: Keep the pixels of a split on the accelerator and gather batches there. `auto` does so if they
            take at most a quarter of its free memory and are not a stream; the batches are the same.

    Raises:
        UserError: The fold does not exist, or there are no folds.
    """

    data_dir: str = DATA_DIR
    image_size: Side | tuple[Side, Side] | None = None
    mean: float | tuple[float, ...] | None = None
    std: float | tuple[float, ...] | None = None
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 64
    base_batch_size: Annotated[int, Field(ge=1)] = 64
    eval_batch_size: Annotated[int, Field(ge=1)] | None = None
    sampler: Sampler = "shuffle"
    val_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.2
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    num_folds: Annotated[int, Field(ge=2)] | None = None
    fold: Annotated[int, Field(ge=0)] = 0
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    resize: Resize = "squash"
    interpolation: Interpolation | None = None
    on_bad_image: OnBadImage = "skip"
    on_device: OnDevice = "auto"

    def __post_init__(self) -> None:
        if self.num_folds is None and self.fold:
            raise UserError(
                f"datamodule.fold={self.fold} has no effect without folds: set datamodule.num_folds="
                f"{self.fold + 1} or more, or leave out datamodule.fold"
            )
        if self.num_folds is not None and self.fold >= self.num_folds:
            raise UserError(
                f"datamodule.fold={self.fold} does not exist: datamodule.num_folds={self.num_folds} has the folds 0 to "
                f"{self.num_folds - 1}"
            )

    def splits(self, seed: int) -> SplitOptions:
        """Return the options for splitting the training images.

        Args:
            seed: Seed of the run, which is the seed of the splits if `split_seed` is None.
        """
        return SplitOptions(
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            train_fraction=self.train_fraction,
            num_folds=self.num_folds,
            fold=self.fold,
            seed=seed if self.split_seed is None else self.split_seed,
        )


def default_eval_batch_size(image_size: tuple[int, int]) -> int:
    """Return the default number of images per batch without training; 0 if one image has more than 2**21 pixels.

    It is 256, or fewer so that the batch has at most 2**21 pixels, which bounds the memory of activations.
    """
    height, width = image_size
    return min(256, 2**21 // (height * width))
