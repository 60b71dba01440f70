"""Signatures as pydantic models: one field for each parameter, with the ranges and choices of its annotation."""

import dataclasses
import functools
import inspect
import numbers
from collections.abc import Callable, Iterable
from types import SimpleNamespace, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model


@functools.cache
def signature_model(call: Callable[..., object], computed: frozenset[str] = frozenset()) -> type[BaseModel]:
    """Return a pydantic model with one field for each parameter of a callable that is not computed.

    Ranges and choices come from the annotations (`Annotated[float, Field(ge=0)]`, `Literal[...]`).
    """
    hints = type_hints(call.__init__ if inspect.isclass(call) else call)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(call).parameters.items():
        if name in computed or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (_from_yaml(hints.get(name, Any)), default)
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    return create_model(getattr(call, "__name__", "Section"), __config__=config, **fields)


def defaults(call: Callable[..., object]) -> dict[str, Any]:
    """Return the default value of each parameter of a callable that has one; none of a callable without a signature."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (ValueError, TypeError):
        return {}
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


def type_hints(function: Callable[..., object]) -> dict[str, Any]:
    """Return the annotations of a function; `Any` for those that exist for a type checker only (`TYPE_CHECKING`)."""
    hints: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        holder = SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= get_type_hints(holder, getattr(function, "__globals__", {}), include_extras=True)
        except (NameError, AttributeError, TypeError):
            hints[name] = Any
    return hints


def _from_yaml(annotation: Any) -> Any:
    """Return the annotation for values of YAML: `list[X]` for `Iterable[X]`, and `int | float` for `numbers.Number`.

    pydantic's iterator of `Iterable[X]` can be read only once, and it takes a `Number` from Python only.
    """
    if annotation is numbers.Number:
        return int | float
    if get_origin(annotation) is Iterable:
        return list[get_args(annotation)]  # type: ignore[misc]
    if get_origin(annotation) in (Union, UnionType):
        return Union[tuple(map(_from_yaml, get_args(annotation)))]  # noqa: UP007 - of a computed tuple
    return annotation


def item_keys(annotation: Any) -> list[str]:
    """Return the keys of the dataclass inside a type such as `list[Phase] | None`."""
    if dataclasses.is_dataclass(annotation):
        return [item.name for item in dataclasses.fields(annotation)]
    return [name for argument in get_args(annotation) for name in item_keys(argument)]
