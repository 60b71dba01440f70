"""The messages for a `_target_` that a section does not accept.

They name the accepted packages and the nearest name. Files of the project are looked at, and no code of the user is
imported.
"""

import json
import sys
from collections.abc import Iterable, Sequence

from opsin.config.project import PROJECT_FILE, find_project
from opsin.errors import UserError, did_you_mean, nearest

TARGETS_VARIABLE = "OPSIN_TARGETS"
"""Environment variable that permits packages of the user, separated by commas."""

SIMILAR = 0.8
"""Smallest similarity of a suggested name, if the package of a name is not known."""


class UnknownConstructorError(UserError):
    """A constructor lies in no permitted package, or does not exist there. Another project may have it."""


class UnpermittedPackageError(UnknownConstructorError):
    """The constructor lies in a package of the project that has no permission.

    Attributes:
        package: The package.
    """

    def __init__(self, name: str, package: str) -> None:
        super().__init__(f"{name} is not accepted here: {permission([package])}")
        self.package = package


def permission(packages: Iterable[str]) -> str:
    """Return the instruction to permit packages of the project."""
    project = find_project()
    assert project is not None
    line = f"targets = {json.dumps([*dict.fromkeys([*project.targets, *packages])], ensure_ascii=False)}"
    return f"to permit the code of the project, write {line} under [tool.opsin] in {project.root / PROJECT_FILE}"


def refusal(name: str, packages: Iterable[str], public: Iterable[str], permitted: Sequence[str]) -> UserError:
    """Return the error for a name that lies in no library.

    Args:
        name: The name.
        packages: Packages of libraries that the section accepts.
        public: The accepted names in them.
        permitted: Permitted packages of the user.
    """
    if package := next((package for package in permitted if name.startswith(f"{package}.")), None):
        return UserError(f"{name} is not accepted here: names in {package} that begin with _ are private")
    top = name.partition(".")[0]
    if (project := find_project()) and project.has_code_of(name):
        return UnpermittedPackageError(name, top)
    near = _forgotten(name, permitted) or _misspelled(name, permitted) or _of_library(name, public)
    may_be_own = top not in sys.stdlib_module_names and name.replace(".", "").isidentifier()
    kind = UnknownConstructorError if may_be_own else UserError
    accepted = accepted_names(packages, permitted)
    if near:
        return kind(f"{name} is not accepted here{near} Accepted: {accepted}.")
    return kind(
        f"{name} is not accepted here; accepted: {accepted}. To use {'another' if permitted else 'your own'} package, "
        f'set {TARGETS_VARIABLE}=my_package, or targets = ["my_package"] under [tool.opsin] in the {PROJECT_FILE} of '
        "your project"
    )


def accepted_names(packages: Iterable[str], permitted: Sequence[str]) -> str:
    """Return the packages in which a name is accepted, such as `opsin.models.NAME and names in my_project`."""
    libraries = ", ".join(f"{package}.NAME" for package in packages)
    own = f"names in {', '.join(permitted)}" if permitted else ""
    return " and ".join(filter(None, [libraries, own])) or "names in a permitted package"


def _forgotten(name: str, permitted: Sequence[str]) -> str:
    """Return the suggestion for a name without its package, if the project has a file of the module."""
    project, module = find_project(), name.rpartition(".")[0]
    found = [package for package in permitted if project and module and project.places_of(f"{package}.{module}")]
    return f": did you mean {found[0]}.{name}?" if found else ""


def _misspelled(name: str, permitted: Sequence[str]) -> str:
    """Return the suggestion for a name whose package is similar to a permitted one."""
    for package in permitted:
        parts, length = name.split("."), package.count(".") + 1
        if len(parts) > length and nearest(".".join(parts[:length]), [package], cutoff=SIMILAR):
            return f": did you mean {'.'.join([package, *parts[length:]])}?"
    return ""


def _of_library(name: str, public: Iterable[str]) -> str:
    """Return the suggestion of a name in a library that ends equally or is very similar."""
    names = list(public)
    same_end = [known for known in names if known.endswith(f".{name.rpartition('.')[2]}")]
    return did_you_mean(name, same_end or nearest(name, names, cutoff=SIMILAR))
