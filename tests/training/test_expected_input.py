"""Weights of a file bring the images that the file states, as those of a run directory do."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from opsin.commands.export import export_weights
from opsin.config import compose
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.quoting import override
from opsin.training import build
from opsin.training.plan import RunPlan, make_plan

STATED = {
    "image_size": [20, 24],
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
    "channels": 3,
    "resize": "crop",
    "interpolation": "nearest",
}


def weights_file(place: Path, stated: dict[str, object]) -> Path:
    """Write a file of weights that states on which images they were trained, in the way of its suffix."""
    tensors = {"weight": torch.zeros(1)}
    if place.suffix == ".safetensors":
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in stated.items()}
        save_file(tensors, place, metadata=texts)
    else:
        torch.save({"state_dict": tensors, **({"opsin": {"data": stated}} if stated else {})}, place)
    return place


def expected_from(place: Path | str, *words: str) -> tuple[build.ExpectedInput, RunPlan]:
    plan = make_plan(compose(["datamodule=digits", *words, override("model.weights", place)], Path("run")))
    return build.expected_input(plan), plan


@pytest.mark.parametrize("model", ["cnn_gap", "resnet18_partial"])
@pytest.mark.parametrize("name", ["last.ckpt", "other name.pt", "exported.safetensors"])
def test_files_that_state_their_images_are_read_like_the_run(name: str, model: str, in_tmp: Path) -> None:
    place = weights_file(in_tmp / name, {**STATED, "classes": ["a"]})
    expected, plan = expected_from(place, f"model={model}", "datamodule.std=0.7")
    assert expected == build.ExpectedInput((20, 24), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "nearest")
    if model != "cnn_gap":  # which takes gray images
        data = build.data(plan)
        assert (data.image_size, data.interpolation) == ((20, 24), "nearest")
        assert (data.preprocess.mean, data.preprocess.std) == ((0.1, 0.2, 0.3), (0.7,) * 3)  # the config comes first


@pytest.mark.parametrize("stated", [{}, {"format": "pt"}, {**STATED, "std": None} | {"resize": None}])
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_other_files_have_the_facts_of_published_weights(suffix: str, stated: dict[str, object], in_tmp: Path) -> None:
    stated = {key: value for key, value in stated.items() if value is not None}
    expected, _ = expected_from(weights_file(in_tmp / f"weights{suffix}", stated), "model=resnet18_partial")
    assert (expected.image_size, expected.mean) == ((224, 224), (0.485, 0.456, 0.406))


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_file_that_states_its_images_wrongly_is_refused(suffix: str, in_tmp: Path) -> None:
    place = weights_file(in_tmp / f"weights{suffix}", {**STATED, "mean": "gray"})
    with pytest.raises(UserError, match=rf"weights{suffix} does not state correctly .*\(mean: ") as error:
        expected_from(place)
    assert "replace it with an intact copy" in str(error.value)


@pytest.mark.slow
def test_checkpoints_and_exported_weights_of_a_run_are_read_like_the_run(
    digits_run: RunDirectory, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_weights(digits_run, "safetensors", in_tmp / "weights.safetensors")
    said = export_weights(digits_run, "state_dict", in_tmp / "weights.pt")
    of_run, _ = expected_from(digits_run.path)
    assert of_run.mean is not None
    for place in (digits_run.last, digits_run.best, in_tmp / "weights.safetensors"):
        assert expected_from(place)[0] == of_run
    monkeypatch.setenv("HOME", str(digits_run.path.parent))
    assert expected_from(f"~/{digits_run.path.name}")[0] == of_run
    words = shlex.split(said.partition("in Opsin: ")[2])  # a state dict has no metadata
    options = make_plan(compose(["datamodule=digits", *words], Path("run"))).data
    assert (options.image_size, options.mean, options.std, options.interpolation) == tuple(vars(of_run).values())
