"""One sweep on three engines, each a real one started here: the same runs, the same numbers, the same table."""

import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from sweep_commands import finish, rows, runs

from engines.ray_nodes import ACCESS, RayNodes
from engines.slurm import HOME, Slurm

WORDS = ("model=mlp,cnn_gap", "seed=0,1", "trainer.max_epochs=2", "launcher.threads=1")
FAULT = ("+callbacks.fault._target_=faults.Fault", "+callbacks.fault.kind=none,segfault")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sweep on this machine, for comparison."""
    folder = tmp_path_factory.mktemp("local")
    finish(folder, *WORDS, *FAULT, code=1)
    return folder


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """Environment variables of a SLURM cluster of one node."""
    if importlib.util.find_spec("submitit") is None or not HOME.exists() or os.geteuid() != 0:
        pytest.skip("no SLURM to start: python tests/engines/slurm.py install (Debian, as root)")
    cluster = Slurm(tmp_path / "slurm")
    cluster.start()
    yield cluster.environment
    cluster.stop()


@pytest.fixture
def ray() -> Iterator[tuple[str, Mapping[str, str]]]:
    """Address of a Ray cluster of two nodes, and the environment variables for access."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install ray")
    nodes = RayNodes()
    yield nodes.address, ACCESS
    nodes.close()


def comparable_rows(folder: Path) -> list[tuple[str, ...]]:
    """The table of a sweep without values that depend on time."""
    return [
        tuple(row[name] for name in ("trial", "overrides", "val/loss", "val/acc", "test/acc", "epochs", "state"))
        for row in rows(folder)
    ]


def test_a_sweep_on_slurm_equals_a_local_sweep(local: Path, slurm: Mapping[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    folder.mkdir()
    finish(folder, *WORDS, *FAULT, "launcher=slurm", code=1, variables=slurm)
    assert comparable_rows(folder) == comparable_rows(local)
    assert all((run / "slurm").is_dir() for run in runs(folder))


def test_a_sweep_on_ray_equals_a_local_sweep(local: Path, ray: tuple[str, Mapping[str, str]], tmp_path: Path) -> None:
    address, access = ray
    folder = tmp_path / "sweep"
    folder.mkdir()
    finish(folder, *WORDS, *FAULT, "launcher=ray", f"launcher.address='{address}'", code=1, variables=access)
    assert comparable_rows(folder) == comparable_rows(local)
    segfaults = [row for row in rows(folder) if "segfault" in row["overrides"]]
    assert len(segfaults) == 4
    assert all("SIGSEGV" in row["reason"] for row in segfaults)
