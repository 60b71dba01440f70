"""Convert any `nn.Module` that returns logits to a `Network` of named stages and a head.

The forward function is traced (`opsin.models.forward_trace`). Each module that it calls is one operation. If it only
calls one container, the function of the container is traced instead. There is no trace if the function depends on
values, on random numbers or on the mode (except for dropout), takes more than the images, or makes its own tensors. The
trace is cut before each operation with weights, wherever a single tensor is passed on. Pooling and flattening after the
last map of a part belong to the next part. Each part is a stage with the name of its first module with weights; the
last part is the head. All layers before the last linear layer are one stage, `body`, and that layer is the head, in
three cases: there is no trace, the trace cannot be cut after its first weights, or the parts compute another result.
"""

import copy
import itertools
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from opsin.errors import UserError, in_own_code
from opsin.models.forward_trace import Trace, inputs, trace
from opsin.models.network import Network, adopt_modules, is_sequence, members, sequential

SQUASHING = ("softmax", "sigmoid")
"""Names of the functions and layers that turn logits into probabilities."""

SIZES = re.compile(r"shape|size|dimension|channel|elements|height|width|\d-?D\b", re.IGNORECASE)
"""Words of an error about shapes or sizes."""

PRODUCT = re.compile(r"mat1 and mat2 shapes cannot be multiplied \((\d+)x(\d+) and ")
"""Error of a linear layer, with the rows and the columns of its input."""


class _Part(fx.GraphModule):
    """A module that runs some operations of a forward function.

    Its `repr` lists the operations and so identifies the part.
    """

    def extra_repr(self) -> str:
        """Return the operations as Python."""
        return str(self.code).strip()


def as_network(
    name: str, module: nn.Module, *, num_logits: int, in_channels: int, image_size: tuple[int, int]
) -> Network:
    """Return a module from images to logits as a `Network`; a `Network` is returned unchanged.

    The stages and the head follow the rules of the module docstring. Parameters that require no gradients never train.
    Layers that `train()` of the module leaves in evaluation mode stay in it, and so do those that are in it now, if all
    their parameters require no gradients.

    Args:
        name: The name of the module, for messages.
        module: The module; its layers are used, not copied. Lazy layers are initialized.
        num_logits: Number of outputs that the loss needs.
        in_channels: Channels of the images.
        image_size: (height, width) of the images, in pixels.

    Raises:
        UserError: The module does not run on these images, has another number of outputs, returns probabilities, or
            cannot be divided into stages and a head.
    """
    if not isinstance(module, nn.Module):
        raise UserError(f"{name} returns {type(module).__name__}, not a torch.nn.Module")
    resting = _resting(module)
    if isinstance(module, Network):
        module.keep_fixed(resting)
        return module
    images = _images(in_channels, image_size)
    if next(module.parameters(), None) is None:
        raise UserError(f"{name} has no parameters: there is nothing to train")
    module.train()  # it may be code of the user, which returns nothing
    resting |= {part for part in module.modules() if not part.training}
    module.eval()
    expected = _output(name, module, images)
    _check_outputs(name, expected, num_logits)
    state = module.state_dict(keep_vars=True)
    network = _divided(name, module, images, expected) or _body_and_head(name, module, images, expected)
    _check_channels_last(network, images)
    adopt_modules(network, state)
    network.keep_fixed(resting)
    return network.train()


def check_network(
    name: str, network: Network, *, num_logits: int, in_channels: int, image_size: tuple[int, int]
) -> None:
    """Check that a `Network` of the user runs on images and returns logits; its mode is restored.

    Args:
        name: The name of the network, for messages.
        network: The network.
        num_logits: As for `as_network`.
        in_channels: As for `as_network`.
        image_size: As for `as_network`.

    Raises:
        UserError: The network does not run on these images, has another number of outputs, or returns probabilities.
    """
    was_training = network.training
    output = _output(name, network.eval(), _images(in_channels, image_size))
    network.train(was_training)
    _check_outputs(name, output, num_logits)


def _images(in_channels: int, image_size: tuple[int, int]) -> Tensor:
    """Return two images of noise, the same in each call."""
    return torch.randn(2, in_channels, *image_size, generator=torch.Generator().manual_seed(0))


def _resting(module: nn.Module) -> set[nn.Module]:
    """Return the modules in evaluation mode inside those that have parameters, none of which requires gradients."""
    fixed = [part for part in module.modules() if {p.requires_grad for p in part.parameters()} == {False}]
    return {inner for part in fixed for inner in part.modules() if not inner.training}


def first_channels(module: nn.Module, image_size: tuple[int, int]) -> int | None:
    """Return the number of input channels of the first layer; None if it cannot be determined.

    Args:
        module: Any network.
        image_size: (height, width) of the images, in pixels.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            return layer.in_channels or None  # 0 for a lazy layer
        if isinstance(layer, nn.Linear):
            channels, rest = divmod(layer.in_features, image_size[0] * image_size[1])
            return channels if rest == 0 and channels else None
    return None


def _output(name: str, module: nn.Module, images: Tensor) -> Any:
    """Return the output of a module for images, in its mode."""
    shape, mode = "x".join(map(str, images.shape[1:])), " in training mode" if module.training else ""
    try:
        with torch.no_grad():
            return module(images)
    except Exception as error:  # the user's code runs here and may raise anything
        raise UserError(
            f"{name} does not run on images of shape {shape} (channels x height x width){mode}: {in_own_code(error)}"
            f"{_size_advice(error, len(images))}"
        ) from error


def _size_advice(error: Exception, count: int) -> str:
    """Return the ways out of an error about shapes or sizes, and nothing for other errors.

    Args:
        error: The error of a forward function.
        count: Number of images that it got.
    """
    if not isinstance(error, RuntimeError | ValueError | AssertionError) or not SIZES.search(in_own_code(error)):
        return ""
    return (
        f".{_linear_advice(str(error), count)} Its constructor may have the parameters in_channels and image_size, "
        "which Opsin sets; or set datamodule.image_size"
    )


def _linear_advice(message: str, count: int) -> str:
    """Return the number of features that a linear layer gets, if its error names them."""
    if not (found := PRODUCT.search(message)):
        return ""
    rows, features = map(int, found.groups())
    layer = f"write nn.Linear({features}, ...) or nn.LazyLinear(...)."
    if rows == count:
        return f" The layer gets {features} features: {layer}"
    return (
        f" The layer gets {features} features in {rows} rows for {count} images: call x.flatten(1) before, or {layer}"
    )


def _check_outputs(name: str, output: Any, num_logits: int) -> None:
    if not isinstance(output, Tensor):
        raise UserError(
            f"{name} returns {type(output).__name__}, not a tensor of logits (N, C): return the logits only"
        )
    if output.ndim != 2 or output.shape[0] != 2:
        raise UserError(f"{name} returns a tensor of shape {tuple(output.shape)} for two images, not logits (2, C)")
    if output.shape[1] != num_logits:
        two = " Two classes have one logit; for two, set loss.function=cross_entropy." if num_logits == 1 else ""
        raise UserError(
            f"{name} has {output.shape[1]} outputs, but the data need {num_logits}: give its constructor the parameter "
            f"num_logits or num_classes, which Opsin sets.{two}"
        )
    if num_logits > 1 and bool((output >= 0).all()) and torch.allclose(output.sum(1), torch.ones(2)):
        raise _probabilities(name, "softmax")


def _probabilities(name: str, operation: str) -> UserError:
    return UserError(
        f"{name} ends in {operation}, but the loss needs logits: remove {operation} from its forward function"
    )


def _divided(name: str, module: nn.Module, images: Tensor, expected: Tensor) -> Network | None:
    """Return the network divided as the module docstring says; None if its forward function cannot be divided so."""
    traced = trace(module, images)
    if traced is None:
        return None
    _refuse_probabilities(name, traced)
    parts = _named_parts(traced)
    if parts is None:
        return None
    network = Network(name, *parts)
    with torch.no_grad():
        same = torch.allclose(network.eval()(images), expected, rtol=1e-4, atol=1e-5)
    return network if same else None


def _named_parts(traced: Trace) -> tuple[dict[str, nn.Module], nn.Module] | None:
    """Return the stages by name and the head; None if the network cannot be cut, or only before its first weights.

    A part begins with an operation that has weights, or earlier: pooling and flattening after the last map of a part
    belong to the next part. So a part with a map returns it.
    """
    starts = [index for index, node in enumerate(traced.nodes) if traced.tensors(node)]
    cuts = [start for start in starts if start and _ends_part(traced, start - 1)]
    if len(starts) > 1 and cuts in ([], starts[:1]):
        return None
    earlier = [_after_last_map(traced, max((s for s in starts if s < cut), default=0), cut) for cut in cuts]
    head, neck = (cuts[-1], earlier[-1]) if cuts else (0, 0)
    inner = [early for cut, early in zip(cuts[:-1], earlier, strict=False) if cut != starts[0]]
    names: dict[str, None] = {}
    stages = {
        _name(traced, span, names): _module(traced, *span) for span in itertools.pairwise(sorted({0, *inner, neck}))
    }
    before = {"neck": _module(traced, neck, head)} if neck < head else {}
    return stages or {"input": nn.Identity()}, _head(before, _module(traced, head, len(traced.nodes)))


def _ends_part(traced: Trace, index: int) -> bool:
    """Return whether the trace can be cut after an operation: only its output, a tensor, is used later.

    Operations that share a parameter stay in one part.
    """
    node, later = traced.nodes[index], set(traced.nodes[index + 1 :])
    passed_on = {known for known in (*traced.nodes[: index + 1], *inputs(node.graph)) if later & set(known.users)}
    before = {tensor for known in traced.nodes[: index + 1] for tensor in traced.tensors(known)}
    after = {tensor for known in later for tensor in traced.tensors(known)}
    return passed_on == {node} and isinstance(traced.outputs[node], Tensor) and not before & after


def _head(before: Mapping[str, nn.Module], final: nn.Module) -> nn.Module:
    """Return the head: operations without weights by name, then `fc`, so that the input of `fc` is the embedding."""
    layers = list(members(final).items()) if is_sequence(final) else []
    first = next((index for index, (_, layer) in enumerate(layers) if layer.state_dict()), 0)
    neck = {f"neck_{name}": layer for name, layer in layers[:first]}
    rest = [layer for _, layer in layers[first:]] if neck else [final]
    return sequential(**before, **neck, fc=rest[0] if len(rest) == 1 else nn.Sequential(*rest))


def _after_last_map(traced: Trace, first: int, end: int) -> int:
    """Return the index after the last map among some operations; `end` if none returns a map."""
    for index in reversed(range(first, end)):
        output = traced.outputs[traced.nodes[index]]
        is_map = isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1
        if is_map and _ends_part(traced, index):
            return index + 1
    return end


def _name(traced: Trace, span: tuple[int, int], names: dict[str, None]) -> str:
    """Return a new name for a stage: that of its first module with weights, such as `conv1`, or `conv2d_0`."""
    nodes = traced.nodes[span[0] : span[1]]
    node = next((node for node in nodes if traced.tensors(node)), nodes[0])
    name = str(node.target).replace(".", "_") if node.op in ("call_module", "get_attr") else node.name
    if name.isdecimal():
        name = f"{type(traced.root.get_submodule(name)).__name__.lower()}_{name}"
    while name in names or name == "head" or hasattr(nn.ModuleDict, name):
        name += "_"
    names[name] = None
    return name


def _module(traced: Trace, start: int, end: int) -> nn.Module:
    """Return some operations as a module: the one that they call, several in a row, or the operations as code."""
    nodes = traced.nodes[start:end]
    called = [str(node.target) for node in nodes if node.op == "call_module" and len(node.all_input_nodes) == 1]
    plain = all(len(node.args) == 1 and not node.kwargs for node in nodes)
    if len(called) == len(nodes) == len(set(called)) and plain:
        layers = {target.replace(".", "_"): traced.root.get_submodule(target) for target in called}
        return next(iter(layers.values())) if len(layers) == 1 else sequential(**layers)
    graph = fx.Graph()
    before = traced.nodes[start - 1] if start else next(inputs(nodes[0].graph))
    copies = {before: graph.placeholder("x")}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[nodes[-1]])
    return _Part(traced.root, graph)


def _refuse_probabilities(name: str, traced: Trace) -> None:
    last = traced.nodes[-1]
    target = type(traced.root.get_submodule(last.target)) if last.op == "call_module" else last.target  # type: ignore[arg-type]
    operation = getattr(target, "__name__", str(target)).lower()
    if operation in SQUASHING:
        raise _probabilities(name, operation)


def _body_and_head(name: str, module: nn.Module, images: Tensor, expected: Tensor) -> Network:
    """Return the network with everything before the last linear layer as the stage `body`."""
    _check_repeatable(name, module, images, expected)
    _check_training_output(name, module, images)
    linear = [path for path, layer in module.named_modules() if isinstance(layer, nn.Linear) and path]
    if not linear:
        raise UserError(f"{name} has no linear layer that could be its head. {_ways_out()}")
    parent, _, leaf = linear[-1].rpartition(".")
    head = module.get_submodule(linear[-1])
    setattr(module.get_submodule(parent), leaf, nn.Identity())
    network = Network(name, {"body": module}, sequential(fc=head))
    try:
        with torch.no_grad():
            same = torch.allclose(network.eval()(images), expected, rtol=1e-4, atol=1e-5)
    except Exception:  # the layers after the linear layer do not fit its input
        same = False
    if not same:
        raise UserError(
            f"{name} cannot be divided into stages and a head: its output is not that of its last linear layer, "
            f"{linear[-1]}. {_ways_out()}"
        )
    return network


def _check_repeatable(name: str, module: nn.Module, images: Tensor, expected: Tensor) -> None:
    """Check that a second pass in evaluation mode has the output of the first one."""
    with torch.random.fork_rng(devices=[]):
        output = _output(name, module, images)
    if not torch.allclose(output, expected, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise UserError(
            f"{name} has another output for the same images in a second pass: its forward function draws random "
            "numbers in evaluation mode (F.dropout needs training=self.training), or changes values of its own"
        )


def _check_channels_last(network: Network, images: Tensor) -> None:
    """Check that a network runs on images in channels-last format, the format of Opsin's batches."""
    shadow = copy.deepcopy(network).eval().to(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            shadow(images.contiguous(memory_format=torch.channels_last))
    except RuntimeError as error:
        raise UserError(
            f"{network.name} does not run on images in channels-last format: {error} "
            "Use reshape or flatten where its modules use view"
        ) from error


def _check_training_output(name: str, module: nn.Module, images: Tensor) -> None:
    with torch.random.fork_rng(devices=[]):
        copied = copy.deepcopy(module)
        copied.train()
        output = _output(name, copied, images)
    if not isinstance(output, Tensor):
        raise UserError(
            f"{name} returns {type(output).__name__} in training mode, not a tensor of logits: return the logits only"
        )


def _ways_out() -> str:
    return (
        "Let its forward function call its layers one after the other and return the output of the last linear layer, "
        "or build an opsin.models.Network from stages and a head (docs/own_project.md)"
    )
