"""requirements.lock: exact versions with hashes of everything that the Makefile installs, and no address."""

import re
import tomllib

import pytest
from lock_file import LOCK, ROOT, locked
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
PYTHONS = ("3.11.0", "3.11.9", "3.12.9", "3.13.5")


def environment(python: str) -> dict[str, str]:
    short = ".".join(python.split(".")[:2])
    linux = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
    return {**linux, "python_version": short, "python_full_version": python, "extra": ""}


def needed() -> list[Requirement]:
    """Return the dependencies of Opsin, those of each extra that the Makefile installs, and the build tools."""
    extras = PROJECT["project"]["optional-dependencies"]
    installed = re.search(r"EXTRAS := (\S+)", MAKEFILE)[1].split(",")
    texts = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"], "editables", "setuptools"]
    pending, seen = list(installed), set()
    while pending:
        if (extra := pending.pop()) in seen:
            continue
        seen.add(extra)
        for requirement in map(Requirement, extras[extra]):
            if requirement.name == "opsin":
                pending += requirement.extras
            else:
                texts.append(str(requirement))
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_one_version_in_range_for_each_dependency(python: str) -> None:
    entries, here = locked(), environment(python)
    assert len(needed()) > 40
    for requirement in needed():
        if requirement.marker and not requirement.marker.evaluate(here):
            continue
        found = [
            entry
            for entry in entries.get(canonicalize_name(requirement.name), [])
            if entry.requirement.marker is None or entry.requirement.marker.evaluate(here)
        ]
        assert len(found) == 1, f"{requirement.name} has {len(found)} versions for Python {python}: make lock"
        assert requirement.specifier.contains(found[0].version, prereleases=True), f"{requirement}: make lock"


def test_each_entry_has_hashes_and_no_address_is_named() -> None:
    entries = [entry for found in locked().values() for entry in found]
    assert len(entries) > 250
    assert all(entry.hashes for entry in entries)
    for word in ("://", "--index", "--extra-index", "--find-links", "--trusted-host", "-e "):
        assert word not in LOCK.read_text()


def test_the_makefile_installs_with_hashes_and_downloads_no_build_tools() -> None:
    installs = [line for line in MAKEFILE.splitlines() if line.startswith("\t$(PIP)")]
    linux, other = installs[:3], installs[3:]
    assert all("--require-hashes" in line for line in linux[:2])
    assert all("--no-build-isolation" in line for line in linux[1:])
    assert linux[2].strip() == "$(PIP) --no-deps --no-build-isolation -e ."
    assert [line.strip() for line in other] == ["$(PIP) -e '.[$(EXTRAS)]'"]


def test_lower_bounds_exclude_versions_that_run_code_of_files() -> None:
    """torch: CVE-2026-24747. datasets: scripts of datasets. tensorboard: settings of the projector."""
    bounds = {found.name: found.specifier for found in needed()}
    assert not bounds["torch"].contains("2.10.0")
    assert not bounds["datasets"].contains("3.6.0")
    assert not bounds["lightning"].contains("2.6.3")
    assert not bounds["tensorboard"].contains("2.20.0")
    assert not bounds["pyarrow"].contains("14.0.0")
