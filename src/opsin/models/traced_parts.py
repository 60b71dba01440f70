"""Trace the forward function of a module, and cut the trace into the parts of a network."""

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from opsin.models.network import sequential

DROPOUTS = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.alpha_dropout: nn.AlphaDropout,
}
"""Functions whose argument `training` is fixed in a trace, and the layers that follow the mode of the network."""


_ONE_INPUT = ([inspect.Parameter.POSITIONAL_OR_KEYWORD], [inspect.Parameter.POSITIONAL_ONLY])


@dataclass(frozen=True)
class Trace:
    """The operations of a forward function, in order.

    Attributes:
        root: The module that the operations refer to.
        nodes: The operations.
        outputs: The output of each operation for two images.
    """

    root: nn.Module
    nodes: Sequence[fx.Node]
    outputs: Mapping[fx.Node, Any]

    def tensors(self, node: fx.Node) -> set[int]:
        """Return the ids of the parameters and buffers that an operation uses itself."""
        if node.op == "call_module":
            return {
                id(tensor) for tensor in self.root.get_submodule(str(node.target)).state_dict(keep_vars=True).values()
            }
        return {id(_attribute(self.root, str(node.target)))} if node.op == "get_attr" else set()

    def ends_part(self, index: int) -> bool:
        """Return whether the trace can be cut after an operation: only its output, a tensor, is used later.

        Operations that share a parameter stay in one part.
        """
        node, later = self.nodes[index], set(self.nodes[index + 1 :])
        passed_on = {known for known in (*self.nodes[: index + 1], *_inputs(node.graph)) if later & set(known.users)}
        before = {tensor for known in self.nodes[: index + 1] for tensor in self.tensors(known)}
        after = {tensor for known in later for tensor in self.tensors(known)}
        return passed_on == {node} and isinstance(self.outputs[node], Tensor) and not before & after


class _Tracer(fx.Tracer):
    """Tracer that does not look into the modules that a forward function calls."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


class _Part(fx.GraphModule):
    """A module that runs some operations of a forward function.

    Its `repr` lists the operations and so identifies the part.
    """

    def extra_repr(self) -> str:
        """Return the operations as Python."""
        return str(self.code).strip()


class _Recorder(fx.Interpreter):
    """Interpreter that keeps the output of each operation."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.outputs: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation, and keep its output."""
        self.outputs[n] = super().run_node(n)
        return self.outputs[n]


def trace(module: nn.Module, images: Tensor) -> Trace | None:
    """Trace the forward function of a module; if it only calls one other module, that module's function.

    Args:
        module: The module, in evaluation mode.
        images: Two images, for the outputs.

    Returns:
        The trace; None if the function cannot be traced: it depends on values or on the mode (other than by dropout),
        takes more than the images, or makes tensors of its own.
    """
    if [p.kind for p in inspect.signature(module.forward).parameters.values()] not in _ONE_INPUT:
        return None
    try:
        graph, in_eval = _graph(module, training=True), _graph(module, training=False)
    except Exception:  # a tracer raises many kinds of errors for a function that it cannot follow
        return None
    root = _with_members_of(module)
    _use_dropout_layers(root, graph, in_eval)
    _use_reshape(graph, in_eval)
    if str(graph) != str(in_eval):
        return None
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    if len(nodes) == 1 and nodes[0].op == "call_module" and not _is_layer(root.get_submodule(nodes[0].target)):
        return trace(root.get_submodule(nodes[0].target), images)
    known = {id(tensor) for tensor in root.state_dict(keep_vars=True).values()}
    made = any(id(_attribute(root, node.target)) not in known for node in nodes if node.op == "get_attr")
    if made or not nodes or graph.output_node().args[0] is not nodes[-1]:
        return None
    recorder = _Recorder(fx.GraphModule(root, graph).eval())
    with torch.no_grad():
        recorder.run(images)
    return Trace(root, nodes, recorder.outputs)


def named_parts(traced: Trace) -> tuple[dict[str, nn.Module], nn.Module] | None:
    """Return the stages by name and the head; None if no place can be cut.

    A part begins with an operation that has weights, or earlier: what follows the last map of a part (pooling,
    flattening) belongs to the next part, so that the part returns a map if it has one.
    """
    starts = [index for index, node in enumerate(traced.nodes) if traced.tensors(node)]
    cuts = [start for start in starts if start and traced.ends_part(start - 1)]
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


def _head(before: Mapping[str, nn.Module], final: nn.Module) -> nn.Module:
    """Return the head: operations without weights by name, then `fc`, so that the input of `fc` is the embedding."""
    layers = list(final.named_children()) if isinstance(final, nn.Sequential) else []
    first = next((index for index, (_, layer) in enumerate(layers) if layer.state_dict()), 0)
    neck = {f"neck_{name}": layer for name, layer in layers[:first]}
    rest = [layer for _, layer in layers[first:]] if neck else [final]
    return sequential(**before, **neck, fc=rest[0] if len(rest) == 1 else nn.Sequential(*rest))


def _after_last_map(traced: Trace, first: int, end: int) -> int:
    """Return the index after the last map among some operations; the index of their end if there is none."""
    for index in reversed(range(first, end)):
        output = traced.outputs[traced.nodes[index]]
        is_map = isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1
        if is_map and traced.ends_part(index):
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
    before = traced.nodes[start - 1] if start else next(_inputs(nodes[0].graph))
    copies = {before: graph.placeholder("x")}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[nodes[-1]])
    return _Part(traced.root, graph)


def _graph(module: nn.Module, *, training: bool) -> fx.Graph:
    """Return the trace in one mode; the mode is restored."""
    modes = {part: part.training for part in module.modules()}
    try:
        graph = _Tracer().trace(module.train(training))
    finally:
        for part, mode in modes.items():
            part.training = mode
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    return graph


def _use_dropout_layers(root: nn.Module, graph: fx.Graph, in_eval: fx.Graph) -> None:
    """Replace dropout functions that follow the mode by dropout layers, in both traces."""
    if len(graph.nodes) != len(in_eval.nodes):
        return
    for node, other in zip(list(graph.nodes), list(in_eval.nodes), strict=True):
        modes = node.kwargs.get("training"), other.kwargs.get("training")
        if node.target in DROPOUTS and modes == (True, False):
            root.add_module(f"{node.name}_layer", DROPOUTS[node.target](p=node.kwargs.get("p", 0.5)))
            for found in (node, other):
                found.op, found.target, found.kwargs = "call_module", f"{node.name}_layer", {}


def _use_reshape(*graphs: fx.Graph) -> None:
    """Replace `view` by `reshape`, which accepts maps in channels-last format too."""
    for node in (node for graph in graphs for node in graph.nodes):
        if node.op == "call_method" and node.target == "view" and not isinstance(node.args[-1], torch.dtype):
            node.target = "reshape"


def _inputs(graph: fx.Graph) -> Iterator[fx.Node]:
    return (node for node in graph.nodes if node.op == "placeholder")


def _is_layer(module: nn.Module) -> bool:
    """Return whether a module is a layer of torch, which has no parts, and no container."""
    return next(module.children(), None) is None


def _attribute(root: nn.Module, path: str) -> Any:
    found: Any = root
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _with_members_of(module: nn.Module) -> nn.Module:
    """Return a module with the same submodules, parameters and buffers, to which layers can be added."""
    root = nn.Module()
    for name, part in module.named_modules(remove_duplicate=False):
        if name and "." not in name:
            root.add_module(name, part)
    for name, parameter in module.named_parameters(recurse=False):
        root.register_parameter(name, parameter)
    for name, buffer in module.named_buffers(recurse=False):
        root.register_buffer(name, buffer)
    return root
