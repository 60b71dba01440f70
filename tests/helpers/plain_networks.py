"""Networks written in plain PyTorch, without code of Opsin."""

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def layers(num_classes: int = 10, in_channels: int = 1) -> nn.Sequential:
    """A flat `nn.Sequential`, with in-place ReLU and a lazy layer."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.LazyLinear(num_classes),
    )


def seven_outputs() -> nn.Sequential:
    """A network that ignores the number of classes."""
    return layers(7)


class Functional(nn.Module):
    """Functions between the layers, dropout by a function, a channel count of its own."""

    def __init__(self, num_classes: int = 10, hidden: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.fc1 = nn.Linear(16 * 4 * 4, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.view(x.size(0), -1)))
        return self.fc2(F.dropout(x, 0.5, self.training))


class Wrapped(nn.Module):
    """A module around the whole network, and a classifier that begins with pooling."""

    def __init__(self) -> None:
        super().__init__()
        classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        self.net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), classifier)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Skip(nn.Module):
    """A connection that skips a layer, a parameter of its own, and one rectifier that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.fc = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 10)
        self.relu, self.scale = nn.ReLU(), nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.a(x))
        x = self.relu(x + self.c(self.b(x))) * self.scale
        return self.fc(x.mean((2, 3)))


class Shared(nn.Module):
    """One layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(F.relu(self.block(self.stem(x)))).mean((2, 3)))


class DependsOnValues(nn.Module):
    """A forward function that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        if x.abs().max() > 1000:
            x = x / 1000
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))


class DependsOnMode(DependsOnValues):
    """Noise in training only, as Python and not as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = x + 100
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))


class Stem(nn.Module):
    """A flattened image and one linear layer: the smallest network."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(x, 1))


class FullyConvolutional(nn.Module):
    """No linear layer: the last convolution makes the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(x))).mean((2, 3))


class SkipsAtRandom(DependsOnValues):
    """A forward function that skips a layer in training at random, with any generator."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        if not self.training or self.draw() < 0.9:
            x = F.relu(self.block(x))
        return self.fc(x.mean((2, 3)))

    def draw(self) -> float:
        """Return a random number."""
        return float(torch.rand(()))


class SkipsByPython(SkipsAtRandom):
    """The generator of the standard library."""

    def draw(self) -> float:
        return random.random()


class SkipsByNumpy(SkipsAtRandom):
    """The global generator of NumPy."""

    def draw(self) -> float:
        return np.random.random()  # noqa: NPY002


class SkipsByOwnGenerator(SkipsAtRandom):
    """A generator of its own."""

    def __init__(self, generator: random.Random | np.random.Generator | torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def draw(self) -> float:
        if isinstance(self.generator, torch.Generator):
            return float(torch.rand((), generator=self.generator))
        return self.generator.random()


class Fixed(nn.Module):
    """A backbone that its constructor keeps from training, and a new classifier."""

    def __init__(self, num_classes: int = 10, mode: str = "") -> None:
        super().__init__()
        layers = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)
        self.backbone = nn.Sequential(*layers).requires_grad_(False)
        self.conv, self.fc = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, num_classes)
        self.mode = mode
        if mode == "constructor":
            self.backbone.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(self.backbone(x))).mean((2, 3)))

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        """Set the mode, and return nothing, as code of users often does."""
        super().train(mode)
        if self.mode == "train":
            self.backbone.eval()


def all_fixed(num_classes: int = 10) -> nn.Module:
    """A network without a parameter that trains."""
    return Functional(num_classes).requires_grad_(False)
