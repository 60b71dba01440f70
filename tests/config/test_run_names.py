"""Names of run directories state the differences between runs."""

import re
from pathlib import Path

import pytest

from opsin.config import compose
from opsin.sweeps.jobs import Jobs
from opsin.sweeps.search_space import read_space


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "digits_cnn_gap"),
        (["datamodule=mnist", "model=mlp"], "mnist_mlp"),
        (["model=timm", "model.name=regnety_002"], "digits_timm_regnety_002"),
        (["experiment=mnist_lenet5"], "mnist_lenet5"),
        (["experiment=mnist_lenet5", "model=mlp"], "mnist_lenet5_mlp"),
        (["experiment=mnist_lenet5", "datamodule=digits"], "mnist_lenet5_digits"),
    ],
)
def test_a_run_is_named_by_its_experiment_or_its_data_and_network(words: list[str], name: str, in_tmp: Path) -> None:
    assert re.fullmatch(rf"\d\d-\d\d-\d\d_{name}_[0-9a-f]{{4}}", compose(words).run.path.name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["model=mlp,cnn_gap"], [["digits", "mlp"], ["digits", "cnn_gap"]]),
        (["experiment=mnist_lenet5,mnist_mlp"], [["mnist_lenet5"], ["mnist_mlp"]]),
        (
            ["model=timm", "model.name=resnet26,hf-hub:a/b"],
            [["digits", "timm_resnet26"], ["digits", "timm_hf-hub_a_b"]],
        ),
        (["experiment=mnist_mlp", "model=mlp,cnn_gap"], [["mnist_mlp", "mlp"], ["mnist_mlp", "cnn_gap"]]),
    ],
)
def test_the_runs_of_a_sweep_are_named_by_their_varying_overrides(overrides: list[str], names: list[list[str]]) -> None:
    space = read_space(overrides, {})
    jobs = Jobs(space)
    assert [jobs.names(space.overrides(choices)) for choices in space.grid()] == names
