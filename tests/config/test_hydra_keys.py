"""Hydra's own keys have an effect or are refused by name."""

from pathlib import Path

import pytest

from opsin.commands.train_cli import main
from opsin.config import ConfigSource, compose, compose_raw
from opsin.config.compose import compose_trial
from opsin.errors import UserError
from opsin.sweeps.sweep import sweep


@pytest.mark.parametrize(
    ("override", "way_out"),
    [
        ("hydra.job.chdir=true", "hydra.run.dir"),
        ("hydra.output_subdir=.hydra", r"config\.yaml"),
        ("+hydra.callbacks.x._target_=a.B", r"callbacks\.NAME"),
        ("hydra/sweeper=basic", "sweep=search"),
        ("hydra.sweeper.max_batch_size=2", "sweep=search"),
        ("hydra/launcher=basic", "launcher=local"),
        ("hydra.mode=MULTIRUN", "--multirun"),
        ("~hydra.callbacks", r"callbacks\.NAME"),
        ("hydra/env=default", r"hydra\.job\.env_set"),
    ],
)
def test_a_key_without_an_effect_is_refused(override: str, way_out: str) -> None:
    with pytest.raises(UserError, match=f"has no effect in Opsin: .*{way_out}") as error:
        compose_raw(["model=mlp", override])
    assert str(error.value).startswith(override)


def test_a_key_without_an_effect_in_a_file_is_refused(tmp_path: Path) -> None:
    for text, key in (("job: {chdir: true}", "job.chdir"), ("callbacks: {x: {_target_: a.B}}", "callbacks")):
        (tmp_path / "mine.yaml").write_text(f"defaults: [train, _self_]\nhydra:\n  {text}\n")
        with pytest.raises(UserError, match=f"hydra.{key} in a config file has no effect"):
            compose_raw([], ConfigSource.of([str(tmp_path)], "mine"))


def test_keys_with_an_effect_are_kept(in_tmp: Path) -> None:
    keys = ["+hydra.job.env_set.A=b", "hydra.run.dir=run", "hydra.verbose=true"]
    composed = compose([*keys, "hydra.job_logging.root.level=ERROR", "hydra.sweep.dir=x"])
    assert composed.settings is not None
    job = composed.settings.hydra.job
    assert (job.env_set, composed.run.path) == ({"A": "b"}, in_tmp / "run")


def test_hydra_sweep_dir_is_refused_in_a_run_and_hydra_run_dir_in_a_sweep(in_tmp: Path) -> None:
    with pytest.raises(UserError, match=r"hydra\.sweep\.dir has no effect on a single run; .*hydra\.run\.dir"):
        compose(["hydra.sweep.dir=x"])
    with pytest.raises(UserError, match=r"hydra\.run\.dir has no effect on a sweep.*sweep\.name"):
        sweep(["seed=1,2", "hydra.run.dir=x"])
    assert list(in_tmp.iterdir()) == []


def test_hydra_run_dir_of_a_file_is_refused_in_a_sweep(in_tmp: Path) -> None:
    (in_tmp / "experiment").mkdir()
    for name, folder in (("mine", "my/runs"), ("other", "''"), ("relative", "${output_dir}/x")):
        text = f"# @package _global_\nhydra: {{run: {{dir: {folder}}}}}\n"
        (in_tmp / "experiment" / f"{name}.yaml").write_text(text.replace("${output_dir}/x", "'${output_dir}/x'"))
    source = ConfigSource.of([str(in_tmp)])
    assert compose(["experiment=mine"], source=source).run.path == in_tmp / "my/runs"
    assert compose_trial(["experiment=other"], source).tree["seed"] == 42
    for overrides, begin in (
        (["experiment=mine", "seed=1,2"], r"hydra\.run\.dir=my/runs"),
        (["experiment=other,mine"], r"experiment=mine: hydra\.run\.dir=my/runs"),
        (["experiment=relative", "seed=1,2"], r"hydra\.run\.dir=\$\{output_dir\}/x"),
    ):
        with pytest.raises(UserError, match=rf"^{begin} in a config file has no effect on a sweep.*sweep\.name"):
            sweep(overrides, source)
    assert not (in_tmp / "outputs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["OPSIN_TARGETS", "LD_PRELOAD", "PYTHONPATH", "PATH", "HTTPS_PROXY", "GIT_SSH_COMMAND"]
)
def test_a_config_file_sets_no_variable_that_can_load_code(name: str, in_tmp: Path) -> None:
    text = f"hydra:\n  job:\n    env_set: {{OMP_NUM_THREADS: 1, {name}: evil}}\n"
    (in_tmp / "mine.yaml").write_text(f"defaults: [train, _self_]\n{text}")
    (in_tmp / "experiment").mkdir()
    (in_tmp / "experiment" / "theirs.yaml").write_text(f"# @package _global_\n{text}")
    for overrides, config in (([], "mine"), (["experiment=theirs"], "train")):
        with pytest.raises(UserError, match=rf"hydra\.job\.env_set\.{name} in a config file is not accepted"):
            compose(overrides, source=ConfigSource.of([str(in_tmp)], config))
    typed = compose([f"+hydra.job.env_set.{name}=mine"]).settings
    assert typed is not None
    assert typed.hydra.job.env_set == {name: "mine"}


@pytest.mark.parametrize("key", ["hydra/sweeper=basic", "hydra/launcher=basic"])
def test_no_sweeper_or_launcher_of_hydra_runs(key: str, in_tmp: Path) -> None:
    """Hydra would instantiate the sweeper, the launcher, and every `_target_` inside them."""
    evil = "+hydra.sweeper.params.x={_target_: os.system, command: touch victim}"
    with pytest.raises(UserError, match="has no effect in Opsin"):
        sweep([key, evil, "seed=1,2"])
    assert main(["-m", key, evil, "seed=1,2"]) == 1
    assert not (in_tmp / "victim").exists()
