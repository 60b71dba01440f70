import random
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as TF
import yaml
from pydantic import TypeAdapter, ValidationError

from opsin.data.augmentation.augmentation import OPERATIONS, Augmentation
from opsin.errors import UserError

KEY = 0x5EED_5EED_5EED_5EED  # 63 bits
CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "augmentation").glob("*.yaml"))
EVERYTHING = dict(  # noqa: C408
    rotation=40.0, translation=0.1, scale=(0.8, 1.2), shear=20.0, horizontal_flip=0.5, vertical_flip=0.5,
    crop_padding=2, resized_crop_scale=(0.5, 1.0), brightness=0.2, contrast=0.2, saturation=0.2, grayscale=0.2,
    erasing=0.5, mixup=0.4, cutmix=1.0, num_classes=10,
)  # fmt: skip


def photos(count=8, channels=3, size=(24, 20), smooth=True):
    """Return color gradients with structure; not square, so that swapped axes are noticed."""
    generator = torch.Generator().manual_seed(0)
    if not smooth:
        return torch.rand(count, channels, *size, generator=generator)
    coarse = torch.rand(count, channels, 5, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False).clamp(0, 1)


def labels(count=8):
    return torch.arange(count) % 10


def augmented(augmentation, images, **changes):
    """Return images after `transform` and the parameters used, of which `changes` replaces some."""
    draw = replace(augmentation.draw(len(images), tuple(images.shape[-2:]), KEY), **changes)
    return augmentation.transform(images, labels(len(images)), draw)[0], draw


def each(images, function):
    return torch.stack([function(image, i) for i, image in enumerate(images)])


def torchvision_affine(image, draw, i, interpolation=T.InterpolationMode.BILINEAR):
    shift = [int(value) for value in draw.translation[i]]
    angle, shear, scale = float(draw.angle[i]), float(draw.shear[i]), float(draw.scale[i])
    return TF.affine(image, angle, shift, scale, [shear, 0.0], interpolation=interpolation)


# Geometry


@pytest.mark.parametrize(
    "operations",
    [
        {"rotation": 40.0},
        {"shear": 20.0},
        {"scale": (0.7, 1.3)},
        {"translation": 0.3},
        {"rotation": 40.0, "shear": 20.0, "scale": (0.7, 1.3), "translation": 0.3},
    ],
    ids=lambda operations: "+".join(operations),
)
def test_affine_operations_equal_torchvision(operations):
    images = photos(smooth=False)
    result, draw = augmented(Augmentation(**operations), images)
    expected = each(images, lambda image, i: torchvision_affine(image, draw, i))
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)
    assert not torch.allclose(result, images, atol=0.1)


def test_nearest_interpolation_gives_only_values_of_the_image():
    images = photos(smooth=False)
    result, draw = augmented(Augmentation(rotation=40.0, interpolation="nearest"), images)
    expected = each(images, lambda image, i: torchvision_affine(image, draw, i, T.InterpolationMode.NEAREST))
    assert (result == expected).float().mean() > 0.99  # values at exactly half a pixel may round up or down
    assert torch.isin(result[result > 0], images).all()


def test_resized_crop_equals_torchvision_away_from_the_edge():
    images = photos()
    result, draw = augmented(Augmentation(resized_crop_scale=(0.3, 1.0)), images)
    expected = each(
        images, lambda image, i: TF.resized_crop(image, *draw.crop[i].astype(int).tolist(), list(image.shape[-2:]))
    )
    inner = (..., slice(2, -2), slice(2, -2))  # at the edge torchvision repeats pixels although the image has more
    torch.testing.assert_close(result[inner], expected[inner], atol=1e-4, rtol=0)
    assert (draw.crop[:, 2] < 24).any()


def test_a_crop_at_the_edge_of_the_image_has_no_dark_border():
    white = torch.ones(64, 3, 24, 20)
    assert augmented(Augmentation(resized_crop_scale=(0.08, 1.0)), white)[0].min() == pytest.approx(1)


@pytest.mark.parametrize(("flip", "dim"), [("horizontal_flip", 3), ("vertical_flip", 2)])
def test_flips_are_exact(flip, dim):
    images, targets = photos(smooth=False), labels()
    assert torch.equal(Augmentation(**{flip: 1.0})(images, targets, KEY)[0], images.flip(dim))
    result, draw = augmented(Augmentation(**{flip: 0.5}), images)
    flipped = draw.flip[:, 3 - dim] < 0
    assert 0 < flipped.sum() < len(images)
    for i, image in enumerate(images):
        assert torch.equal(result[i], image.flip(dim - 1) if flipped[i] else image)


@pytest.mark.parametrize(("fill", "mode"), [("zeros", "constant"), ("border", "edge"), ("reflection", "symmetric")])
@pytest.mark.parametrize("size", [(24, 20), (28, 28), (33, 47)])
def test_padded_crop_and_flip_are_exact(fill, mode, size):
    images = photos(32, size=size, smooth=False)
    result, draw = augmented(Augmentation(crop_padding=4, horizontal_flip=0.5, fill=fill), images)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode=mode)
    for i, (top, left) in enumerate(draw.crop[:, :2].astype(int) + 4):
        expected = padded[i, :, top : top + size[0], left : left + size[1]]
        np.testing.assert_array_equal(result[i], expected[:, :, ::-1] if draw.flip[i, 0] < 0 else expected)


def test_translation_alone_moves_whole_pixels():
    images = photos(smooth=False)
    result, draw = augmented(Augmentation(translation=0.2), images)
    for i, (right, down) in enumerate(draw.translation.astype(int)):
        assert torch.equal(result[i], TF.affine(images[i], 0.0, [right, down], 1.0, [0.0, 0.0]))


def test_all_geometry_equals_torchvisions_sequence():
    images = photos(size=(96, 80))
    augmentation = Augmentation(
        rotation=15.0, shear=10.0, scale=(1.0, 1.2), translation=0.05, crop_padding=3, resized_crop_scale=(0.6, 0.9),
        horizontal_flip=0.5, vertical_flip=0.5,
    )  # fmt: skip
    result, draw = augmented(augmentation, images)

    def sequence(image, i):
        image = torchvision_affine(image, draw, i)
        top, left, height, width = (int(value) for value in draw.crop[i])
        image = TF.pad(image, [8, 8])
        image = TF.resized_crop(image, top + 8, left + 8, height, width, [96, 80])
        return image.flip([dim for dim, sign in ((2, draw.flip[i, 0]), (1, draw.flip[i, 1])) if sign < 0])

    difference = (result - each(images, sequence)).abs()
    assert difference.mean() < 0.01
    assert difference.flatten(1).quantile(0.95, dim=1).max() < 0.03


@pytest.mark.parametrize(("fill", "stays_white"), [("zeros", False), ("border", True), ("reflection", True)])
def test_pixels_outside_the_image_are_filled(fill, stays_white):
    result, _ = augmented(Augmentation(rotation=40.0, scale=(0.5, 0.8), fill=fill), torch.ones(8, 3, 24, 20))
    assert (result.min() > 0.999) == stays_white


# Color


@pytest.mark.parametrize(
    ("operation", "function"),
    [
        ("brightness", TF.adjust_brightness),
        ("contrast", TF.adjust_contrast),
        ("saturation", TF.adjust_saturation),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_color_operation_equals_torchvision(operation, function, channels):
    images = photos(channels=channels, smooth=False)
    result, draw = augmented(Augmentation(**{operation: 0.9}), images)
    expected = each(images, lambda image, i: function(image, float(getattr(draw, operation)[i])))
    torch.testing.assert_close(result, expected, atol=2e-4, rtol=0)


def test_color_operations_in_any_order_equal_torchvisions_sequence():
    images = 0.35 + 0.3 * photos(smooth=False)  # so far from 0 and 1 that no step clamps
    result, draw = augmented(Augmentation(brightness=0.2, contrast=0.2, saturation=0.2), images)
    steps = [
        lambda image, i: TF.adjust_brightness(image, float(draw.brightness[i])),
        lambda image, i: TF.adjust_contrast(image, float(draw.contrast[i])),
        lambda image, i: TF.adjust_saturation(image, float(draw.saturation[i])),
    ]
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        expected = images
        for step in order:
            expected = each(expected, steps[step])
        torch.testing.assert_close(result, expected, atol=5e-4, rtol=0)


def test_grayscale_equals_torchvision_and_keeps_gray_images():
    images = photos(smooth=False)
    result, _ = augmented(Augmentation(grayscale=1.0), images)
    torch.testing.assert_close(result, TF.rgb_to_grayscale(images, num_output_channels=3), atol=2e-4, rtol=0)
    gray = photos(channels=1)
    torch.testing.assert_close(augmented(Augmentation(grayscale=1.0, saturation=0.5), gray)[0], gray)


def test_colors_are_clamped():
    result, _ = augmented(Augmentation(brightness=2.0, contrast=2.0), photos(64, smooth=False))
    assert result.min() == 0
    assert result.max() == 1


def test_autocast_does_not_round_colors():
    images, targets = photos(), labels()
    augmentation = Augmentation(**EVERYTHING)
    plain = augmentation(images, targets, KEY)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(augmentation(images, targets, KEY)[0], plain, atol=1e-6, rtol=0)


# Erasing and mixing


def test_erasing_equals_torchvision():
    images = 0.5 + photos(32) / 2
    result, draw = augmented(Augmentation(erasing=0.5), images)
    erase = [TF.erase(image, *box, torch.zeros(1)) for image, box in zip(images, draw.erased.astype(int), strict=True)]
    assert torch.equal(result, torch.stack(erase))
    assert 0 < (draw.erased[:, 2] > 0).sum() < 32


def test_mixup_blends_images_and_targets():
    images, targets = photos(), labels()
    augmentation = Augmentation(mixup=1.0, num_classes=10)
    draw = augmentation.draw(8, (24, 20), KEY)
    result, soft = augmentation.transform(images, targets, draw)
    for i, (j, weight) in enumerate(zip(draw.partner, draw.blend, strict=True)):
        torch.testing.assert_close(result[i], weight * images[i] + (1 - weight) * images[j], atol=1e-6, rtol=0)
        expected = torch.zeros(10)
        expected[targets[i]] += weight
        expected[targets[j]] += 1 - weight
        torch.testing.assert_close(soft[i], expected)
    assert len(set(draw.blend)) == 8


def test_cutmix_pastes_patches_and_weights_targets_by_area():
    images, targets = photos(), labels()
    augmentation = Augmentation(cutmix=1.0, num_classes=10)
    draw = augmentation.draw(8, (24, 20), KEY)
    result, soft = augmentation.transform(images, targets, draw)
    for i, (j, box) in enumerate(zip(draw.partner, draw.patch.astype(int), strict=True)):
        top, left, height, width = box
        expected = images[i].clone()
        rows, columns = slice(top, top + height), slice(left, left + width)
        expected[:, rows, columns] = images[j, :, rows, columns]
        assert torch.equal(result[i], expected)
        if i != j:
            assert soft[i, targets[i]] == pytest.approx(1 - height * width / 480)
            assert soft[i, targets[j]] == pytest.approx(height * width / 480)


def test_mixup_and_cutmix_each_get_half_of_the_samples():
    augmentation = Augmentation(mixup=0.2, cutmix=1.0, num_classes=10)
    draw = augmentation.draw(4000, (32, 32), KEY)
    patched, blended = draw.patch[:, 2] > 0, draw.blend < 1
    assert not (patched & blended).any()
    assert 0.45 < patched.mean() < 0.52  # a patch may round to zero pixels
    assert (augmentation.draw(4000, (32, 32), KEY + 1).partner != draw.partner).any()
    _, soft = augmentation(photos(64), labels(64), KEY)
    assert soft.dtype == torch.float32
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(64))
    assert soft.min() >= 0


# Distributions


def assert_uniform(values, low, high):
    assert values.min() >= low
    assert values.max() <= high
    deviation = (high - low) / 12**0.5
    assert values.mean() == pytest.approx((low + high) / 2, abs=4 * deviation / len(values) ** 0.5)
    assert values.std() == pytest.approx(deviation, rel=0.05)


def test_parameters_have_the_documented_distribution():
    n = 10_000
    augmentation = Augmentation(
        rotation=40.0, shear=20.0, scale=(0.8, 1.1), translation=0.25, crop_padding=4, horizontal_flip=0.3,
        vertical_flip=0.1, brightness=0.2, contrast=0.5, saturation=1.5, erasing=0.25,
    )  # fmt: skip
    draw = augmentation.draw(n, (32, 64), KEY)
    assert_uniform(draw.angle, -40, 40)
    assert_uniform(draw.shear, -20, 20)
    assert_uniform(draw.scale, 0.8, 1.1)
    assert_uniform(draw.brightness, 0.8, 1.2)
    assert_uniform(draw.contrast, 0.5, 1.5)
    assert_uniform(draw.saturation, 0, 2.5)
    for axis, farthest in ((0, 16), (1, 8)):  # x along the width of 64, y along the height of 32
        assert set(draw.translation[:, axis]) == set(range(-farthest, farthest + 1))
        assert abs(draw.translation[:, axis].mean()) < 0.5
        counts = np.bincount(draw.crop[:, axis].astype(int) + 4, minlength=9)
        assert counts.max() < 1.2 * n / 9
        assert counts.min() > 0.8 * n / 9
    assert np.mean(draw.flip < 0, axis=0) == pytest.approx([0.3, 0.1], abs=0.02)
    assert np.mean(draw.erased[:, 2] > 0) == pytest.approx(0.25, abs=0.02)


def test_resized_crops_are_distributed_like_torchvisions():
    n, scale, ratio = 3000, (0.2, 1.0), (0.5, 2.0)
    boxes = Augmentation(resized_crop_scale=scale, resized_crop_ratio=ratio).draw(n, (40, 60), KEY).crop
    image, theirs = torch.zeros(1, 40, 60), []
    for _ in range(n):
        drawn = T.RandomResizedCrop(8, scale, ratio).make_params([image])
        theirs.append([drawn[name] for name in ("top", "left", "height", "width")])
    theirs = np.array(theirs, dtype=float)
    standard_error = np.sqrt(2 / n) * theirs.std(axis=0)
    assert (np.abs(boxes.mean(axis=0) - theirs.mean(axis=0)) < 4.5 * standard_error).all()
    np.testing.assert_allclose(boxes.std(axis=0), theirs.std(axis=0), rtol=0.08)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= (40, 60)).all()
    movable = boxes[(boxes[:, 2] < 40) & (boxes[:, 3] < 60)]
    places = movable[:, :2] / ((40, 60) - movable[:, 2:])
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.1


def test_a_crop_that_never_fits_is_the_largest_center_crop_as_in_torchvision():
    crop = Augmentation(resized_crop_scale=(1.0, 1.0), resized_crop_ratio=(0.5, 1.0)).draw(4, (20, 60), KEY).crop
    drawn = T.RandomResizedCrop(8, (1.0, 1.0), (0.5, 1.0)).make_params([torch.zeros(1, 20, 60)])
    assert crop.tolist() == [[drawn["top"], drawn["left"], drawn["height"], drawn["width"]]] * 4


def test_erased_areas_are_distributed_like_torchvisions():
    boxes = Augmentation(erasing=1.0).draw(5000, (64, 64), KEY).erased
    areas = boxes[:, 2] * boxes[:, 3] / 64**2
    assert areas.mean() == pytest.approx((0.02 + 0.33) / 2, abs=0.005)
    assert areas.min() > 0.015
    assert areas.max() < 0.34


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixing_weights_are_beta_distributed(alpha):
    blend = Augmentation(mixup=alpha, num_classes=2).draw(20_000, (8, 8), KEY).blend
    assert blend.mean() == pytest.approx(0.5, abs=0.015)
    assert blend.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


@pytest.mark.slow
def test_patches_are_distributed_as_in_the_paper():
    n, height, width = 20_000, 64, 48
    patch = Augmentation(cutmix=1.0, num_classes=2).draw(n, (height, width), KEY).patch
    rng = np.random.default_rng(0)
    expected = np.empty(n)
    for i in range(n):  # Yun et al., 2019, Algorithm 1, the boxes clipped to the image
        cut = np.sqrt(1 - rng.beta(1.0, 1.0))
        y, x = rng.integers(height), rng.integers(width)
        rows = np.clip([y - height * cut / 2, y + height * cut / 2], 0, height)
        columns = np.clip([x - width * cut / 2, x + width * cut / 2], 0, width)
        expected[i] = np.ptp(rows) * np.ptp(columns)
    areas = patch[:, 2] * patch[:, 3]
    assert areas.mean() == pytest.approx(expected.mean(), rel=0.03)
    assert areas.std() == pytest.approx(expected.std(), rel=0.03)
    assert (patch[:, :2] >= 0).all()
    assert (patch[:, :2] + patch[:, 2:] <= (height, width)).all()


# Guarantees


def test_every_sample_has_its_own_parameters():
    one_image = photos(1).expand(32, -1, -1, -1).contiguous()
    for name in OPERATIONS:
        if name not in ("mixup", "cutmix", "grayscale", "horizontal_flip", "vertical_flip"):
            value = {"erasing": 1.0}.get(name, EVERYTHING[name])
            result, _ = augmented(Augmentation(**{name: value}), one_image)
            assert len(result.flatten(1).unique(dim=0)) >= 12, name  # translation has few whole pixels to choose from


def test_a_sample_does_not_depend_on_other_samples():
    images = photos()
    augmentation = Augmentation(**{**EVERYTHING, "mixup": 0.0, "cutmix": 0.0})
    others = torch.cat([images[:1], torch.zeros_like(images[1:])])
    assert torch.equal(augmented(augmentation, images)[0][0], augmented(augmentation, others)[0][0])


def test_results_depend_on_the_key_and_on_no_global_generator():
    images, targets = photos(), labels()
    augmentation = Augmentation(**EVERYTHING)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    first = augmentation(images, targets, KEY)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]
    torch.manual_seed(1)
    again = Augmentation(**EVERYTHING)(images, targets, KEY)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.allclose(augmentation(images, targets, KEY + 1)[0], first[0], atol=0.05)


def test_disabled_augmentation_and_eval_mode_return_the_input_itself():
    images, targets = photos(), labels()
    for augmentation in (Augmentation(), Augmentation(**EVERYTHING).eval()):
        result = augmentation(images, targets, KEY)
        assert result[0] is images
        assert result[1] is targets


def test_neutral_parameters_change_nothing():
    images = photos()
    draw = Augmentation().draw(8, (24, 20), KEY)
    everything = Augmentation(**EVERYTHING)
    torch.testing.assert_close(everything.transform(images, labels(), draw)[0], images, atol=1e-4, rtol=0)


class Darker(Augmentation):
    """Changes images in its own way; no operation of `Augmentation` is active."""

    def transform(self, images, targets, params):
        images, targets = super().transform(images, targets, params)
        return images / 2, targets


def test_a_subclass_is_active_without_operations_of_its_base():
    images, targets = photos(), labels()
    darker = Darker()
    assert torch.equal(darker(images, targets, KEY)[0], images / 2)
    assert darker.eval()(images, targets, KEY)[0] is images
    assert (str(darker), str(Darker(rotation=5.0)), str(Augmentation())) == (
        "Darker()",
        "Darker(rotation 5.0)",
        "Augmentation(none)",
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("names", [OPERATIONS, *[(name,) for name in OPERATIONS]], ids="+".join)
def test_memory_format_and_range_are_kept_and_the_input_is_unchanged(channels, memory_format, names):
    augmentation = Augmentation(**{name: EVERYTHING[name] for name in names}, num_classes=10)
    images = photos(channels=channels, smooth=False).contiguous(memory_format=memory_format)
    original = images.clone()
    result, _ = augmentation(images, labels(), KEY)
    assert torch.equal(images, original)
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=memory_format)
    assert result.isfinite().all()
    assert result.min() >= 0
    assert result.max() <= 1 + 1e-6


def test_a_batch_of_one_image_is_augmented():
    result, soft = Augmentation(**EVERYTHING)(photos(1), labels(1), KEY)
    assert result.shape == (1, 3, 24, 20)
    assert soft.tolist() == [[1.0] + [0.0] * 9]  # mixed with itself


def test_the_settings_contain_every_argument():
    changed = {"resized_crop_ratio": (0.5, 2.0), "interpolation": "nearest", "fill": "border", "rotation": 3.0}
    plain = Augmentation().settings()
    for name, value in changed.items():
        assert Augmentation(**{name: value}).settings() == plain | {name: value}


def test_the_description_lists_the_operations():
    assert Augmentation().describe() == "none"
    wide = Augmentation(rotation=40.0, resized_crop_scale=[0.8, 1.0], horizontal_flip=0.5, fill="border")
    assert wide.describe() == "rotation 40.0, resized_crop_scale 0.8-1, horizontal_flip 0.5, fill border"
    assert repr(wide) == f"Augmentation({wide.describe()})"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": (1.2, 0.8)}, r"augmentation\.scale.*is reversed.*\[0\.8, 1\.2\]"),
        ({"resized_crop_scale": (0.8, 1.2)}, r"augmentation\.resized_crop_scale.*larger.*\[0\.8, 1\]"),
        ({"resized_crop_ratio": (2.0, 1.0)}, r"augmentation\.resized_crop_ratio"),
        ({"mixup": 0.2}, "num_classes"),
    ],
)
def test_invalid_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        Augmentation(**settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rotation", -1), ("translation", 1.5), ("scale", [0, 1]), ("shear", 90), ("horizontal_flip", 1.1),
        ("crop_padding", 0.5), ("resized_crop_scale", [0.8, 1.2]), ("brightness", -0.1), ("mixup", -1),
        ("fill", "mirror"), ("interpolation", "bicubic"),
    ],
)  # fmt: skip
def test_annotations_refuse_impossible_values(name, value):
    hints = get_type_hints(Augmentation.__init__, include_extras=True)
    with pytest.raises(ValidationError):
        TypeAdapter(hints[name]).validate_python(value)


def test_there_are_ten_configs():
    assert len(CONFIGS) == 10


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("channels", [1, 3])
def test_configs_build_and_run(path, channels):
    text = path.read_text()
    settings = yaml.safe_load(text)
    assert text.startswith("# ")
    assert settings.pop("_target_") == "opsin.data.augmentation.Augmentation"
    hints = get_type_hints(Augmentation.__init__, include_extras=True)
    for name, value in settings.items():
        TypeAdapter(hints[name]).validate_python(value)
    images = photos(channels=channels)
    result, _ = Augmentation(**settings, num_classes=10)(images, labels(), KEY)
    assert (result is images) == (path.stem == "none")
