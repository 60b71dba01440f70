"""Every pretrained network, with counts from the lectures or the libraries, never by the code under test."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import timm
import torchvision
from network_cases import blocks
from torch import nn

import opsin.models as models
from opsin.models import Network


@dataclass(frozen=True)
class Backbone:
    """A pretrained network and its original."""

    name: str  # in its library
    parameters: int | None  # of the stages; None for the number of timm's without its head
    stages: tuple[str, ...]
    features: int  # inputs of the first dense layer of a linear head
    side: int = 64
    trial: int = 64  # a small side for fast tests
    neck: int = 0  # parameters between pool and logits, which are part of the head
    options: dict[str, Any] = field(default_factory=dict)
    function: Callable[..., Network] | None = None
    slow: bool = False

    def build(self, *, num_logits: int = 2, side: int | None = None, **options: Any) -> Network:
        function = self.function or getattr(models, self.name)
        size = (side or self.trial,) * 2
        network = function(num_logits=num_logits, image_size=size, **{**self.options, **options})
        assert isinstance(network, Network)
        return network

    @property
    def in_timm(self) -> bool:
        return "name" in self.options

    @property
    def has_dense_layers(self) -> bool:
        """Whether the network has dense layers in its library that `head=linear` does not keep."""
        return self.name in ("alexnet", "vgg16", "vgg19")

    def original(self, num_logits: int) -> nn.Module:
        """Return the network of the library, as the library initializes it."""
        if self.in_timm:
            size = {"img_size": self.trial} if timm.get_pretrained_cfg(self.name).fixed_input_size else {}
            return timm.create_model(self.name, num_classes=num_logits, **size)
        if self.name.startswith("efficientnet_lite"):
            return timm.create_model(f"tf_{self.name}", num_classes=num_logits)
        if self.name == "alexnet":
            return nn.Sequential(OrderedDict(features=torchvision.models.alexnet().features))
        if self.name.startswith("vgg"):  # without the 119 million parameters of its dense layers
            layers = torchvision.models.vgg.cfgs[{"vgg16": "D", "vgg19": "E"}[self.name]]
            return nn.Sequential(OrderedDict(features=torchvision.models.vgg.make_layers(layers)))
        more: dict[str, Any] = {"init_weights": True} if self.name in ("inception_v3", "googlenet") else {}
        if self.name == "googlenet":
            more["aux_logits"] = False
        return torchvision.models.get_model(self.name, weights=None, num_classes=num_logits, **more)


RESNET = ("stem", *blocks(4, "layer"))
MOBILE = ("stem", *blocks(7, "stage"), "head_conv")
MIXED = tuple(f"mixed_{name}" for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"))
INCEPTIONS = tuple(f"inception{name}" for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"))


def of_timm(name: str, stages: tuple[str, ...], features: int, **more: Any) -> Backbone:
    return Backbone(name, None, stages, features, options={"name": name}, function=models.timm, **more)


BACKBONES = [
    Backbone("resnet18", 11_176_512, RESNET, 512),
    Backbone("resnet34", 21_284_672, RESNET, 512, slow=True),
    Backbone("resnet50", 23_508_032, RESNET, 2048),
    Backbone("resnet101", 42_500_160, RESNET, 2048, slow=True),
    Backbone("vgg16", 14_714_688, blocks(5), 512),
    Backbone("vgg19", 20_024_384, blocks(5), 512, slow=True),
    Backbone(
        "inception_v3", 21_785_568, ("stem", *MIXED), 2048, side=299, trial=75, options={"auxiliary": False}, slow=True
    ),
    Backbone("alexnet", 2_469_696, blocks(5, "conv"), 256, slow=True),
    Backbone("densenet121", 6_953_856, ("stem", *blocks(4, "denseblock")), 1024, slow=True),
    Backbone("googlenet", 5_599_904, ("stem", *INCEPTIONS), 1024, slow=True),
    Backbone("mobilenet_v2", 2_223_872, MOBILE, 1280),
    Backbone("efficientnet_b0", 4_007_548, MOBILE, 1280),
    Backbone("efficientnet_lite1", 4_135_680, MOBILE, 1280, slow=True),
    Backbone("efficientnet_lite2", 4_811_072, MOBILE, 1280, slow=True),
    Backbone("convnext_tiny", 27_818_592, ("stem", *blocks(4, "stage")), 768, neck=1536, slow=True),
    of_timm("test_resnet", RESNET, 96),
    of_timm("test_convnext", ("stem", *blocks(4, "stage")), 64, neck=128),
    of_timm("test_efficientnet", ("stem", *blocks(5, "stage"), "head_conv"), 256),
    of_timm("test_vit", ("stem", *blocks(6), "norm"), 64),
    of_timm("test_vit4", ("stem", *blocks(9)), 96, neck=96),
    of_timm("regnety_002", ("stem", *blocks(4, "stage")), 368, slow=True),
    of_timm("mobilenetv3_small_050", ("stem", *blocks(6, "stage")), 1024, neck=288 * 1024 + 1024),
    of_timm("resnet26", RESNET, 2048, slow=True),
    of_timm("efficientnet_lite0", MOBILE, 1280, slow=True),
    of_timm("convnext_atto", ("stem", *blocks(4, "stage")), 320, neck=640, slow=True),
    of_timm("vit_tiny_patch16_224", ("stem", *blocks(12), "norm"), 192, slow=True),
    of_timm("swin_tiny_patch4_window7_224", ("stem", *blocks(4, "layer"), "norm"), 768, slow=True),
]

every_backbone = pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.slow else []) for case in BACKBONES]
)
