"""Trace of the forward function of a module: its operations in order, with the output of each for two images.

`opsin.models.plain_network` cuts the trace into the stages and the head of a network.
"""

import copy
import inspect
import operator
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from opsin.models.network import members

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


class _Tracer(fx.Tracer):
    """Tracer that does not look into the modules that a forward function calls."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


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
        The trace; None if the function cannot be traced: it depends on values, on random numbers or on the mode (other
        than by dropout), takes more than the images, or makes tensors of its own.
    """
    if [p.kind for p in inspect.signature(module.forward).parameters.values()] not in _ONE_INPUT:
        return None
    try:
        graph, in_eval = _graph(module, training=True), _graph(module, training=False)
    except Exception:  # a tracer raises many kinds of errors for a function that it cannot follow
        return None
    if graph is None or in_eval is None:
        return None
    root = _with_members_of(module)
    _use_dropout_layers(root, graph, in_eval)
    _use_reshape(graph, in_eval)
    if str(graph) != str(in_eval):  # compared whole: an operation whose result is not used can change a map in place
        return None
    graph.eliminate_dead_code(_has_effect)
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


def _graph(module: nn.Module, *, training: bool) -> fx.Graph | None:
    """Return the trace in one mode; None if the function draws random numbers, because it can then take other ways.

    A copy is traced, which shares the parameters: the function may assign buffers and attributes, and they would hold
    objects of the tracer afterwards.
    """
    copied = copy.deepcopy(module, {id(parameter): parameter for parameter in module.parameters()})
    copied.train(training)
    before = _random_states(copied)
    graph = _Tracer().trace(copied)
    if _random_states(copied) != before:
        return None
    return graph


def _has_effect(node: fx.Node) -> bool:
    """Return whether an operation does more than to return a result: it changes a tensor in place."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    return node.op in ("placeholder", "output") or in_place or node.target is operator.setitem


def _random_states(module: nn.Module) -> list[Any]:
    """Return the states of the random generators of a forward function: the global ones and those of the modules."""
    own = [value for part in module.modules() for value in vars(part).values()]
    return [
        *(torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())),  # noqa: NPY002
        *(value.getstate() for value in own if isinstance(value, random.Random)),
        *(str(value.bit_generator.state) for value in own if isinstance(value, np.random.Generator)),
        *(value.get_state().tolist() for value in own if isinstance(value, torch.Generator)),
    ]


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


def inputs(graph: fx.Graph) -> Iterator[fx.Node]:
    """Return the inputs of the operations of a graph."""
    return (node for node in graph.nodes if node.op == "placeholder")


def _is_layer(module: nn.Module) -> bool:
    """Return whether a module has no submodules."""
    return next(module.children(), None) is None


def _attribute(root: nn.Module, path: str) -> Any:
    found: Any = root
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _with_members_of(module: nn.Module) -> nn.Module:
    """Return a module with the same submodules, parameters and buffers, to which layers can be added."""
    root = nn.Module()
    for name, part in members(module).items():
        root.add_module(name, part)
    for name, parameter in module.named_parameters(recurse=False):
        root.register_parameter(name, parameter)
    for name, buffer in module.named_buffers(recurse=False):
        root.register_buffer(name, buffer)
    return root
