"""Damaged checkpoints are recognized, and every command offers the other one."""

import shutil
from pathlib import Path

import pytest
import torch
from damage import DAMAGE, flip_bit

from opsin.errors import UserError
from opsin.runs.checkpoint_files import choose_checkpoint, fault_of
from opsin.runs.directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    torch.save({"state_dict": {f"network.{i}": torch.arange(500.0) + i for i in range(3)}}, run.best)
    shutil.copyfile(run.best, run.last)
    return run


@pytest.mark.parametrize("kind", DAMAGE)
def test_every_kind_of_damage_is_recognized(run: RunDirectory, kind: str) -> None:
    assert fault_of(run.best) is None
    DAMAGE[kind](run.best)
    assert fault_of(run.best)
    with pytest.raises(UserError, match=r"best\.ckpt .*last\.ckpt is intact: add --checkpoint last") as raised:
        choose_checkpoint(run)
    assert str(raised.value).count("\n") == 0
    assert choose_checkpoint(run, "last") == run.last
    assert choose_checkpoint(run, str(run.last)) == run.last


def test_every_byte_of_the_weights_is_checked(run: RunDirectory) -> None:
    size = 4 * 500
    for entry in range(3):
        for byte in (0, size // 2, size - 1):
            flip_bit(run.best, f"/data/{entry}", byte)
            assert "checksum" in str(fault_of(run.best))
            flip_bit(run.best, f"/data/{entry}", byte)
            assert fault_of(run.best) is None


def test_without_an_intact_checkpoint_both_are_named(run: RunDirectory) -> None:
    run.last.write_bytes(b"")
    run.best.unlink()
    with pytest.raises(UserError, match=r"last\.ckpt is empty, best\.ckpt is missing; resume the run with"):
        choose_checkpoint(run, "last")
    with pytest.raises(UserError, match=r"nowhere\.ckpt is missing; give best, last, or the path"):
        choose_checkpoint(run, str(run.path / "nowhere.ckpt"))
