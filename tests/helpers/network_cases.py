"""Every network function, with the sizes that the lectures state."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import opsin.models as models
from opsin.models import Network


@dataclass(frozen=True)
class Case:
    """Sizes and counts from the lectures or computed by hand, never computed by the code under test."""

    function: Callable[..., Network]
    parameters: int
    num_logits: int
    in_channels: int
    side: int  # side of the square images of the lecture
    stages: tuple[str, ...]
    smallest: int  # side of the smallest images that the layers accept
    trial: int = 32  # a small side for fast tests

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def rgb_only(self) -> bool:
        """Whether gray images are repeated to three channels for this network."""
        return inspect.signature(self.function).parameters["in_channels"].default == 3


def blocks(count: int, kind: str = "block") -> tuple[str, ...]:
    return tuple(f"{kind}{number}" for number in range(1, count + 1))


CASES = [
    Case(models.mlp, 101_770, 10, 1, 28, ("hidden",), smallest=1),
    Case(models.cnn_flatten, 93_322, 10, 1, 28, blocks(3), smallest=18),
    Case(models.cnn_gap, 56_394, 10, 1, 28, blocks(3), smallest=18),
    Case(models.simple_cnn, 421_642, 10, 1, 28, blocks(2), smallest=4),
    Case(models.strided_cnn, 30_678, 10, 1, 28, blocks(5), smallest=1),
    Case(models.lenet5, 61_706, 10, 1, 32, blocks(2), smallest=16),
    Case(models.lenet_relu, 61_706, 10, 1, 32, blocks(2), smallest=16),
    Case(models.cnn_plain, 60_362, 10, 3, 32, blocks(2), smallest=4),
    Case(models.cnn_batchnorm, 60_554, 10, 3, 32, blocks(2), smallest=4),
    Case(models.cnn_deep, 815_530, 10, 3, 32, blocks(3), smallest=8),
    Case(models.cnn_strided_stem, 64_282, 10, 1, 28, ("stem", *blocks(2)), smallest=19),
    Case(models.cnn_whitened, 1_972_778, 10, 3, 32, ("stem", *blocks(3)), smallest=9),
    Case(models.mini_resnet, 2_787_594, 10, 3, 224, ("stem", *blocks(3, "layer")), smallest=1),
    Case(models.cats_dogs_cnn, 307_393, 1, 3, 150, blocks(4), smallest=46, trial=48),
    Case(models.strided_cats_dogs, 893_886, 2, 3, 128, blocks(7), smallest=1),
    Case(models.resnet18, 11_177_025, 1, 3, 224, ("stem", *blocks(4, "layer")), smallest=1),
    Case(
        models.efficientnet_lite0,
        3_372_289,  # 4,652,008 of timm, less 1,281,000 of its head for 1,000 classes, plus 1,281
        1,
        3,
        224,
        ("stem", *blocks(7, "stage"), "head_conv"),
        smallest=1,
    ),
]


def build(
    case: Case,
    *,
    num_logits: int | None = None,
    in_channels: int | None = None,
    image_size: tuple[int, int] | None = None,
    **options: object,
) -> Network:
    """Build a network with the sizes of the lecture or with the given ones."""
    facts: dict[str, object] = {
        "num_logits": num_logits or case.num_logits,
        "image_size": image_size or (case.side, case.side),
    }
    if not case.rgb_only:
        facts["in_channels"] = in_channels or case.in_channels
    return case.function(**facts, **options)
