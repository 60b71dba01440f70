"""`opsin summary`: layers of one network, two networks compared, and the table of classic networks."""

from pathlib import Path

import pytest

from opsin.commands.summary import main

ONE = ("model.widths=[1]", "model.bias=false", "--logits", "1")


def test_layers_and_a_comparison_are_printed(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=cnn_kernels", "model.kernels=[3]", *ONE, "--against", "model.kernels=[[1,3],[3,1]]"]) == 0
    out = capsys.readouterr().out
    assert "layers of cnn_gap for images 1x28x28" in out
    assert "block1: parameters 9 against 6 (-33.3%)" in out
    assert "1x3" in out
    assert "float32 memory for one image: input 0.00 MB" in out
    assert list(in_tmp.iterdir()) == []
    assert main(["model=cnn_kernels", "model.kernels=[7]", *ONE, "--against", "model.kernels=[3,3,3]"]) == 0
    assert "block1: parameters 49 against 27 (-44.9%)" in capsys.readouterr().out


def test_weights_give_the_size_and_the_config_the_trainable_stages(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model=resnet18_partial", "--logits", "1"]) == 0
    out = capsys.readouterr().out
    assert "resnet18 for images 3x224x224" in out
    assert "8,394,241" in out
    assert main(["model=resnet18_partial", "--image", "1x64x96"]) == 0
    assert "resnet18 for images 1x64x96" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=cnn_gap", "--out", "x.md"], "--out has an effect with --classic only"),
        (["model=cnn_gap", "--logits", "0"], "--logits 0: a network has at least one output"),
        (["--classic", "model=mlp"], "--classic prints a fixed table"),
        (["--classic", "--logits", "3"], "--classic prints a fixed table"),
        (["--classic", "--logits", "10"], "--classic prints a fixed table"),
        (["-m", "model=cnn_gap"], "summary describes one config: leave out --multirun"),
        (["model=cnn_gap", "--image", "1x8x8"], "cnn_gap needs images of at least 18x18 pixels"),
        (["model=cnn_kernels", "model.kernels=[]"], "model.kernels"),
        (["model=cnn_kernels", "model.kernels=[[3]]"], "model.kernels"),
        (["model=cnn_kernels", "model.widths=[0]"], "model.widths"),
    ],
)
def test_invalid_arguments_are_reported(
    arguments: list[str], message: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("out", ["folder", "file/page.md", "."])
def test_a_page_that_cannot_be_written_is_named(out: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (in_tmp / "folder").mkdir()
    (in_tmp / "file").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("opsin.models.summary.classic_networks.classic_page", lambda found: "page")
        assert main(["--classic", "--out", out]) == 1
    assert f"cannot write {out} (" in (said := capsys.readouterr().err)
    assert "set --out to another path" in said
    assert sorted(path.name for path in in_tmp.iterdir()) == ["file", "folder"]


def test_a_wrong_shape_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["model=cnn_gap", "--image", "28"])
    assert "28 is not a shape such as 3x224x224" in capsys.readouterr().err


def test_the_table_of_classic_networks_is_written(
    in_tmp: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from opsin.models.summary import classic_networks

    monkeypatch.setattr(classic_networks, "CLASSIC", classic_networks.CLASSIC[:1])
    assert main(["--classic", "--out", "page.md"]) == 0
    assert capsys.readouterr().out == "page.md\n"
    (row,) = [line for line in Path("page.md").read_text().splitlines() if "LeNet-5" in line]
    assert row.startswith("| LeNet-5, 1998 | `lenet5` | 1x32x32 | 61,706 | 0.42 M | 0.25 |")
