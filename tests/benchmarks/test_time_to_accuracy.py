"""Time to accuracy and seconds per photograph: figures, goals, and the command."""

import json
from pathlib import Path

import pytest

from benchmarks.feature_caching import Slope
from benchmarks.main import main
from benchmarks.time_to_accuracy import RECIPES, Trained, goals_of
from benchmarks.workloads import Workload
from opsin.config.suggestions import config_options

RUNS = [Trained(0.993, 3.0, 2.0), Trained(0.992, 4.0, 2.0), Trained(0.994, 8.0, 4.0)]


def test_means_with_intervals_are_compared_with_the_goals() -> None:
    accuracy, seconds = goals_of(RECIPES["mnist_fast"], RUNS, real=True)
    assert (accuracy.met, accuracy.value) == (True, pytest.approx(0.993))
    assert accuracy.text == "99.30 ± 0.25 %, median 99.30%, n=3"
    assert (seconds.met, seconds.value) == (False, 5.0)  # the mean, not the minimum
    assert seconds.text == "5.00 ± 6.57 s, median 4.00 s, n=3; 2.00 times the bare loop (median 2.00 s)"


@pytest.mark.parametrize(("runs", "real"), [(RUNS, False), ([], True)])
def test_synthetic_images_and_failed_runs_have_no_accuracy(runs: list[Trained], real: bool) -> None:
    accuracy, seconds = goals_of(RECIPES["mnist_fast"], runs, real)
    assert accuracy.status == "not measured"
    assert seconds.status == ("not met" if runs else "not measured")


def test_the_recipes_exist_and_set_everything_but_the_images() -> None:
    assert set(RECIPES) <= set(config_options()["experiment"])
    work = Workload("x", "steps", "mnist", "", 0, 1, ("bare_same",), (1, 1, 1), experiment="mnist_fast")
    assert work.command(Path("images")) == ["experiment=mnist_fast", "datamodule.path=images"]


def test_start_up_does_not_count_in_seconds_per_photograph() -> None:
    assert Slope((100, 300), (10.0, 14.0)).per_image == pytest.approx(0.02)


@pytest.mark.slow
def test_the_command_trains_a_recipe_and_writes_its_figures(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    options = ["--quick", "--threads", "1", "--only", "mnist_fast", "--data-dir", str(tmp_path / "none")]
    assert main([*options, "--json", str(figures), "--work-dir", str(tmp_path)]) == 0
    found = json.loads(figures.read_text())
    (run,) = found["extras"]["mnist_fast"]["runs"]
    assert run["fit"] > 0
    assert run["bare"] > 0
    assert [goal["status"] != "not measured" for goal in found["goals"]] == [False, True]
