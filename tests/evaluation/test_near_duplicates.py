"""Near-duplicates: copies are found, different images are not, and many images take seconds."""

import time

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from opsin.errors import UserError
from opsin.evaluation.near_duplicates import near_duplicates, thumbnails


def pictures(count: int, side: int = 48, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Return smooth random images."""
    noise = np.random.default_rng(seed).integers(256, size=(count, 6, 6, channels), dtype=np.uint8)
    large = [Image.fromarray(n.squeeze()).resize((side, side), Image.Resampling.BICUBIC) for n in noise]
    return np.stack([np.asarray(image) for image in large]).reshape(count, side, side, channels)


@pytest.mark.parametrize("channels", [1, 3])
def test_copies_are_found_and_nothing_else(channels: int) -> None:
    train, val, test = (pictures(count, channels=channels, seed=count) for count in (300, 60, 61))
    val[7] = train[42]
    test[3] = np.rint(train[5] * 0.6 + 40)  # less contrast, brighter
    noise = np.random.default_rng(9).normal(0, 6, test[4].shape)
    test[4] = np.clip(val[9] + noise, 0, 255)
    found = near_duplicates({"train": train, "val": val, "test": test}, 0.8)
    assert {pair[:4] for pair in found} == {("train", 42, "val", 7), ("train", 5, "test", 3), ("val", 9, "test", 4)}
    assert found[0][:4] == ("train", 42, "val", 7)
    assert found[0].similarity == pytest.approx(1, abs=1e-5)
    assert found[-1][:4] == ("val", 9, "test", 4)


def test_similarity_is_the_correlation_of_details() -> None:
    a, b = pictures(1, seed=1), pictures(1, seed=1)
    b[0, 10:30, 10:20] //= 2
    (pair,) = near_duplicates({"a": a, "b": b}, 0.1)
    fine = [image - gaussian_filter(image.astype(float), (3, 3, 0)) for image in (a[0], b[0])]
    assert pair.similarity == pytest.approx(np.corrcoef(fine[0].ravel(), fine[1].ravel())[0, 1], abs=1e-4)


def test_the_same_background_is_not_a_copy() -> None:
    sky = np.tile(np.linspace(40, 220, 48)[:, None, None], (1, 48, 3))
    a, b = (sky + 0.15 * (pictures(1, seed=seed)[0].astype(float) - 128) for seed in (0, 1))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9
    splits = {name: image.round().astype(np.uint8)[None] for name, image in (("a", a), ("b", b))}
    assert near_duplicates(splits, 0.8) == []
    assert len(near_duplicates({"a": splits["a"], "b": splits["a"]}, 0.8)) == 1


def test_the_same_image_in_other_colors_is_not_a_copy() -> None:
    a = pictures(1)
    assert near_duplicates({"a": a, "b": a[..., ::-1]}, 0.8) == []


def test_images_of_one_color_and_empty_splits_are_skipped() -> None:
    plain = np.full((2, 20, 20, 3), 200, np.uint8)
    assert near_duplicates({"a": plain, "b": plain, "c": plain[:0]}, 0.8) == []


def test_sizes_and_shapes_may_differ() -> None:
    large = pictures(5, side=96)
    (pair,) = near_duplicates({"a": large, "b": thumbnails(large[3:4], 32)}, 0.8)
    assert pair[:4] == ("a", 3, "b", 0)


def test_thumbnails_are_means() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    np.testing.assert_array_equal(thumbnails(image, 2)[0], [[14, 18], [46, 50]])  # 13.5 and so on, rounded
    assert thumbnails(image, 8) is image


def test_invalid_arguments_are_errors() -> None:
    with pytest.raises(UserError, match="must be images"):
        near_duplicates({"a": np.zeros((3, 4, 4)), "b": np.zeros((3, 4, 4))}, 0.8)
    with pytest.raises(UserError, match="threshold"):
        near_duplicates({}, 95)


@pytest.mark.slow
def test_a_hundred_million_pairs_take_seconds() -> None:
    generator = np.random.default_rng(0)
    train = generator.integers(256, size=(25_000, 32, 32, 3), dtype=np.uint8)
    test = generator.integers(256, size=(5_000, 32, 32, 3), dtype=np.uint8)
    test[4_000] = train[24_000]
    start = time.perf_counter()
    (pair,) = near_duplicates({"train": train, "test": test}, 0.8)
    assert pair[:4] == ("train", 24_000, "test", 4_000)
    assert time.perf_counter() - start < 60
