"""`opsin prepare-data`: each option of shards has an effect or is refused, and the printed command reads the shards."""

import shlex
from pathlib import Path

import pytest
from disks import mounted

from opsin.commands.prepare_data import _parser, _training, main
from opsin.config.overrides import find_value
from opsin.runs.quoting import override


@pytest.mark.parametrize(
    "option", [["--encoding", "jpeg"], ["--quality", "9"], ["--shard-mb", "1"], ["--endpoint-url", "x"]]
)
def test_an_option_without_shards_is_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["digits", *option]) == 1
    assert f"{option[0]} has an effect on shards only: add --shards OUT" in capsys.readouterr().err


def test_a_quality_without_jpeg_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["digits", "--shards", "out", "--quality", "9"]) == 1
    assert "--quality is that of JPEG files: add --encoding jpeg" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["nan", "inf", "-inf", "1e305", "0", "-1", "1e-9", "much"])
def test_a_size_that_is_no_number_of_megabytes_is_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["digits", "--shards", "out", f"--shard-mb={size}"])
    assert f"{size} is not a size in MB, such as 64" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--shards", "--endpoint-url"])
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_option_is_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["digits", option, value])
    assert f"argument {option}: is empty" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["2001", "5e3"])
def test_a_shard_too_large_for_its_format_is_refused(
    size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["digits", "--shards", str(tmp_path / "out"), f"--shard-mb={size}", f"data_dir={tmp_path}"]) == 1
    assert f"A shard of {float(size):,.0f} MB is too large for litdata's format" in capsys.readouterr().err


def test_a_server_of_a_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--shards", str(tmp_path / "out"), "--endpoint-url", "http://localhost:9000"]
    assert main(["digits", *words, f"data_dir={tmp_path}"]) == 1
    assert f"endpoint_url does not apply to {tmp_path / 'out'}" in capsys.readouterr().err


@pytest.mark.parametrize("megabytes", [0.02, 0.4, 1.2])
def test_a_disk_too_small_for_shards_is_named(
    megabytes: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("litdata")
    with mounted(tmp_path / "disk", megabytes) as disk:
        assert main(["digits", "--shards", str(disk.path / "out"), f"data_dir={tmp_path}"]) == 1
        error = capsys.readouterr().err
        assert f"cannot write {disk.path / 'out'}: the disk {disk.path} has too little free space" in error
        assert not [*(disk.path / "out").rglob(".*"), *(disk.path / "out").glob("opsin.json")]


def test_the_printed_command_names_the_server() -> None:
    words = ["--shards", "s3://bucket/digits", "--shard-mb", "0.5", "--endpoint-url", "http://localhost:9000"]
    options = _parser().parse_args(words)
    assert options.shard_bytes == 500_000
    command = _training(options)
    assert override("datamodule.path", "s3://bucket/digits") in command
    assert override("datamodule.storage_options.endpoint_url", "http://localhost:9000") in command
    assert "endpoint_url" not in _training(_parser().parse_args(words[:2]))


@pytest.mark.parametrize("folder", ["photos", "my photos"])
def test_a_folder_gets_the_command_that_prepares_its_images(
    folder: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_tmp / folder).mkdir()
    assert main([folder]) == 1
    words = shlex.split(capsys.readouterr().err.split(" is a folder: ")[1].split(" prepares ")[0])
    assert words[-3:-1] == ["prepare-data", "image_folder"]
    assert find_value(words, "datamodule.path") == folder
