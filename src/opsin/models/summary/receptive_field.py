"""The receptive field of each stage, computed from the operations that run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from opsin.models.summary.positions import Positions, tensors_in
from opsin.models.torch_internals import TorchDispatchMode

aten = torch.ops.aten


class Field(NamedTuple):
    """Along one axis: the extent of the field and the distance between the centers of neighboring units, in pixels."""

    extent: int = 1
    jump: int = 1
    whole: bool = False

    def through(self, kernel: int, stride: int, dilation: int) -> "Field":
        """Return the field after a convolution or a pool."""
        return Field(self.extent + (kernel - 1) * dilation * self.jump, self.jump * stride, self.whole)


class ReceptiveFields(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context that tracks the receptive field of every tensor computed from the images of one batch.

    Convolutions and pooling widen the field; where paths join (residual additions, concatenations), the largest
    counts; global pooling, dense layers over one row per image, attention and products that add over positions
    (`opsin.models.summary.positions`) see the whole image. The field depends on the layers alone, as in "Computing
    Receptive Fields of Convolutional Neural Networks" (Araujo et al., 2019): padding is
    included, so the field can be larger than the image.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fields: dict[int, tuple[Field, Field]] = {id(images): (Field(), Field())}
        self._positions = Positions(images)
        self._alive = [images]  # an id is unique only while its tensor exists

    def pixels(self, features: Tensor) -> int | None:
        """Return the side of the receptive field of a tensor in pixels; None if it is the whole image."""
        fields = self._fields[id(features)]
        return None if any(field.whole for field in fields) else max(field.extent for field in fields)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operation, and record the fields of its outputs."""
        output = func(*args, **(kwargs or {}))
        known = [self._fields[id(t)] for t in tensors_in(args) if id(t) in self._fields]
        if known:
            height, width = (_merge(axis) for axis in zip(*known, strict=True))
            operation = getattr(func, "overloadpacket", func)
            mixed = self._positions.are_mixed(operation, args)
            after = _whole(height, width) if mixed else _after(operation, args, output, (height, width))
            self._positions.follow(func, args, output)
            for tensor in tensors_in([output]):
                self._fields[id(tensor)] = after
                self._alive.append(tensor)
        return output


def _after(operation: Any, args: Sequence[Any], output: Any, fields: tuple[Field, Field]) -> tuple[Field, Field]:
    if operation is aten.convolution:
        _, weight, _, stride, _, dilation = args[:6]
        return _window(fields, weight.shape[2:], stride, dilation)
    if operation in (aten.max_pool2d_with_indices, aten.avg_pool2d):
        kernel = args[1]
        stride = args[2] if len(args) > 2 and args[2] else kernel
        dilation = args[4] if operation is aten.max_pool2d_with_indices and len(args) > 4 else (1, 1)
        return _window(fields, kernel, stride, dilation)
    if operation in (aten.mean, aten._adaptive_avg_pool2d):
        pooled = output.shape[2:] != args[0].shape[2:]  # a mean over one pixel changes nothing
    else:  # a dense layer over one row per image; over one row per pixel, it is a 1x1 convolution
        pooled = operation in (aten.addmm, aten.mm) and output.shape[0] == 1
    return _whole(*fields) if pooled else fields


def _whole(height: Field, width: Field) -> tuple[Field, Field]:
    return height._replace(whole=True), width._replace(whole=True)


def _window(
    fields: tuple[Field, Field], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[Field, Field]:
    height, width = (
        fields[axis].through(*(value[axis] if len(value) > 1 else value[0] for value in (kernel, stride, dilation)))
        for axis in (0, 1)
    )
    return height, width


def _merge(fields: Iterable[Field]) -> Field:
    extents, jumps, wholes = zip(*fields, strict=True)
    return Field(max(extents), max(jumps), any(wholes))
