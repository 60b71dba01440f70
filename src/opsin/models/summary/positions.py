"""The positions in the image to which the values of a tensor belong, followed through the operations that run."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

_PRODUCTS = (aten.mm, aten.addmm, aten.bmm, aten.baddbmm)
_MOVES = (aten._unsafe_view, aten.cat, aten.stack, aten.roll, aten.flip, aten.repeat, aten.constant_pad_nd)
"""Operations that only move values, in addition to views."""

_GLOBAL = ("attention", "transformer_encoder", "fft")
"""Parts of the names of operations that join all positions."""

_NONE = -1
"""Position of values that come from no image, such as a class token."""


class Positions:
    """The position of every value of every tensor that was computed from the images of one batch.

    A position is the number of a unit of the last map, such as a patch; tokens keep the position of their patch in any
    order of the axes. So a product that adds over channels differs from one that adds over tokens.
    """

    def __init__(self, images: Tensor) -> None:
        self._known: dict[int, Tensor | None] = {id(images): _grid(images.shape)}  # None: not known

    def are_mixed(self, operation: Any, args: Sequence[Any]) -> bool:
        """Return whether an operation adds values of different positions, or may do so.

        Convolutions over two axes and pooling are not examined.
        """
        if any(part in str(operation) for part in _GLOBAL):
            return True
        if operation in _PRODUCTS:
            axes = [
                (factor, axis) for factor, axis in zip(args[-2:], (-1, -2), strict=True) if id(factor) in self._known
            ]
            return len(axes) == 2 or not all(self._constant(factor, axis) for factor, axis in axes)
        if operation is aten.convolution and args[1].ndim == 3:
            return args[1].shape[2] > 1 or not self._constant(args[0], 1)
        return False

    def follow(self, func: Any, args: Sequence[Any], output: Any) -> None:
        """Record the positions of the outputs of an operation of which an argument is known."""
        outputs = list(tensors_in([output]))
        for tensor, positions in zip(outputs, self._after(func, args, outputs), strict=True):
            self._known[id(tensor)] = positions

    def _after(self, func: Any, args: Sequence[Any], outputs: Sequence[Tensor]) -> Iterable[Tensor | None]:
        operation = getattr(func, "overloadpacket", func)
        if operation is aten.convolution:
            return [_grid(outputs[0].shape)]
        if operation in _PRODUCTS:
            return [self._of_product(args, outputs[0].shape)]
        if getattr(func, "is_view", False) or operation in _MOVES:
            return self._moved(func, args, outputs)
        same_shape = {
            tensor.shape: positions
            for tensor in tensors_in(args)
            if (positions := self._known.get(id(tensor))) is not None
        }
        return [
            same_shape[tensor.shape]
            if tensor.shape in same_shape
            else _grid(tensor.shape)
            if tensor.ndim == 4
            else None
            for tensor in outputs
        ]

    def _of_product(self, args: Sequence[Any], shape: torch.Size) -> Tensor | None:
        left, right = (self._known.get(id(factor)) for factor in args[-2:])
        if left is not None:
            return left[..., :1].expand(shape)
        return None if right is None else right[..., :1, :].expand(shape)

    def _moved(self, func: Any, args: Sequence[Any], outputs: Sequence[Tensor]) -> Iterable[Tensor | None]:
        unknown = [None] * len(outputs)
        if any(self._known.get(id(tensor), tensor) is None for tensor in tensors_in(args)):
            return unknown
        positions = [self._replaced(value) for value in args]
        operation = getattr(func, "overloadpacket", func)
        if operation in (aten.view, aten._unsafe_view):
            return [positions[0].reshape(outputs[0].shape)]  # the strides of positions can differ
        try:
            return unknown if operation is aten.as_strided else list(tensors_in([func(*positions)]))
        except RuntimeError:  # a view as another type
            return unknown

    def _replaced(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._replaced(item) for item in value]
        if not isinstance(value, Tensor):
            return value
        known = self._known.get(id(value))
        return torch.full((), _NONE, dtype=torch.int32).expand(value.shape) if known is None else known

    def _constant(self, tensor: Tensor, axis: int) -> bool:
        positions = self._known.get(id(tensor))
        return positions is not None and bool((positions == positions.narrow(axis, 0, 1)).all())


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """Return the tensors among the arguments or outputs of an operation, also those in lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)


def _grid(shape: torch.Size) -> Tensor:
    """Return the positions of a map `(N, C, ...)`."""
    area = shape[2:]
    return torch.arange(math.prod(area), dtype=torch.int32).view(1, 1, *area).expand(shape)
