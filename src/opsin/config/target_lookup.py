"""Targets: the lookup of a constructor that a config names as `_target_`, and the permission for packages of the user.

`opsin.training.permitted_targets` states which names are permitted.

A config is data, and a run directory may come from somebody else. A section therefore accepts only names on its own
list of public constructors. A package of the user needs a permission from the environment or from the project in which
the command starts, never from a run directory. Nothing is imported before the permission is known.
"""

import functools
import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from opsin.config.project import find_project
from opsin.config.secrets import reveal
from opsin.config.target_refusal import TARGETS_VARIABLE, UnknownConstructorError, accepted_names, refusal
from opsin.errors import Interrupted, RestartTraining, UserError, did_you_mean, in_own_code, is_out_of_memory
from opsin.runs.disk_errors import explanation

LIBRARIES = ("torch", "torchvision", "timm", "lightning")
"""Packages whose constructors a config may name, besides Opsin and the packages of the user."""

T = TypeVar("T")
Accepts = Callable[[Any], bool]


@dataclass(frozen=True)
class Target(Generic[T]):
    """A constructor that the config names, with checked arguments.

    Attributes:
        call: The constructor.
        arguments: The arguments from the config; defaults stay with the constructor.
    """

    call: Callable[..., T]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the constructor, for messages."""
        return getattr(self.call, "__name__", str(self.call))

    def takes(self, name: str) -> bool:
        """Return whether the constructor has a parameter of this name."""
        return name in inspect.signature(self.call).parameters

    def build(self, **computed: Any) -> T:
        """Call the constructor with the arguments of the config and the computed values that it takes.

        References to secrets in the arguments are replaced by the secrets here and nowhere else.

        Raises:
            UserError: A constructor of a library refuses the arguments, or needs a package that is not installed; or
                one of the user fails, and the message names the line of its code.
        """
        taken = {name: value for name, value in computed.items() if self.takes(name)}
        try:
            return self.call(**reveal(self.arguments), **taken)
        except Exception as error:
            package = self.call.__module__.partition(".")[0]
            if package == "opsin" or _has_message(error):
                raise  # an error in code of Opsin needs its traceback
            reason = error if package in LIBRARIES else in_own_code(error)
            raise UserError(f"{self.call.__qualname__} cannot be created: {reason}") from error


def _has_message(error: Exception) -> bool:
    """Return whether another part of Opsin turns an error into a message, or waits for it."""
    if isinstance(error, OSError) and explanation(error):
        return True
    return isinstance(error, UserError | Interrupted | RestartTraining) or is_out_of_memory(error)


@dataclass(frozen=True)
class Constructors:
    """The constructors that one section of the config accepts as `_target_`.

    Attributes:
        packages: Packages whose public names (`__all__`, if there is one) are accepted, each with a test for a single
            object.
        own: The test for an object from a permitted package of the user.
        replaced: Refused schedules of these packages, and the words of the command line that replace them.
    """

    packages: Mapping[str, Accepts]
    own: Accepts
    replaced: Mapping[str, str] = field(default_factory=dict)

    @property
    def by_name(self) -> Mapping[str, Callable[..., Any]]:
        """The accepted constructors by their public dotted names."""
        return {
            name: found
            for package, accepts in self.packages.items()
            for name, found in _accepted(package, accepts).items()
        }

    def resolve(self, name: Any) -> Callable[..., Any]:
        """Return the constructor of a dotted name; only the package that the name lies in is imported.

        Raises:
            UserError: The name is not accepted here or does not exist.
        """
        if not isinstance(name, str):
            raise UserError(f"must be the dotted name of a constructor, not {name!r}")
        parent = name.rpartition(".")[0]
        if parent in self.packages and name in (found := _accepted(parent, self.packages[parent])):
            return found[name]
        if package := _permitted_package(name):
            return _import_own(name, package, self.own)
        raise self._refusal(name)

    def _refusal(self, name: str) -> UserError:
        if name.partition(".")[0] not in ("opsin", *LIBRARIES):
            return refusal(name, self.packages, self.by_name, permitted_packages())
        if instead := self.replaced.get(name):
            return UserError(f"{name} is not accepted: a resume could not change its options. Use {instead}")
        last = name.rpartition(".")[2]
        near = did_you_mean(name, [known for known in self.by_name if known.endswith(f".{last}")] or self.by_name)
        accepted = accepted_names(self.packages, permitted_packages())
        return UserError(f"{name} is not accepted here{near or f'; accepted: {accepted}'}")


def subclasses_of(kind: type) -> Accepts:
    """Return a test for concrete subclasses of a class."""

    def accepts(found: Any) -> bool:
        return (
            inspect.isclass(found) and issubclass(found, kind) and found is not kind and not inspect.isabstract(found)
        )

    return accepts


def functions_returning(kind: type) -> Accepts:
    """Return a test for functions whose annotation promises an object of a class."""

    def accepts(found: Any) -> bool:
        return inspect.isfunction(found) and found.__annotations__.get("return") is kind

    return accepts


def functions_or_subclasses_of(kind: type) -> Accepts:
    """Return a test for functions of the user, with or without annotations, and for concrete subclasses."""
    is_subclass = subclasses_of(kind)

    def accepts(found: Any) -> bool:
        return inspect.isfunction(found) or is_subclass(found)

    return accepts


def permitted_packages() -> tuple[str, ...]:
    """Return the packages of the user that the environment and the project of the working directory permit."""
    named = os.environ.get(TARGETS_VARIABLE, "").split(",")
    project = find_project()
    return tuple(
        dict.fromkeys(name for name in [*map(str.strip, named), *(project.targets if project else ())] if name)
    )


def is_permitted(name: str) -> bool:
    """Return whether a package or module is permitted as a package of the user, or lies in one that is."""
    return _permitted_package(f"{name}.any") is not None


def _permitted_package(name: str) -> str | None:
    """Return the permitted package that a public dotted name lies in, if there is one."""
    parts = name.split(".")
    if not all(part.isidentifier() and not part.startswith("_") for part in parts):
        return None
    return next((package for package in permitted_packages() if name.startswith(f"{package}.")), None)


def _import_own(name: str, package: str, accepts: Accepts) -> Callable[..., Any]:
    """Import a constructor from a permitted package of the user."""
    module_name, _, attribute = name.rpartition(".")
    if project := find_project():
        project.make_importable()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's code runs here and may raise anything
        is_missing = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
        kind = UnknownConstructorError if is_missing else UserError
        raise kind(f"{name} cannot be imported: {in_own_code(error)}") from error
    if project:
        project.refuse_other_copy(package)
    found = getattr(module, attribute, None)
    if found is None:
        public = {f"{module_name}.{other}" for other in dir(module) if not other.startswith("_")}
        raise UnknownConstructorError(f"{name} does not exist{did_you_mean(name, public)}")
    defined_in = str(getattr(found, "__module__", None))
    if not f"{defined_in}.".startswith(f"{package}.") or inspect.ismodule(found):
        raise UserError(
            f"{name} is not defined in {package}; give the name of the module in which it is defined, "
            "followed by its own name"
        )
    if not accepts(found):
        raise UserError(f"{name} is not a constructor for this section")
    return found  # type: ignore[no-any-return]


@functools.cache
def _accepted(package: str, accepts: Accepts) -> Mapping[str, Callable[..., Any]]:
    """Return the accepted constructors of a package by their dotted names; the package is imported only now."""
    module = importlib.import_module(package)
    public = getattr(module, "__all__", None) or [
        name for name, found in vars(module).items() if str(getattr(found, "__module__", "")).startswith(package)
    ]
    objects = {f"{package}.{name}": getattr(module, name) for name in public if not name.startswith("_")}
    return {name: found for name, found in objects.items() if accepts(found)}
