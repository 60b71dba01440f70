"""Images whose class shows only in one patch, and a network trained on them."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opsin.models.network import Network, class_logits, sequential

SIDE, PATCH = 24, 6


def planted_images(count: int, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return images of noise with one striped patch each, their classes, and masks of the patches.

    The pattern of the stripes is the class. Their mean is that of the noise, so that a blur removes them.

    Returns:
        Images `(N, 3, 24, 24)`, classes `(N,)` and masks `(N, 24, 24)`.
    """
    rows, columns = torch.meshgrid(torch.arange(PATCH), torch.arange(PATCH), indexing="ij")
    stripes = [1.5 - 3.0 * (way % 2) for way in (rows, columns, rows + columns)]
    draws = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, SIDE, SIDE, generator=draws) * 0.3
    targets = torch.arange(count) % classes
    where = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    for i, target in enumerate(targets.tolist()):
        top, left = torch.randint(0, SIDE - PATCH, (2,), generator=draws).tolist()
        where[i, top : top + PATCH, left : left + PATCH] = True
        images[i, :, top : top + PATCH, left : left + PATCH] += stripes[target]
    return images, targets, where


def untrained(num_logits: int, seed: int = 0) -> Network:
    """Return a network of two convolutions, BatchNorm, and a head of average pooling and a linear layer."""
    torch.manual_seed(seed)
    stages = {
        "low": sequential(conv=nn.Conv2d(3, 8, 3, padding=1), norm=nn.BatchNorm2d(8), relu=nn.ReLU()),
        "high": sequential(pool=nn.MaxPool2d(2), conv=nn.Conv2d(8, 12, 3, padding=1), relu=nn.ReLU()),
    }
    head = sequential(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(12, num_logits))
    return Network("planted", stages, head)


@cache
def trained(num_logits: int) -> Network:
    """Return the network trained on planted patches, in evaluation mode. All tests share it, so do not change it."""
    network = untrained(num_logits)
    images, targets, _ = planted_images(192, max(2, num_logits))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(80):
        optimizer.zero_grad()
        F.cross_entropy(class_logits(network(images)), targets).backward()
        optimizer.step()
    optimizer.zero_grad()
    return network.eval()
