"""Check a composed config before anything is built from it.

The keys of a section belong to dataclasses of options and to the constructor that the section names as `_target_`: each
key is a field or a parameter of exactly one of them. Keys and values are checked against those signatures, so that a
typo from any place (a YAML file, an experiment, the command line, a `+override`) is refused before data or weights are
loaded.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from opsin.config.run_config import ConfigOrigin
from opsin.config.search_path import ConfigSource
from opsin.config.signatures import item_keys, signature_model
from opsin.config.suggestions import translation, value_translation
from opsin.config.target_lookup import Constructors, Target
from opsin.config.target_refusal import UnknownConstructorError, UnpermittedPackageError, permission
from opsin.errors import UserError, did_you_mean

ROOT = ""
"""Key of the schema of the keys that are in no section."""

PYTHON_OBJECTS = ("needs_python_object", "callable_type")
"""Types of pydantic's problems with parameters whose values YAML does not have, such as classes and tensors."""

BOOLEANS = ("false", "true")
"""Words that YAML reads as booleans, in lower case."""

EXPECTATION = "Input should be "
"""Start of pydantic's messages that say what a value should be."""

LISTED = "should be "
"""End of the start of such a message, in front of the values."""


@dataclass(frozen=True)
class SectionSchema:
    """The keys that one section of the config accepts, and the fields of the plan that take their values.

    Attributes:
        options: Dataclasses by the field of the plan; each owns the keys that are its fields.
        target: The field of the plan that takes the section's `Target`; empty if it has none.
        constructors: The constructors that `_target_` may name.
        call: The constructor of a section that has a target but no `_target_`.
        computed: Parameters of the constructor that Opsin computes and a config may not set.
        many: The section holds named targets (`callbacks.early_stopping`), each of which may be null.
    """

    options: Mapping[str, type] = field(default_factory=dict)
    target: str = ""
    constructors: Constructors | None = None
    call: Callable[..., Any] | None = None
    computed: frozenset[str] = frozenset()
    many: bool = False


def check(
    tree: Mapping[str, Any], schema: Mapping[str, SectionSchema], origin: ConfigOrigin | None = None
) -> dict[str, Any]:
    """Check a composed config as a whole.

    Args:
        tree: Plain, resolved values.
        schema: The schema of each section; that of `ROOT` is for the keys outside all sections.
        origin: Where values were set, for the message.

    Returns:
        Options and targets by the field of the plan; a dict of targets by their names for a section of many.

    Raises:
        UserError: Names every key that is unknown, missing, of a wrong type or out of range, where it was set,
            and the nearest valid name.
    """
    checker = _Checker(schema, origin or ConfigOrigin())
    fields: dict[str, Any] = {}
    for key, section in schema.items():
        if key == ROOT:
            fields |= checker.section(ROOT, {k: v for k, v in tree.items() if k not in schema}, section)
        elif section.many:
            named = tree.get(key) or {}
            items = {name: item for name, item in named.items() if item is not None}
            checker.refuse_useless_nulls(key, named.keys() - items.keys(), items)
            found = {name: checker.section(f"{key}.{name}", item, section, items) for name, item in items.items()}
            fields[section.target] = {name: item.get(section.target) for name, item in found.items()}
        else:
            fields |= checker.section(key, tree.get(key), section)
    if ROOT not in schema:
        checker.refuse_unknown({key for key in tree if key not in schema})
    if checker.problems:
        lines = ["The config cannot be used:", *(f"  - {line}" for line in checker.problems)]
        if checker.unpermitted:
            lines.append(f"Way out: {permission(checker.unpermitted)}")
        raise UserError("\n".join(lines))
    return fields


class _Checker:
    """Collect every problem of one config, so that a user can correct all of them at once."""

    def __init__(self, schema: Mapping[str, SectionSchema], origin: ConfigOrigin) -> None:
        self.problems: list[str] = []
        self.unpermitted: list[str] = []
        self._schema = schema
        self._origin = origin

    def section(self, path: str, value: Any, schema: SectionSchema, named: Iterable[str] = ()) -> dict[str, Any]:
        """Check one section; return its fields of the plan, or an empty dict if there is a problem.

        Args:
            path: Its dotted key.
            value: Its keys and values.
            schema: Its schema.
            named: Names of all sections beside it, and its own, if each has a name.
        """
        if not isinstance(value, Mapping):
            self._add(path, f"{path} must be a section of keys, not {value!r}")
            return {}
        values = dict(value)
        name = values.pop("_target_", None) if schema.constructors else None
        self._refuse_inner_targets(path, values)
        owners: dict[str, Callable[..., Any]] = dict(schema.options)
        if schema.target:
            call = schema.call or self._constructor(path, name, schema.constructors, named)
            if call is None:
                return {}
            owners[schema.target] = call
        models = {
            key: signature_model(owner, schema.computed if key == schema.target else frozenset())
            for key, owner in owners.items()
        }
        self._refuse_two_owners(path, models)
        self._refuse_unknown(path, values, models, schema.computed)
        return self._built(path, values, owners, models, schema)

    def _built(
        self,
        path: str,
        values: Mapping[str, Any],
        owners: Mapping[str, Callable[..., Any]],
        models: Mapping[str, type[BaseModel]],
        schema: SectionSchema,
    ) -> dict[str, Any]:
        """Validate the keys of each owner, and make its options and its target."""
        fields: dict[str, Any] = {}
        for key, model in models.items():
            own = {name: value for name, value in values.items() if name in model.model_fields}
            arguments = self._validated(path, own, model)
            if arguments is None:
                continue
            try:
                call = owners[key]
                fields[key] = Target(call, arguments) if key == schema.target else call(**arguments)
            except UserError as error:  # options that contradict each other
                self._add(self._named_key(path, str(error)), str(error))
        return fields

    def _named_key(self, path: str, message: str) -> str:
        """Return the key of a section that a message names, a typed one first; the section itself if it names none."""
        keys = re.findall(rf"(?<![\w.]){re.escape(path)}\.\w+", message) if path else []
        typed = [key for key in keys if self._origin.typed(key)]
        return next(iter([*typed, *keys]), path)

    def _validated(self, path: str, values: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any] | None:
        """Validate values against a model; return those that were set, or None if there is a problem."""
        if undecoded := [key for key, value in values.items() if not _is_utf8(value)]:
            for key in undecoded:
                place = f"{path}.{key}".lstrip(".")
                self._add(place, f"{place} holds bytes that are not UTF-8: {values[key]!r}; rename the file or folder")
            return None
        try:
            found = model.model_validate_json(json.dumps(values, default=str), strict=True)
        except ValidationError as error:
            problems = error.errors(include_url=False)
            explained = {p["loc"][:-1] for p in problems if p["type"] == "value_error" and len(p["loc"]) > 1}
            # The message of a validator covers its whole union type.
            shown = [p for p in problems if p["type"] == "value_error" or p["loc"][:-1] not in explained]
            # The other members of a union type with a Python object have the better message.
            named = {p["loc"][0] for p in shown if p["type"] not in PYTHON_OBJECTS}
            shown = [p for p in shown if p["type"] not in PYTHON_OBJECTS or p["loc"][0] not in named]
            for problem in _alternatives_joined(shown, values):
                self._explain(path, problem, model, values)
            return None
        return {name: getattr(found, name) for name in found.model_fields_set}

    def _explain(self, path: str, problem: Any, model: type[BaseModel], values: Mapping[str, Any]) -> None:
        key = str(problem["loc"][0])
        place = f"{path}.{key}".lstrip(".")
        inside, value = _descend(values.get(key), problem["loc"][1:])
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            known = item_keys(model.model_fields[key].annotation)
            self._add(place, f"{place}{inside} is not known{_nearest(str(problem['loc'][-1]), known)}")
        elif problem["type"] == "missing":
            last = problem["loc"][-1]
            item = f"[{last}]" if isinstance(last, int) and not inside else ""  # inside a member of a union type
            self._add(place, f"{place}{inside}{item} is missing")
        elif problem["type"] in PYTHON_OBJECTS:
            self._add(
                place,
                f"{place}{inside} takes a Python object, which a config cannot hold, not {value!r}: leave it out, or "
                f"let {model.__name__} take a name and look the object up",
            )
        else:
            reason = _without_repetition(problem["msg"].removeprefix("Input ").removeprefix("Value error, "))
            is_single = (
                problem["type"] == "list_type" and len(problem["loc"]) == 1 and isinstance(value, str | int | float)
            )
            hint = f": write {place}{inside}=[{value}]" if is_single else _text_hint(problem["type"], value)
            hint = hint or value_translation(f"{place}{inside}", value)
            self._add(place, f"{place}{inside} {reason}, not {value!r}{hint}")

    def refuse_unknown(self, keys: set[str]) -> None:
        """Report top-level keys that are not sections."""
        for key in sorted(keys):
            self._add(key, f"{key} is not known{self._nearest_key(key, list(self._schema), ROOT)}")

    def refuse_useless_nulls(self, section: str, nulls: Iterable[str], items: Iterable[str]) -> None:
        """Report names that are null in a section of many although no config defines them, such as misspelled ones."""
        for name in sorted(self._origin.undefined(nulls)):
            place = f"{section}.{name}"
            near = did_you_mean(name, items, f"{section}.") or ": leave it out"
            self._add(place, f"{place}=null removes nothing, because no config file defines {place}{near}")

    def _refuse_unknown(
        self, path: str, values: Mapping[str, Any], models: Mapping[str, type[BaseModel]], computed: frozenset[str]
    ) -> None:
        known = [name for model in models.values() for name in model.model_fields]
        for key in values:
            place = f"{path}.{key}".lstrip(".")
            if key in known or key == "_target_":
                continue
            if key in computed:
                self._add(place, f"{place} is computed by Opsin and cannot be set")
            else:
                names = known if path else [*known, *(name for name in self._schema if name)]
                suggestion = (
                    translation(place, values[key])
                    or self._left_by_experiment(path, key)
                    or self._nearest_key(key, names, path)
                )
                self._add(place, f"{place} is not known{suggestion}")

    def _left_by_experiment(self, section: str, key: str) -> str:
        """Return the way out if an experiment sets a key for another option than the one that was typed; else ""."""
        typed = self._origin.typed_choice(section)
        if not typed or self._origin.typed(f"{section}.{key}") or key not in self._origin.set_by_experiment(section):
            return ""
        return f" with {typed}: add '~{section}.{key}' to the command"

    def _refuse_two_owners(self, path: str, models: Mapping[str, type[BaseModel]]) -> None:
        """Report a constructor of the user with a parameter that is also a key of Opsin's own options."""
        owners: dict[str, str] = {}
        for model in models.values():
            for name in model.model_fields:
                if name in owners:
                    self._add(path, f"{path}.{name} belongs to {owners[name]} and to {model.__name__}: rename one")
                owners.setdefault(name, model.__name__)

    def _refuse_inner_targets(self, path: str, values: Any) -> None:
        for inner in _inner_targets(values):
            place = f"{path}{inner}".lstrip(".")
            self._add(place, f"{place} is not accepted: only a section that needs a constructor may name one")

    def _nearest_key(self, key: str, names: Sequence[str], path: str) -> str:
        here = path.split(".")[0]
        for other, schema in self._schema.items():  # the right key in the wrong section
            fields = {name for options in schema.options.values() for name in signature_model(options).model_fields}
            if other != here and key in fields:
                return f": did you mean {f'{other}.{key}'.lstrip('.')}?"
        return _nearest(key, names, f"{path}.".lstrip("."))

    def _constructor(
        self, path: str, name: Any, constructors: Constructors | None, named: Iterable[str]
    ) -> Callable[..., Any] | None:
        assert constructors is not None
        place = f"{path}._target_"
        if name is None:
            group, _, own = path.partition(".")
            near = did_you_mean(own, {*named} - {own}, f"{group}.")
            way_out = f"{near} A new one needs" if near else ": add"
            self._add(
                place, f"{place} is missing{way_out} the dotted name of a constructor", self._origin.of_section(path)
            )
            return None
        try:
            return constructors.resolve(name)
        except UserError as error:
            self._add(place, f"{place}: {self._reason(name, error)}")
            return None

    def _reason(self, name: str, error: UserError) -> str:
        """Return why a constructor is refused. Packages without a permission are collected for one way out."""
        started = self._origin.source.project
        if isinstance(error, UnknownConstructorError) and started not in (None, ConfigSource().project):
            return (
                f"{name} is code of the project {started!r}, in which the run was started: start in that folder "
                f"(in Python, os.chdir({started!r}) before opsin.load)"
            )
        if isinstance(error, UnpermittedPackageError):
            self.unpermitted.append(error.package)
            return f"{name} is not accepted here"
        return str(error)

    def _add(self, path: str, message: str, otherwise: str = "") -> None:
        where = self._origin.of(path) or otherwise
        line = f"{message}  [set {where}]" if where else message
        if line not in self.problems:
            self.problems.append(line)


def _alternatives_joined(problems: Sequence[Any], values: Mapping[str, Any]) -> list[Any]:
    """Join the problems that the members of a union type report for one value into one problem."""
    joined: dict[tuple[Any, ...], Any] = {}
    for problem in problems:
        key, *members = problem["loc"]
        message = problem["msg"]
        place = _descend(values.get(key), members)[0] if message.startswith(EXPECTATION) else members
        first = joined.setdefault((key, str(place)), problem)
        if (alternative := message.removeprefix(EXPECTATION)) not in first["msg"]:
            joined[key, str(place)] = first | {"msg": f"{first['msg']} or {alternative}"}
    return list(joined.values())


def _without_repetition(reason: str) -> str:
    """Return a reason that lists values, without the numbers that it also lists as text: `'32', 'bf16' or 32`."""
    start, listed, values = reason.partition(LISTED)
    every = re.split(r", | or ", values)
    kept = [value for value in every if f"'{value}'" not in every]
    if not listed or len(kept) in (0, len(every)):
        return reason
    return f"{start}{listed}{' or '.join(filter(None, (', '.join(kept[:-1]), kept[-1])))}"


def _text_hint(problem: str, value: Any) -> str:
    """Return the way out for text that reads as a number or a boolean, such as the value of an environment variable."""
    reads: dict[str, Callable[[str], Any]] = {"int_type": int, "float_type": float, "bool_type": BOOLEANS.index}
    if problem not in reads or not isinstance(value, str):
        return ""
    try:
        reads[problem](value.lower())
    except ValueError:
        return ""
    return ': this is text; write it without quotes, or "${oc.decode:${oc.env:NAME}}" for a variable of the environment'


def _is_utf8(value: Any) -> bool:
    """Return whether all text in a value can be written as UTF-8; the name of a file may have other bytes."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True


def _nearest(key: str, names: Sequence[str], prefix: str = "") -> str:
    listed = f"; known here: {', '.join(sorted(names))}" if names else ""
    return did_you_mean(key, names, prefix) or listed


def _descend(value: Any, steps: Sequence[int | str]) -> tuple[str, Any]:
    """Return the place of a problem inside a nested value (`[0].epoch`), and the value there."""
    inside = ""
    for step in steps:
        if isinstance(step, int) and isinstance(value, list):  # an item that is missing has no value
            inside, value = f"{inside}[{step}]", value[step] if step < len(value) else None
        elif isinstance(value, Mapping):
            inside, value = f"{inside}.{step}", value.get(step)
        else:  # the name of a member of a union type
            break
    return inside, value


def _inner_targets(value: Any, path: str = "") -> Iterator[str]:
    """Return the places of `_target_` keys anywhere inside a value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "_target_":
                yield f"{path}.{key}"
            yield from _inner_targets(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _inner_targets(inner, f"{path}[{index}]")
