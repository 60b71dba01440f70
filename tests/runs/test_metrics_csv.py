"""`metrics.csv` is read back as it was written."""

from pathlib import Path

import pytest

from opsin.errors import UserError
from opsin.runs.metrics_csv import EpochRow, read_epochs, write_epochs

ROWS = [EpochRow(1, 5, {"lr": 0.1, "train/loss": 1 / 3}), EpochRow(2, 10, {"lr": 1e-5, "val/acc": 0.5})]


def test_rows_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    write_epochs(file, ROWS)
    assert file.read_text().splitlines()[0] == "epoch,step,lr,train/loss,val/acc"
    assert read_epochs(file) == ROWS
    assert read_epochs(file)[0].get("val/acc") is None
    assert read_epochs(tmp_path / "none.csv") == []


def test_an_epoch_that_occurs_twice_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("epoch,step,val/acc\n2,10,0.1\n1,5,0.2\n2,10,0.3\n")
    assert [(row.epoch, row.get("val/acc")) for row in read_epochs(file)] == [(1, 0.2), (2, 0.3)]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"epoch,step\nx,1\n", b"step,val/acc\n1,2\n", b"epoch,lr\n1,fast\n"])
def test_a_damaged_table_gives_one_clear_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "metrics.csv"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"metrics\.csv is damaged"):
        read_epochs(file)
