"""The pictures and curves that TensorBoard's callbacks make, against counts by hand."""

import numpy as np
import pytest
import torch

from opsin.training.callbacks.batch_images import labels
from opsin.training.callbacks.confusion_matrix import confusion_picture
from opsin.training.callbacks.first_kernels import kernel_picture
from opsin.training.callbacks.pr_curves import THRESHOLDS, threshold_counts


def test_threshold_counts_equal_direct_counts() -> None:
    random = torch.Generator().manual_seed(1)
    probabilities = torch.rand(200, 3, generator=random).mul(3).softmax(1)
    probabilities[0] = torch.tensor([1.0, 0.0, 0.0])
    targets = torch.randint(0, 3, (200,), generator=random)
    counts = threshold_counts(probabilities, targets)
    assert counts.shape == (3, 4, THRESHOLDS)
    for label in range(3):
        belongs = targets == label
        for place in (0, 1, 40, 77, THRESHOLDS - 1):
            chosen = (probabilities[:, label] * (THRESHOLDS - 1)).floor() >= place
            hand = [chosen & belongs, chosen & ~belongs, ~chosen & ~belongs, ~chosen & belongs]
            assert counts[label, :, place].tolist() == [int(mask.sum()) for mask in hand]


@pytest.mark.parametrize("number", [2, 10, 100])
def test_the_confusion_matrix_shades_by_the_share_of_the_true_class(number: int) -> None:
    confusion = np.diag(np.full(number, 7))
    confusion[0, 0], confusion[0, 1] = 0, 9  # all of the first class are taken for the second
    picture = confusion_picture(confusion, [f"class {i}" for i in range(number)]).astype(int)
    assert max(picture.shape[:2]) < 800
    cell = min(64, 560 // number)
    nothing = np.argwhere((picture == (247, 251, 255)).all(2))  # the color of no images, as in the first cell
    blue = picture[nothing[:, 0].min() :, nothing[:, 1].min() :, 0]  # the more, the less red
    edge = [[blue[row * cell + 1, column * cell + 1] for column in range(2)] for row in range(2)]
    assert edge[0][1] < 20
    assert edge[0][0] > 240
    assert edge[1][1] < 20
    assert edge[1][0] > 240


def test_a_confusion_picture_with_empty_classes_and_long_names_stays_small() -> None:
    picture = confusion_picture(np.zeros((3, 3), np.int64), ["a" * 300, "", "<b>"])
    assert picture.shape[1] < 400


def test_kernels_are_drawn_in_order_with_a_common_scale() -> None:
    weights = np.zeros((10, 1, 3, 3), np.float32)
    weights[0, 0, 1, 1], weights[9, 0, 0, 2] = 2.0, -2.0
    picture = kernel_picture(weights, side=48)
    assert picture.shape == (2 * 50, 8 * 50, 1)
    assert picture[24, 24, 0] == 255
    assert picture[4, 4, 0] == 128  # zero is gray
    assert picture[50 + 4, 50 + 44, 0] == 0  # the tenth is the second of the second row
    assert kernel_picture(np.ones((4, 3, 5, 5), np.float32)).shape[2] == 3
    assert kernel_picture(np.ones((4, 7, 5, 5), np.float32)).shape[2] == 1


def test_mixed_labels_name_their_shares() -> None:
    assert labels(torch.tensor(1), ("cat", "dog")) == "dog"
    assert labels(torch.tensor([0.25, 0.75]), ("cat", "dog")) == "dog 0.75\ncat 0.25"
    assert labels(torch.tensor([0.0, 1.0]), ("cat", "dog")) == "dog 1.00"
