"""Augmentation of whole batches on their device, with random parameters per sample.

Drawing and applying are two steps. `Augmentation.draw` turns a key into numbers on the CPU, so that they are the same
for every device and do not change any global random state. `Augmentation.transform` applies them to pixels:
all geometry in one resampling, all color in one matrix per sample, Mixup and CutMix in one blend.
"""

import inspect
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from opsin.data.augmentation.color import adjust_color
from opsin.data.augmentation.geometry import Array, Fill, ResampleMode, box_mask, draw_crops, draw_erased, resample
from opsin.data.augmentation.mixup_cutmix import draw_partners, mix_images, mix_targets
from opsin.data.augmentation.parameters import AugmentationParams
from opsin.errors import UserError

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
AreaFraction = Annotated[float, Field(gt=0, le=1)]

AFFINE = ("rotation", "shear", "scale", "translation")
GEOMETRY = (*AFFINE, "crop_padding", "resized_crop_scale", "horizontal_flip", "vertical_flip")
SHOWS_OUTSIDE = (*AFFINE, "crop_padding")  # operations that can show pixels outside the image
RESAMPLING = ("rotation", "shear", "scale", "resized_crop_scale")  # operations that interpolate between pixels
COLOR = ("brightness", "contrast", "saturation", "grayscale")
MIXING = ("mixup", "cutmix")
OPERATIONS = (*GEOMETRY, *COLOR, "erasing", *MIXING)

NEEDS = {"resized_crop_ratio": ("resized_crop_scale",), "fill": SHOWS_OUTSIDE, "interpolation": RESAMPLING}
"""The operations of which an option needs one, by the name of the option."""


class Augmentation(nn.Module):
    """Random changes of training images: every operation is off unless set, and drawn for every sample.

    They follow torchvision's transforms of the same name, in this order: shear, scale, rotation and translation
    (about the center, composed as in `RandomAffine`), padded crop, resized crop, flips; brightness, contrast,
    saturation, grayscale; erasing; Mixup or CutMix. The geometry is one resampling, so nothing is blurred
    twice; flips, padded crops and translations alone move whole pixels and change no value. In `eval()` mode
    nothing changes, as with dropout.

    Args:
        rotation: Largest rotation either way, in degrees.
        translation: Largest shift along either axis, as a fraction of the size; drawn in whole pixels.
        scale: Lowest and highest magnification.
        shear: Largest shear along x either way, in degrees.
        horizontal_flip: Probability of mirroring left and right.
        vertical_flip: Probability of mirroring top and bottom.
        crop_padding: Pixels added on every side before a crop of the original size at a random position.
        resized_crop_scale: Lowest and highest area of a random crop that is stretched over the whole image,
            as a fraction of the image. torchvision accepts a fraction above 1, but draws such a crop again because it
            does not fit, so 0.8 to 1.2 has the effect of 0.8 to 1. Opsin refuses a fraction above 1. To shrink images,
            set `scale`.
        resized_crop_ratio: Lowest and highest width / height of that crop.
        brightness: Factor in [max(0, 1 - brightness), 1 + brightness].
        contrast: Factor in the same kind of range, around the mean gray value of the image.
        saturation: Factor in the same kind of range; no effect on images of one channel.
        grayscale: Probability of removing all color.
        erasing: Probability of making a random box black (Zhong et al., 2020,
            https://arxiv.org/abs/1708.04896).
        mixup: Alpha of Mixup (Zhang et al., 2018, https://arxiv.org/abs/1710.09412); 0 is off.
        cutmix: Alpha of CutMix (Yun et al., 2019, https://arxiv.org/abs/1905.04899); 0 is off. With both,
            each sample gets one of the two, each with probability 0.5.
        fill: Pixels outside the image: black, the nearest pixel, or the image mirrored at its edge.
        interpolation: Interpolation of the resampling.
        num_classes: Width of the soft targets of Mixup and CutMix; set when the run is built.

    Raises:
        UserError: A range is reversed, a crop is larger than its image, or classes are mixed without
            `num_classes`.
    """

    def __init__(
        self,
        rotation: Annotated[float, Field(ge=0, le=180)] = 0.0,
        translation: Probability = 0.0,
        scale: tuple[Positive, Positive] | None = None,
        shear: Annotated[float, Field(ge=0, lt=90)] = 0.0,
        horizontal_flip: Probability = 0.0,
        vertical_flip: Probability = 0.0,
        crop_padding: Annotated[int, Field(ge=0)] = 0,
        resized_crop_scale: tuple[AreaFraction, AreaFraction] | None = None,
        resized_crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3),
        brightness: NonNegative = 0.0,
        contrast: NonNegative = 0.0,
        saturation: NonNegative = 0.0,
        grayscale: Probability = 0.0,
        erasing: Probability = 0.0,
        mixup: NonNegative = 0.0,
        cutmix: NonNegative = 0.0,
        fill: Fill = "zeros",
        interpolation: ResampleMode = "bilinear",
        *,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.rotation = rotation
        self.translation = translation
        self.scale = _ordered("scale", scale) if scale is not None else None
        self.shear = shear
        self.horizontal_flip = horizontal_flip
        self.vertical_flip = vertical_flip
        self.crop_padding = crop_padding
        self.resized_crop_scale = (
            _ordered("resized_crop_scale", resized_crop_scale, highest=1) if resized_crop_scale is not None else None
        )
        self.resized_crop_ratio = _ordered("resized_crop_ratio", resized_crop_ratio)
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.grayscale = grayscale
        self.erasing = erasing
        self.mixup = mixup
        self.cutmix = cutmix
        self.fill: Fill = fill
        self.interpolation: ResampleMode = interpolation
        self.num_classes = num_classes
        if (mixup or cutmix) and num_classes is None:
            raise UserError("augmentation.mixup and augmentation.cutmix need num_classes=N, for soft targets.")

    def describe(self) -> str:
        """Return one line: the active operations with their settings; `none` if nothing is changed."""
        shown = [name for name in OPERATIONS if getattr(self, name)]
        if self._any(SHOWS_OUTSIDE) and self.fill != "zeros":
            shown.append("fill")
        return ", ".join(f"{name} {_compact(getattr(self, name))}" for name in shown) or ("" if self.active else "none")

    def settings(self) -> dict[str, Any]:
        """Return the arguments by name, which determine the views of an `Augmentation`, but not those of a subclass."""
        return {name: getattr(self, name) for name in inspect.signature(Augmentation).parameters}

    def extra_repr(self) -> str:
        """Return the text between the parentheses of `repr`."""
        return self.describe()

    @property
    def active(self) -> bool:
        """Whether images may be changed: an operation is active, or the methods of a subclass have their own."""
        return type(self) is not Augmentation or self._any(OPERATIONS)

    @property
    def mixes(self) -> bool:
        """Whether images and their targets are mixed."""
        return self._any(MIXING)

    def unused(self) -> dict[str, tuple[str, ...]]:
        """Return the options that have no effect, each with the operations of which it needs one."""
        return {option: operations for option, operations in NEEDS.items() if not self._any(operations)}

    def check_channels(self, channels: int) -> None:
        """Check that all operations are defined for images of this number of channels.

        Raises:
            UserError: An operation needs colors.
        """
        for name in ("saturation", "grayscale"):
            if channels not in (1, 3) and getattr(self, name):
                raise UserError(
                    f"augmentation.{name}={getattr(self, name)} needs RGB images, not images of {channels} channels: "
                    f"set augmentation.{name}=0"
                )

    @torch.no_grad()
    def forward(self, images: Tensor, targets: Tensor, key: int) -> tuple[Tensor, Tensor]:
        """Augment a batch as a pure function of `key`.

        Args:
            images: `(B, C, H, W)`, float32 in [0, 1], on any device; never modified.
            targets: int64 `(B,)`, on the same device.
            key: Seed of this batch, not negative; processes that train together need different keys.

        Returns:
            Images in [0, 1], of the same shape, device and memory format; and the targets, which Mixup and
            CutMix replace by float32 `(B, num_classes)` with rows that sum to 1. If nothing is active, the
            given tensors themselves.
        """
        if not self.training or not self.active:
            return images, targets
        height, width = images.shape[-2:]
        return self.transform(images, targets, self.draw(len(images), (height, width), key))

    def draw(self, count: int, size: tuple[int, int], key: int) -> AugmentationParams:
        """Draw the parameters of `count` images of `size` (height, width)."""
        rng = np.random.default_rng(key)

        def either_way(limit: float) -> Array:
            return rng.uniform(-limit, limit, count)

        def factor(strength: float) -> Array:
            return rng.uniform(max(0.0, 1 - strength), 1 + strength, count)

        flipped = rng.random((count, 2)) < (self.horizontal_flip, self.vertical_flip)
        shift = rng.integers(-self.crop_padding, self.crop_padding, (count, 2), endpoint=True)
        farthest = self.translation * np.array([size[1], size[0]])
        angle, shear = either_way(self.rotation), either_way(self.shear)
        scale = rng.uniform(*(self.scale or (1.0, 1.0)), count)
        translation = np.rint(rng.uniform(-farthest, farthest, (count, 2)))
        brightness, contrast = factor(self.brightness), factor(self.contrast)
        saturation = np.where(rng.random(count) < self.grayscale, 0.0, factor(self.saturation))
        crop = draw_crops(rng, count, size, self.resized_crop_scale, self.resized_crop_ratio)
        crop[:, :2] += shift
        erased = draw_erased(rng, count, size, self.erasing)
        partner, blend, patch = draw_partners(rng, count, size, mixup=self.mixup, cutmix=self.cutmix)
        return AugmentationParams(
            angle=angle,
            shear=shear,
            scale=scale,
            translation=translation,
            crop=crop,
            flip=np.where(flipped, -1.0, 1.0),
            brightness=brightness,
            contrast=contrast,
            saturation=saturation,
            erased=erased,
            partner=partner,
            blend=blend,
            patch=patch,
        )

    def transform(self, images: Tensor, targets: Tensor, params: AugmentationParams) -> tuple[Tensor, Tensor]:
        """Apply drawn parameters to images `(B, C, H, W)` and targets `(B,)`; see `forward`."""
        _, channels, height, width = images.shape
        drawn = params.to(images.device, channels, (height, width))
        channels_last = images.is_contiguous(memory_format=torch.channels_last)

        # Autocast would multiply colors in bfloat16, whose steps are coarser than those of stored pixels.
        with torch.autocast(images.device.type, enabled=False):
            if self._any(GEOMETRY):
                images = self._resample(images, drawn.sampling)
            # On a CPU, the next steps are several times slower in channels-last format.
            images = images.contiguous()
            if self._any(COLOR):
                images = adjust_color(images, drawn.color, drawn.mean_weights)
            if self.erasing:
                images = images * ~box_mask(drawn.erased, (height, width))
            if self._any(MIXING):
                assert self.num_classes is not None  # checked by the constructor
                images = mix_images(images, drawn.partner, drawn.blend, drawn.patch if self.cutmix else None)
                targets = mix_targets(targets, drawn.partner, drawn.share, self.num_classes)
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, targets

    def _any(self, operations: tuple[str, ...]) -> bool:
        return any(getattr(self, name) for name in operations)

    def _resample(self, images: Tensor, matrices: Tensor) -> Tensor:
        # Shifts by whole pixels need no interpolation: faster, and exact.
        interpolation = self.interpolation if self._any(RESAMPLING) else "nearest"
        # Stretching a crop at the edge samples up to half a pixel outside, which must not become a dark rim.
        fill = self.fill if self._any(SHOWS_OUTSIDE) else "border"
        return resample(images, matrices, interpolation, fill)


def _ordered(name: str, limits: tuple[float, float], highest: float | None = None) -> tuple[float, float]:
    low, high = limits
    if low > high:
        raise UserError(f"augmentation.{name}: [{low}, {high}] is reversed; write [{high}, {low}].")
    if highest is not None and high > highest:
        raise UserError(
            f"augmentation.{name}: a crop cannot be larger than its image, but {high} > {highest}; "
            f"write [{min(low, highest)}, {highest}], or shrink images with augmentation.scale."
        )
    return low, high


def _compact(value: float | str | tuple[float, float]) -> str:
    return f"{value[0]:g}-{value[1]:g}" if isinstance(value, tuple) else str(value)
