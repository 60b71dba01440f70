"""Permission for packages of the user: its sources, its scope, and that no package is imported without it."""

import errno
import json
import sys
from pathlib import Path

import pytest
from torch import nn

from opsin.config.target_lookup import (
    Constructors,
    Target,
    functions_or_subclasses_of,
    permitted_packages,
    subclasses_of,
)
from opsin.errors import Interrupted, UserError

OWN = Constructors({"json": subclasses_of(json.JSONEncoder)}, own=functions_or_subclasses_of(dict))

MODULE = """
import os
from pathlib import Path
from os import system, path
from collections import OrderedDict

Path(__file__).with_name("imported").touch()

def network():
    return 1

def _private():
    return 2

class Settings(dict):
    pass

number = 3
"""


@pytest.fixture
def package(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the user that leaves a file behind when it is imported."""
    folder = in_tmp / "site" / "mine"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "parts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(in_tmp / "site"))
    yield folder
    for name in ("mine", "mine.parts"):
        sys.modules.pop(name, None)


def test_a_package_without_permission_is_not_imported(package: Path) -> None:
    with pytest.raises(UserError, match=r"mine\.parts\.network is not accepted here.*OPSIN_TARGETS"):
        OWN.resolve("mine.parts.network")
    assert not (package / "imported").exists()


@pytest.mark.parametrize("value", ["mine", "other, mine", "mine.parts"])
def test_the_environment_permits_a_package(package: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", value)
    assert OWN.resolve("mine.parts.network")() == 1
    assert issubclass(OWN.resolve("mine.parts.Settings"), dict)


def test_a_permission_covers_no_package_of_a_longer_name(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "min")
    with pytest.raises(UserError):
        OWN.resolve("mine.parts.network")
    assert not (package / "imported").exists()


@pytest.mark.parametrize("below", [".", "deep/er"])
def test_the_project_of_the_working_directory_permits_a_package(
    package: Path, in_tmp: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    (in_tmp / "pyproject.toml").write_text('[tool.opsin]\ntargets = ["mine"]\n')
    (in_tmp / below).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(in_tmp / below)
    assert permitted_packages() == ("mine",)
    assert OWN.resolve("mine.parts.network")() == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mine.parts._private", "is not accepted here"),
        ("mine.parts.__loader__", "is not accepted here"),
        ("mine.parts.os", "is not defined in mine"),
        ("mine.parts.system", "is not defined in mine"),
        ("mine.parts.OrderedDict", "is not defined in mine"),
        ("mine.parts.os.system", "cannot be imported"),
        ("mine.parts.path.join", "cannot be imported"),
        ("mine.parts.number", "is not defined in mine"),
        ("mine.parts.netwrok", r"does not exist: did you mean mine\.parts\.network\?"),
        ("mine.missing.network", "cannot be imported"),
        ("mine.parts", "does not exist|is not defined in mine"),
    ],
)
def test_in_a_permitted_package_only_its_own_public_constructors_are_accepted(
    package: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "mine")
    with pytest.raises(UserError, match=reason):
        OWN.resolve(name)


def test_a_class_of_another_kind_is_refused(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "mine")
    callbacks = Constructors({}, own=subclasses_of(json.JSONEncoder))
    for name in ("Settings", "network"):
        with pytest.raises(UserError, match="is not a constructor for this section"):
            callbacks.resolve(f"mine.parts.{name}")


def test_a_module_of_the_user_that_fails_is_named(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "parts.py").write_text("1 / 0\n")
    monkeypatch.setenv("OPSIN_TARGETS", "mine")
    with pytest.raises(
        UserError, match=r"network cannot be imported: ZeroDivisionError: .* \(.*parts\.py:1, in <module>: 1 / 0\)$"
    ):
        OWN.resolve("mine.parts.network")


class Broken:
    """Constructors of the user that fail."""

    def no_super(self) -> None:
        module = nn.Linear.__new__(nn.Linear)
        module.inner = nn.ReLU()

    def in_python(self) -> None:
        json.loads("{")

    def raised(self, error: Exception) -> None:
        raise error


FAILS = {
    "no_super": r"AttributeError: cannot assign module before .*py:\d+, in no_super: module\.inner = nn\.ReLU\(\)\)$",
    "in_python": r"JSONDecodeError: .*py:\d+, in in_python: json\.loads\(\"\{\"\)\)$",
}


@pytest.mark.parametrize("name", FAILS)
def test_an_error_in_a_constructor_of_the_user_is_named_with_its_line(name: str) -> None:
    with pytest.raises(UserError, match=rf"^Broken\.{name} cannot be created: {FAILS[name]}") as caught:
        Target(getattr(Broken(), name)).build()
    assert caught.value.__cause__ is not None  # its traceback is saved with the run


@pytest.mark.parametrize(
    "error", [UserError("a way out"), MemoryError(), Interrupted(2), OSError(errno.ENOSPC, "No space left on device")]
)
def test_an_error_with_a_message_of_its_own_leaves_a_constructor_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        Target(Broken().raised, {"error": error}).build()
    assert caught.value is error


@pytest.mark.parametrize("name", [None, 3, ["json"], ""])
def test_values_that_are_not_names_are_refused(name: object) -> None:
    with pytest.raises(UserError):
        OWN.resolve(name)
