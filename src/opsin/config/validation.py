"""Check a composed config before anything is built from it.

A section of a config is a set of keyword arguments: `_target_` names a callable, every other key is one of its
parameters. Here those keys and values are held against the callable's signature, so that a typo from any
place (a YAML, an experiment, the command line, a `+override`) is refused before data or weights are loaded.
"""

import dataclasses
import functools
import importlib
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from opsin.config.run_config import ConfigOrigin
from opsin.errors import UserError, did_you_mean

ALLOWED_TARGETS = (
    "opsin.",
    "torch.optim.",
    "lightning.pytorch.callbacks.",
    "lightning.pytorch.loggers.",
    "lightning.pytorch.profilers.",
)
"""Where a `_target_` may come from. A config is data: it must not name just any callable of the machine."""

TARGETS_VARIABLE = "OPSIN_TARGETS"
"""Environment variable with further module prefixes, separated by commas, for networks and callbacks of your own."""


@dataclass(frozen=True)
class Section:
    """What may stand under one key of the config.

    Attributes:
        call: the callable whose parameters these are; None: the config names it as `_target_`.
        beside: a further callable whose parameters may stand here too, such as the datamodule beside its source.
        given: parameters that the builder hands over and that a config therefore may not set.
        given_beside: the same, of the callable beside.
        many: the key holds named sections of this kind (`callbacks.early_stopping`), each of which may be null.
    """

    call: Callable[..., object] | None = None
    beside: Callable[..., object] | None = None
    given: frozenset[str] = frozenset()
    given_beside: frozenset[str] = frozenset()
    many: bool = False


@dataclass(frozen=True)
class Node:
    """A checked section: a callable, and validated arguments for it and for the callable beside it."""

    call: Callable[..., Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict)

    def takes(self, name: str) -> bool:
        """Whether the target has a parameter of this name."""
        return name in inspect.signature(self.call).parameters

    def build(self, **given: Any) -> Any:
        """Call the target with its arguments, and with those of the builder's that it takes."""
        return self.call(**self.arguments, **{name: value for name, value in given.items() if self.takes(name)})


def check(
    tree: Mapping[str, Any],
    sections: Mapping[str, Section],
    top: type[BaseModel],
    origin: ConfigOrigin | None = None,
) -> tuple[dict[str, Any], BaseModel]:
    """Hold a composed config against what it may contain, as a whole.

    Args:
        tree: plain, resolved values.
        sections: the sections by their key; each becomes a `Node`, or a dict of them where there may be many.
        top: the declared fields that are no sections.
        origin: where values were set, for the message.

    Returns:
        The nodes by their key, and the validated top-level fields.

    Raises:
        UserError: names every key that is unknown, missing, of a wrong type or out of range, where it was set,
            and the nearest valid name.
    """
    checker = _Checker(sections, top, origin or ConfigOrigin())
    nodes: dict[str, Any] = {}
    for key, section in sections.items():
        value = tree.get(key)
        if section.many:
            items = value or {}
            nodes[key] = {
                name: checker.node(f"{key}.{name}", item, section) for name, item in items.items() if item is not None
            }
        else:
            nodes[key] = checker.node(key, value, section)
    fields = checker.validate("", {k: v for k, v in tree.items() if k not in sections}, top, list(sections))
    if checker.problems:
        raise UserError("The config cannot be used:\n" + "\n".join(f"  - {line}" for line in checker.problems))
    assert fields is not None
    return nodes, fields


class _Checker:
    """Collects every problem of one config, so that a person mends them in one go."""

    def __init__(self, sections: Mapping[str, Section], top: type[BaseModel], origin: ConfigOrigin) -> None:
        self.problems: list[str] = []
        self._sections = sections
        self._top = top
        self._origin = origin

    def node(self, path: str, value: Any, section: Section) -> Node | None:
        """Check one section; problems are collected, and None stands for what could not be checked."""
        if not isinstance(value, Mapping):
            self._add(path, f"{path} must be a section of keys, not {value!r}")
            return None
        values = dict(value)
        call = section.call or self._target(path, values.pop("_target_", None))
        if call is None:
            return None
        model = signature_model(call, section.given)
        beside = signature_model(section.beside, section.given_beside) if section.beside else None
        own = {k: v for k, v in values.items() if beside is None or k not in beside.model_fields}
        rest = {k: v for k, v in values.items() if k not in own}
        also = list(beside.model_fields) if beside else []
        arguments = self.validate(path, own, model, also, section.given)
        extra = self.validate(path, rest, beside) if beside else None
        if arguments is None or (beside is not None and extra is None):
            return None
        # A parameter that both take (an optimizer's `lr`, which its groups have too) is handed to both.
        shared = {k: v for k, v in rest.items() if k in model.model_fields}
        return Node(call, _given(arguments) | shared, _given(extra) if extra is not None else {})

    def validate(
        self,
        path: str,
        values: Mapping[str, Any],
        model: type[BaseModel],
        also: Sequence[str] = (),
        given: frozenset[str] = frozenset(),
    ) -> BaseModel | None:
        """Hold `values` against a model; `also` are names that are valid beside the model's own."""
        try:
            return model.model_validate_json(json.dumps(values, default=str), strict=True)
        except ValidationError as error:
            problems = error.errors(include_url=False)
            said = {p["loc"][:-1] for p in problems if p["type"] == "value_error" and len(p["loc"]) > 1}
            for problem in problems:
                # A tensor would do too, but no YAML holds one. A validator of Opsin's speaks for the whole union type.
                if problem["type"] != "needs_python_object" and (
                    problem["type"] == "value_error" or problem["loc"][:-1] not in said
                ):
                    self._explain(path, problem, model, also, values, given)
            return None

    def _explain(
        self,
        path: str,
        problem: Any,
        model: type[BaseModel],
        also: Sequence[str],
        values: Mapping[str, Any],
        given: frozenset[str],
    ) -> None:
        key = str(problem["loc"][0]) if problem["loc"] else ""
        place = f"{path}.{key}".lstrip(".")
        inside, value = _descend(values.get(key), problem["loc"][1:])
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            if key in given:
                self._add(place, f"{place} is worked out by Opsin and cannot be set")
            elif inside:
                names = _item_keys(model.model_fields[key].annotation)
                self._add(place, f"{place}{inside} is not known{_nearest(str(problem['loc'][-1]), names)}")
            else:
                suggestion = self._suggest(key, [*model.model_fields, *also], path)
                self._add(place, f"{place} is not known{suggestion}")
        elif problem["type"] == "missing":
            self._add(place, f"{place}{inside} is missing")
        else:
            reason = problem["msg"].removeprefix("Input ").removeprefix("Value error, ")
            self._add(place, f"{place}{inside} {reason}, not {value!r}")

    def _suggest(self, key: str, names: Sequence[str], path: str) -> str:
        here = path.split(".")[0]
        for other, section in self._sections.items():  # the right word under the wrong section
            if (
                other != here
                and section.beside
                and key in signature_model(section.beside, section.given_beside).model_fields
            ):
                return f": did you mean {other}.{key}?"
        if path and key in self._top.model_fields:
            return f": did you mean {key}?"
        return _nearest(key, names, f"{path}.".lstrip("."))

    def _target(self, path: str, name: Any) -> Callable[..., Any] | None:
        try:
            return resolve_target(name)
        except UserError as error:
            self._add(f"{path}._target_", f"{path}._target_ {error}")
            return None

    def _add(self, path: str, message: str) -> None:
        where = self._origin.of(path)
        line = f"{message}  [set {where}]" if where else message
        if line not in self.problems:  # each member of a union type complains for itself
            self.problems.append(line)


def _nearest(key: str, names: Sequence[str], prefix: str = "") -> str:
    return did_you_mean(key, names, prefix) or f"; known here: {', '.join(sorted(names))}"


def _item_keys(annotation: Any) -> list[str]:
    """The keys of the dataclass in a type such as `list[Phase] | None`."""
    if is_dataclass(annotation):
        return [item.name for item in dataclasses.fields(annotation)]
    return [name for argument in get_args(annotation) for name in _item_keys(argument)]


def _descend(value: Any, steps: Sequence[int | str]) -> tuple[str, Any]:
    """Where in a nested value a problem lies (`[0].epoch`), and what stands there."""
    inside = ""
    for step in steps:
        if isinstance(step, int) and isinstance(value, list):
            inside, value = f"{inside}[{step}]", value[step]
        elif isinstance(value, Mapping):
            inside, value = f"{inside}.{step}", value.get(step)
        else:  # the name of a member of a union type
            break
    return inside, value


def _given(model: BaseModel) -> dict[str, Any]:
    """The values that were set, as validated; defaults stay with the callable."""
    return {name: getattr(model, name) for name in model.model_fields_set}


def resolve_target(name: Any) -> Callable[..., Any]:
    """The callable at a dotted name, if it comes from an allowed place.

    Raises:
        UserError: the name is none, is not allowed, or does not exist; the nearest name is told.
    """
    if not isinstance(name, str) or "." not in name:
        raise UserError(f"must be the dotted name of a callable, not {name!r}")
    extra = [p.strip().rstrip(".") + "." for p in os.environ.get(TARGETS_VARIABLE, "").split(",") if p.strip()]
    allowed = (*ALLOWED_TARGETS, *extra)
    if not name.startswith(allowed):
        raise UserError(
            f"{name} is not allowed; allowed are names that begin with {', '.join(allowed)} "
            f"(your own: set the environment variable {TARGETS_VARIABLE}=my_package)"
        )
    module_name, attribute = name.rsplit(".", 1)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"{name} does not exist: {error}") from None
    found = getattr(module, attribute, None)
    if not callable(found):
        names = [n for n in dir(module) if not n.startswith("_") and callable(getattr(module, n))]
        raise UserError(f"{name} does not exist{did_you_mean(attribute, names, f'{module_name}.')}")
    return found  # type: ignore[no-any-return]


@functools.cache
def signature_model(call: Callable[..., object], given: frozenset[str] = frozenset()) -> type[BaseModel]:
    """A pydantic model with one field for each parameter of `call`, but for those in `given`.

    Ranges and choices are read from the annotations (`Annotated[float, Field(ge=0)]`, `Literal[...]`).
    """
    function = call.__init__ if inspect.isclass(call) else call
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(call).parameters.items():
        if name in given or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (hints.get(name, Any), default)
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    return create_model(getattr(call, "__name__", "Section"), __config__=config, **fields)
