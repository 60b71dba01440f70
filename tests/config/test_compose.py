"""One composition for every caller: search path, values of the process, home folder, secrets, resume, flags."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import yaml

from opsin.commands.dispatch import main as dispatch
from opsin.commands.dispatch import main_of
from opsin.config import (
    CommandLine,
    ConfigOrigin,
    ConfigSource,
    RunConfig,
    compose,
    compose_raw,
    read_command_line,
    show,
)
from opsin.config.compose import compose_trial
from opsin.config.resume_rules import changed_values
from opsin.config.saved_config import find_unfinished, from_saved
from opsin.config.secrets import (
    is_secret_key,
    is_secret_variable,
    refuse_literal_secrets,
    refuse_typed_secrets,
    reveal,
    secret_reference,
    secret_variables,
)
from opsin.config.sections import SECTIONS
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.runs.home import expand_home
from opsin.runs.result import RunResult
from opsin.runs.secret_values import mask_secrets
from opsin.training.plan import make_plan


@pytest.fixture
def folder(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's config files, inside a folder whose name Hydra's grammar does not accept."""
    conf = in_tmp / "my configs (ü)"
    (conf / "experiment").mkdir(parents=True)
    (conf / "experiment" / "mine.yaml").write_text("# @package _global_\noptimizer:\n  lr: 0.0031\n")
    (conf / "mine.yaml").write_text("defaults:\n  - train\n  - _self_\nseed: 17\n")
    monkeypatch.setenv("HOME", str(in_tmp / "home"))
    return conf


@pytest.fixture(scope="module")
def composed_once() -> RunConfig:
    return compose(["model=mlp"])


@pytest.fixture
def saved(composed_once: RunConfig, in_tmp: Path) -> RunConfig:
    """The config of a run that can be saved below `outputs` of the working directory."""
    outputs = in_tmp / "outputs"
    tree = {**composed_once.tree, "output_dir": str(outputs)}
    return replace(composed_once, tree=tree, run=RunDirectory(outputs / "new"))


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--config-dir", "-cd"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_config_dir_flag_is_accepted_at_any_position(flag: str, place: int, folder: Path) -> None:
    arguments = ["experiment=mine", "model=mlp"]
    arguments[place:place] = [flag, folder.name]
    line = read_command_line(arguments)
    composed = compose(line.overrides, source=line.source)
    assert composed.tree["optimizer"]["lr"] == 0.0031
    assert composed.origin.source == ConfigSource((str(folder),))
    assert composed.origin.of("optimizer.lr").endswith("mine.yaml")
    with pytest.raises(UserError, match="experiment=mine is not known"):
        compose(["experiment=mine"])


def test_the_primary_config_of_the_user_is_used(folder: Path) -> None:
    line = read_command_line(["model=mlp", "--config-name=mine", "-cd", str(folder)])
    assert compose(line.overrides, source=line.source).tree["seed"] == 17
    assert line.source.flags == ("--config-name", "mine", "--config-dir", str(folder))
    assert read_command_line([*line.source.flags, "model=mlp"]) == line


def test_a_search_path_in_an_override_is_recorded_too(folder: Path) -> None:
    folder.rename(folder.with_name("conf"))
    composed = compose(["hydra.searchpath=[file://conf]", "experiment=mine"])
    assert composed.origin.source.search_path == (str(folder.with_name("conf")),)


def test_the_search_path_is_recorded_and_not_needed_for_a_resume(folder: Path) -> None:
    composed = compose(["experiment=mine"], Path("run"), ConfigSource.of([str(folder)]))
    composed.save()
    record = yaml.safe_load(composed.run.overrides.read_text())
    assert record["search_path"] == [str(folder)]
    folder.rename(folder.with_name("gone"))
    resumed = compose(["resume=run", "trainer.max_epochs=7"])
    assert (resumed.resumes, resumed.tree["optimizer"]["lr"], resumed.tree["trainer"]["max_epochs"]) == (
        True,
        0.0031,
        7,
    )
    assert resumed.origin.source.search_path == (str(folder),)
    assert resumed.origin.folders == ()


@pytest.mark.parametrize("value", ["True", "true", "false"])
def test_a_truth_value_is_no_run_to_resume(value: str) -> None:
    with pytest.raises(UserError, match=rf"(?i)resume={value} is not a run: set resume=auto"):
        compose([f"resume={value}"])


@pytest.mark.slow
def test_resume_auto_requires_the_same_config_files(folder: Path) -> None:
    source = ConfigSource.of([str(folder)])
    overrides = ["model=mlp", "resume=auto"]
    begun = compose(overrides, source=source)
    begun.save()
    begun.run.write_result(RunResult(status="interrupted"))
    assert compose(overrides, source=source).run == begun.run
    assert not compose(overrides).resumes
    begun.run.write_result(RunResult(status="finished"))
    assert not compose(overrides, source=source).resumes


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("result.json", '{"schema_version": 999}'),
        ("result.json", "{"),
        ("config.yaml", "model: [\n"),
        ("config.yaml", "model: cnn_gap\n"),
        ("overrides.yaml", "overrides: {a: 1}\n"),
        ("overrides.yaml", None),
    ],
)
def test_resume_auto_skips_a_run_that_cannot_be_read(
    file: str, text: str | None, in_tmp: Path, caplog: pytest.LogCaptureFixture, saved: RunConfig
) -> None:
    older, damaged = (replace(saved, run=RunDirectory(in_tmp / "outputs" / name)) for name in ("older", "damaged"))
    for begun in (older, damaged):
        begun.save()
        begun.run.write_result(RunResult(status="interrupted"))
    (damaged.run.path / file).unlink()
    if text is None:
        (damaged.run.path / file).mkdir()
    else:
        (damaged.run.path / file).write_text(text)
    os.utime(older.run.config, (1, 1))
    assert find_unfinished(saved) == older.run
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [f"resume=auto skips {damaged.run.path}"]
    shutil.rmtree(older.run.path)
    assert find_unfinished(saved) is None


@pytest.mark.slow
def test_each_resume_applies_the_settings_of_hydra(in_tmp: Path) -> None:
    overrides = ["model=mlp", "resume=auto"]
    begun = compose(overrides)
    begun.save()
    begun.run.write_result(RunResult(status="interrupted"))
    settings = ["+hydra.job.env_set.OMP_NUM_THREADS=1", "hydra.verbose=true", "hydra/job_logging=none"]
    for resume in (overrides, [f"resume={begun.run.path}"]):
        resumed = compose([*resume, *settings])
        assert resumed.run.path == begun.run.path
        assert resumed.settings is not None
        hydra = resumed.settings.hydra
        assert (dict(hydra.job.env_set), hydra.verbose) == ({"OMP_NUM_THREADS": "1"}, True)
        assert hydra.runtime.choices["hydra/job_logging"] == "none"
        assert hydra.runtime.output_dir == str(begun.run.path)
    named = compose([*overrides, f"hydra.run.dir={begun.run.path}", "hydra.verbose=true"])
    assert named.resumes
    assert named.settings is not None
    assert named.settings.hydra.verbose


@pytest.mark.slow
@pytest.mark.parametrize("status", ["interrupted", "finished"])
def test_resume_auto_refuses_a_run_of_another_command_in_the_named_directory(
    status: Literal["interrupted", "finished"], folder: Path
) -> None:
    named = ["model=mlp", "hydra.run.dir=run"]
    begun = compose([*named, "resume=auto"])
    begun.save()
    begun.run.write_result(RunResult(status=status))
    assert compose(["resume=auto", *named, "hydra.verbose=true"]).run.path == begun.run.path
    way_out = r"holds a run of another one: .*train model=mlp.*resume=\S+run KEY=VALUE; .* another hydra\.run\.dir"
    for others in (["model=cnn_gap"], ["model=mlp", "optimizer.lr=0.5"], []):
        with pytest.raises(UserError, match=way_out):
            compose([*others, "hydra.run.dir=run", "resume=auto"])
    with pytest.raises(UserError, match=way_out):  # the same overrides and other config files
        compose([*named, "resume=auto"], source=ConfigSource.of([str(folder)]))
    assert compose(["resume=run", "optimizer.lr=0.5"]).tree["optimizer"]["lr"] == 0.5


@pytest.mark.slow
def test_resume_auto_starts_a_run_in_the_named_directory_though_another_one_is_unfinished(in_tmp: Path) -> None:
    begun = compose(["model=mlp"])
    begun.save()
    begun.run.write_result(RunResult(status="interrupted"))
    assert compose(["model=mlp", "resume=auto"]).run.path == begun.run.path
    named = compose(["model=mlp", "resume=auto", "hydra.run.dir=fresh"])
    assert (named.resumes, named.run.path) == (False, in_tmp / "fresh")


def test_a_config_file_can_resume_the_newest_run_but_names_none(in_tmp: Path) -> None:
    experiments = in_tmp / "configs" / "experiment"
    experiments.mkdir(parents=True)
    for name, value in [("preemptible", "auto"), ("fixed", "outputs/latest")]:
        (experiments / f"{name}.yaml").write_text(f"# @package _global_\nresume: {value}\n")
    source = ConfigSource.of([str(in_tmp / "configs")])
    begun = compose(["experiment=preemptible"], source=source)
    assert (begun.resumes, begun.tree["resume"]) == (False, None)
    begun.save()
    begun.run.write_result(RunResult(status="interrupted"))
    assert compose(["experiment=preemptible"], source=source).run.path == begun.run.path
    assert not compose(["experiment=preemptible", "resume=null"], source=source).resumes
    with pytest.raises(UserError, match=r"resume=outputs/latest in a config file .* train resume=outputs/latest"):
        compose(["experiment=fixed"], source=source)


@pytest.mark.parametrize("resume", ["resume=outputs/latest", 'resume="my run"'])
def test_a_sweep_refuses_to_resume_one_run(resume: str, in_tmp: Path) -> None:
    with pytest.raises(UserError, match=rf"{resume} has no effect on a sweep.*train.*resumes that run"):
        compose_trial(["model=mlp", resume])
    assert not compose_trial(["model=mlp", "resume=auto"]).resumes


def variables(composed: RunConfig) -> dict[str, str]:
    assert composed.settings is not None
    return dict(composed.settings.hydra.job.env_set)


@pytest.mark.slow
def test_a_resume_keeps_the_harmless_environment_variables(in_tmp: Path) -> None:
    typed = ["+hydra.job.env_set.WANDB_MODE=offline", "+hydra.job.env_set.OMP_NUM_THREADS=2"]
    begun = compose(["model=mlp", *typed, "+hydra.job.env_set.PYTHONPATH=mine"])
    begun.save()
    resume = f"resume={begun.run.path}"
    assert variables(compose([resume])) == {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "2"}
    other = compose([resume, "+hydra.job.env_set.WANDB_MODE=online"])
    assert variables(other) == {"WANDB_MODE": "online", "OMP_NUM_THREADS": "2"}
    assert variables(compose([resume, "+hydra.job.env_set={NCCL_DEBUG: INFO}"])) == {"NCCL_DEBUG": "INFO"}


def test_a_run_directory_sets_no_variable_that_can_load_code(saved: RunConfig) -> None:
    saved.save()
    foreign = {"LD_PRELOAD": "evil", "OPSIN_TARGETS": "evil", "WANDB_MODE": "${oc.env:MY_TOKEN}", "NCCL_DEBUG": "INFO"}
    record = yaml.safe_load(saved.run.overrides.read_text()) | {"variables": foreign}
    saved.run.overrides.write_text(yaml.safe_dump(record))
    assert RunConfig.load(saved.run).origin.variables == {"NCCL_DEBUG": "INFO"}


def test_resume_auto_does_not_mean_a_run_directory_named_auto(in_tmp: Path) -> None:
    compose([], in_tmp / "auto").save()
    assert not compose(["resume=auto"]).resumes
    named = compose(["resume=./auto"])
    assert named.resumes
    assert named.run.path.resolve() == in_tmp / "auto"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["resume=run", "model=mlp"], "model=mlp cannot be changed"),
        (["resume=run", "optimizer.lrr=1"], "did you mean optimizer.lr=1"),
        (["resume=run", "hydra.run.dir=other"], "leave out hydra.run.dir"),
        (["resume=nothing"], "nothing is not a run directory"),
        (["launcher.jobs=2"], "needs a multirun"),
    ],
)
def test_wrong_overrides_end_in_one_message(overrides: list[str], part: str, in_tmp: Path) -> None:
    compose([], in_tmp / "run").save()
    with pytest.raises(UserError, match=part):
        compose(overrides)


@pytest.mark.slow
def test_values_of_the_process_are_resolved_and_references_to_keys_are_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASK", "7")
    composed = compose(
        [
            'seed="${oc.decode:${oc.env:TASK}}"',
            "output_dir=runs/${now:%Y}-${oc.env:TASK}",
            "trainer.max_epochs=${seed}",
            "+logger.tensorboard.name=${oc.env:TASK}_${optimizer.lr}_${hydra:job.name}",
        ],
        Path("run"),
    )
    composed.save()
    monkeypatch.delenv("TASK")
    text = yaml.safe_load(composed.run.config.read_text())
    assert text["seed"] == 7
    assert text["output_dir"].endswith("-7")
    assert text["trainer"]["max_epochs"] == "${seed}"
    assert text["logger"]["tensorboard"]["name"] == "7_${optimizer.lr}_train"
    assert RunConfig.load(composed.run).tree == composed.tree
    changed = compose(["resume=run", "seed=3", "optimizer.lr=0.5"])
    assert (changed.tree["trainer"]["max_epochs"], changed.tree["logger"]["tensorboard"]["name"]) == (3, "7_0.5_train")


def test_a_reference_typed_at_a_resume_is_a_change_and_is_resolved(
    saved: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch")
    monkeypatch.setenv("STEPS", "64")
    monkeypatch.setenv("WANDB_API_KEY", "abcdef123456")
    base = {"datamodule.base_batch_size": 16, "datamodule.batch_size": 8}
    saved = saved.changed(base | {"optimizer.lr": "${datamodule.base_batch_size}"})
    saved.save()
    changes = [
        "datamodule.batch_size=${datamodule.base_batch_size}",
        "data_dir=${oc.env:SCRATCH}/data",
        "+tags=[${oc.env:STEPS}]",
        "+logger.w.api_key=${oc.env:WANDB_API_KEY}",
    ]
    resumed = from_saved(saved.run, changes)
    text = yaml.safe_load(resumed.text)
    assert (text["data_dir"], text["tags"]) == ("/scratch/data", ["64"])
    assert text["logger"]["w"]["api_key"] == "${oc.env:WANDB_API_KEY}"
    assert text["datamodule"]["batch_size"] == "${datamodule.base_batch_size}"
    changed = changed_values(resumed, saved)
    assert {key: new for key, (_, new) in changed.items()} == {
        "data_dir": "/scratch/data",
        "datamodule.batch_size": 16,
        "tags": ["64"],
        "logger.w.api_key": "${oc.env:WANDB_API_KEY}",
    }
    follows = changed_values(saved.changed({"datamodule.base_batch_size": 4}), saved)
    assert list(follows) == ["datamodule.base_batch_size"]  # and not the unchanged reference to it


def test_a_missing_variable_is_named(in_tmp: Path) -> None:
    with pytest.raises(UserError, match=r"OPSIN_NOT_SET is not set.*\(at seed\)"):
        compose(["seed=${oc.env:OPSIN_NOT_SET}"])


@pytest.mark.slow
def test_the_home_folder_is_expanded_in_every_path(folder: Path) -> None:
    home = folder.parent / "home"
    (home / "photos").mkdir(parents=True)
    composed = compose(
        [
            "output_dir='~/runs'",
            "data_dir='~/data'",
            "datamodule=image_folder",
            "datamodule.path='~/photos'",
            "hydra.run.dir='~/mine'",
            "+logger.tensorboard.folder='~/logs'",
        ]
    )
    tree = composed.tree
    assert (tree["output_dir"], tree["data_dir"]) == (f"{home}/runs", f"{home}/data")
    assert (tree["datamodule"]["path"], tree["datamodule"]["data_dir"]) == (f"{home}/photos", f"{home}/data")
    assert tree["logger"]["tensorboard"]["folder"] == f"{home}/logs"
    assert composed.run.path == home / "mine"
    composed.save()
    assert compose(["resume='~/mine'"]).run == composed.run
    folder.rename(home / "conf")
    assert read_command_line(["--config-dir=~/conf"]).source.search_path == (f"{home}/conf",)
    assert expand_home("~no_such_user/x") == "~no_such_user/x"


def test_a_secret_is_stored_as_a_reference_and_resolved_on_demand_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKER_TOKEN", "s3cret-value")
    monkeypatch.setenv("TRACKER", "s3cret-value")
    overrides = [
        "+logger.tensorboard.header='Bearer ${oc.env:TRACKER_TOKEN}'",
        "+logger.tensorboard.api_key=${oc.env:TRACKER}",
        "+logger.tensorboard.again=${logger.tensorboard.header}",
    ]
    composed = compose(overrides, Path("run"))
    composed.save()
    show(CommandLine(tuple(overrides), shows="config", part="all", resolve=True))
    written = "".join(path.read_text() for path in Path("run").iterdir()) + str(composed.tree) + capsys.readouterr().out
    assert "s3cret-value" not in written
    logger = reveal(composed.tree["logger"]["tensorboard"])
    assert (logger["header"], logger["api_key"], logger["again"]) == (
        "Bearer s3cret-value",
        "s3cret-value",
        "Bearer s3cret-value",
    )
    monkeypatch.delenv("TRACKER_TOKEN")
    monkeypatch.delenv("TRACKER")
    assert RunConfig.load(RunDirectory(Path("run"))).tree == composed.tree  # the variable is not needed for reading
    with pytest.raises(UserError, match=r"TRACKER_TOKEN \(for .*TRACKER \(for"):
        compose(["resume=run"])


def test_an_address_with_a_password_is_stored_as_a_reference(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLURL", "https://me:hunter22@mlflow.example.com")
    monkeypatch.setenv("PGPASSWORD", "hunter22")
    monkeypatch.setenv("PLACE", "https://mlflow.example.com")
    overrides = [
        "+logger.x.address=${oc.env:MLURL}",
        "+logger.x.composed='https://me:${oc.env:PGPASSWORD}@host'",
        "+logger.x.open=${oc.env:PLACE}",
        "+callbacks.pruning.storage=${oc.env:MLURL}",  # a sweep sets it to its own storage
    ]
    composed = compose(overrides, Path("run"))
    composed.save()
    show(CommandLine(tuple(overrides), shows="config", part="all", resolve=True))
    written = "".join(path.read_text() for path in Path("run").iterdir()) + str(composed.tree) + capsys.readouterr().out
    assert "hunter22" not in written
    assert reveal(composed.tree["logger"]["x"]) == {
        "address": "https://me:hunter22@mlflow.example.com",
        "composed": "https://me:hunter22@host",
        "open": "https://mlflow.example.com",
    }
    assert mask_secrets("Invalid password: hunter22") in {
        f"Invalid password: {secret_reference(name)}" for name in ("MLURL", "PGPASSWORD")
    }
    assert {"MLURL", "PGPASSWORD"} == secret_variables(composed.tree)
    with pytest.raises(UserError, match=r"tags\[0\]=\$\{oc\.env:MLURL\}: this variable is an address with a password"):
        compose(["tags=[${oc.env:MLURL}]"])
    monkeypatch.delenv("MLURL")
    assert RunConfig.load(RunDirectory(Path("run"))).tree == composed.tree  # the variable is not needed for reading
    with pytest.raises(UserError, match=r"Not set in the environment: MLURL \(for "):
        compose(["resume=run"])


@pytest.mark.parametrize(
    "override",
    [
        "+logger.wandb.api_key=hunter2",
        "+callbacks.x.token=hunter2",
        "+logger.x.password='hunter2'",
        "+logger.x={_target_: a.b, password: hunter2}",
        "+logger.x.uri=https://me:hunter2@host/x",
        "sweep.storage=postgresql://me:hunter2@host/x",
        "+logger.x.auth_key=${oc.env:A,hunter2}",
        "+logger.x.url=${oc.env:MY_TOKEN,hunter2}",
    ],
)
def test_a_literal_secret_is_refused_and_not_repeated(override: str, in_tmp: Path) -> None:
    with pytest.raises(UserError, match=r"\$\{oc\.env:") as error:
        compose([override])
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["photos", "logger=wandb", "logger.wandb.api_key=hunter2"],
        ["photos", "+logger.x={url: null, token: hunter2}"],
        ["photos", "+logger=[{token: hunter2}]"],
        ["photos", "launcher.setup=[export HF_TOKEN=hunter2]"],
        ["photos", "+hydra.job.env_set={HF_TOKEN: hunter2}"],
        ["photos", "+hydra.job.env_set.DB_PASS=hunter2"],
        ["photos", "+hydra.job={env_set: {OPENAI_KEY: hunter2}}"],
        ["-m", "photos", "++hydra.job.env_set.BASIC_AUTH=hunter2"],
        ["-m", "photos", "sweep.storage=postgresql://me:hunter2@host/x"],
        ["+logger.x={token: hunter2("],
        ["logger.x.token=a{hunter2"],
        ["--logger.x.api_key=hunter2"],
        ["--api-key", "hunter2"],
        ["resume=run", "logger.wandbb.api_key=hunter2"],
        ["--cfg", "job", "logger.x.token=hunter2"],
    ],
)
def test_no_command_repeats_a_typed_secret(
    arguments: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_tmp / "photos" / "cats").mkdir(parents=True)
    for name in ("train", "find-lr"):
        assert main_of(name)(arguments) == 1
        printed = "".join(capsys.readouterr())
        assert "a secret must not be written" in printed
        assert "hunter2" not in printed


def test_a_typed_secret_is_not_repeated_where_the_command_or_the_key_is_wrong(
    in_tmp: Path, capsys: pytest.CaptureFixture[str], saved: RunConfig
) -> None:
    assert dispatch(["logger.wandb.api_key=hunter2"]) == 1
    assert "hunter2" not in "".join(capsys.readouterr())
    saved.save()
    with pytest.raises(UserError, match="a secret must not be written") as error:
        from_saved(saved.run, ["logger.wandbb.api_key=hunter2"])
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "argument",
    [
        *("+logger.x={api_key: ${oc.env:WANDB_API_KEY}}", "logger.x.api_key=${oc.env:K}", "model={a: 1"),
        *("+model.class_token=false", "+model.token=TRUE,null", "++model.prefix_token=4", "+model.mask_token=.02,1e-3"),
        *("+model={class_token: true, token_dim: 192}", "+model.token_size=4096", "logger.x.api_key=null"),
        *("photos/a=b", "launcher.setup=[module load cuda]", "trainer.max_epochs=3", "--config-dir"),
    ],
)
def test_other_arguments_are_no_secrets(argument: str) -> None:
    with pytest.raises(UserError) as error:  # which names every secret
        refuse_typed_secrets([argument, "photos", "logger.z.password=hunter2"])
    assert str(error.value).startswith("logger.z.password: a secret must not be written")


@pytest.mark.parametrize("argument", ["logger.x.token=1234", "logger.x.token=true,hunter2", "logger.x.password=12e456"])
def test_a_long_number_or_a_word_may_be_a_secret(argument: str) -> None:
    with pytest.raises(UserError, match=r"^logger\.x\.\w+: a secret must not be written"):
        refuse_typed_secrets([argument])


def test_a_switch_and_a_size_of_tokens_in_a_file_are_no_secrets() -> None:
    refuse_literal_secrets({"model": {"class_token": True, "token_dim": 192, "mask_token": 0.0001, "pad_token": 0}})
    for value in (1234, float("inf"), "hunter2"):
        with pytest.raises(UserError, match="a secret must not be written"):
            refuse_literal_secrets({"model": {"mask_token": value}})


def test_a_literal_secret_in_a_file_is_refused(folder: Path) -> None:
    (folder / "experiment" / "mine.yaml").write_text("# @package _global_\nlogger:\n  x:\n    api_token: hunter2\n")
    with pytest.raises(UserError, match=r"logger\.x\.api_token") as error:
        compose(["experiment=mine"], source=ConfigSource.of([str(folder)]))
    assert "hunter2" not in str(error.value)


def test_variables_and_keys_of_secrets_are_recognized_by_name() -> None:
    for name in (
        "WANDB_API_KEY",
        "HF_TOKEN",
        "DB_PASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "githubToken",
        "DB_PASS",
        "PGPASSWORD",
    ):
        assert is_secret_variable(name), name
    for name in ("PWD", "HOME", "MONKEY", "SLURM_ARRAY_TASK_ID", "KEYBOARD", "PASSWORDLESS"):
        assert not is_secret_variable(name), name
    for key in (
        "a.api_key",
        "token",
        "logger.hfToken",
        "x.client_secret",
        "a.accessKey",
        "credentials.user",
        "b[0].password",
    ):
        assert is_secret_key(key), key
    for key in (
        "hydra.job.env_set.PWD",
        "sort_key",
        "num_token",
        "monkey",
        "token_logger.path",
        "model.token_dim",
        "model.classTokenSize",
        "model.keys",
        "optimizer.lr",
    ):
        assert not is_secret_key(key), key


@pytest.mark.parametrize(
    "arguments",
    [
        ["--cfg", "job", "-p", "optimizer", "experiment=mine", "--config-dir", "CONF"],
        ["experiment=mine", "-cd", "CONF", "--package", "optimizer", "-c", "job", "--resolve"],
        ["-cd=CONF", "experiment=mine", "--cfg=job", "--package=optimizer"],
    ],
)
def test_cfg_prints_a_section_in_any_order(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show(read_command_line([argument.replace("CONF", str(folder)) for argument in arguments]))
    printed = capsys.readouterr().out
    assert printed.startswith("# @package optimizer\n")
    assert yaml.safe_load(printed)["lr"] == 0.0031


@pytest.mark.slow
def test_cfg_of_a_resumed_run_prints_its_config(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compose(["experiment=mine"], Path("run"), ConfigSource.of([str(folder)])).save()
    for arguments in (["resume=run", "seed=5", "--cfg", "job"], ["--cfg", "job", "seed=5", "resume=run"]):
        show(read_command_line(arguments))
        printed = yaml.safe_load(capsys.readouterr().out)
        assert (printed["optimizer"]["lr"], printed["seed"], "hydra" in printed) == (0.0031, 5, False)


@pytest.mark.slow
def test_info_and_completion_include_the_config_dir_of_the_user(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show(read_command_line(["experiment=mine", "--info", "-cd", str(folder)]))
    assert str(folder) in capsys.readouterr().out
    monkeypatch.setenv("COMP_LINE", f"train.py model=mlp -cd '{folder}' experiment=mi")
    show(read_command_line(["-sc", "query=bash"]))
    assert "experiment=mine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--cfg", "job", "--info", "config"], "--cfg.*--info|--info.*--cfg"),
        (["--cfg", "everything"], "invalid choice"),
        (["--resolve"], "need --cfg"),
        (["--config-path", "x"], "--config-dir"),
        (["--config-dir", "no_such_folder"], "no_such_folder: there is no such folder"),
        (["--no-such-flag"], "no-such-flag"),
    ],
)
def test_wrong_flags_end_in_one_message(arguments: list[str], part: str, in_tmp: Path) -> None:
    with pytest.raises(UserError, match=part):
        read_command_line(arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("logger: csv", "logger is 'csv' .* `- override /logger: csv`"),
        ("logger: ${oc.env:HOME}", "logger is '/.* instead of a section"),
        ("model: null", "model is None .* `- override /model: OPTION`"),
        ("monitor: val/loss", r"monitor is 'val/loss' .* in a file monitor: {metric: val/loss}\?$"),
        ("monitor: null", "monitor is None .* such as monitor: {"),
        ("distillation: logits", "distillation is 'logits' .* such as distillation: {"),
        ("callbacks: ema", "callbacks is 'ema' .* `- override /callbacks: ema`"),
        ("callbacks: {mine: 5}", r"callbacks\.mine is 5 instead of a section"),
    ],
)
def test_a_section_without_keys_is_refused_with_the_right_form(text: str, message: str, folder: Path) -> None:
    (folder / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    with pytest.raises(UserError, match=message):
        compose(["experiment=mine"], source=ConfigSource((str(folder),)))
    if "${" not in text:  # the runs of a sweep report the value of a reference
        with pytest.raises(UserError, match=message):
            compose_raw(["experiment=mine"], ConfigSource((str(folder),)))


@pytest.mark.slow
def test_every_key_outside_a_section_takes_a_value_of_any_kind_or_refuses_it_in_one_message(in_tmp: Path) -> None:
    keys = [str(key) for key in compose_raw([]) if key not in SECTIONS]
    assert {"seed", "output_dir", "data_dir", "tags"} <= set(keys)
    refused = set()
    for key in keys:
        for value in ("null", "[a]", "{a: 1}", "3"):
            try:
                make_plan(compose([f"{key}={value}"]))
            except UserError:
                refused.add((key, value))
    assert {("output_dir", value) for value in ("null", "[a]", "{a: 1}")} <= refused
    assert ("output_dir", "3") not in refused  # the name of a folder
    assert list(in_tmp.iterdir()) == []


@pytest.mark.parametrize("value", ["null", "[a]", "{a: 1}", "true", "5", "${seed}"])
def test_an_output_dir_that_is_no_path_is_refused(value: str, folder: Path) -> None:
    (folder / "experiment" / "mine.yaml").write_text(f"# @package _global_\noutput_dir: {value}\n")
    with pytest.raises(UserError, match=r"^output_dir must be a path, not .*output_dir=outputs"):
        compose(["experiment=mine"], source=ConfigSource.of([str(folder)]))
    if "$" not in value:
        with pytest.raises(UserError, match=r"^output_dir must be a path"):  # a sweep
            compose_raw(["experiment=mine"], ConfigSource.of([str(folder)]))


@pytest.mark.parametrize("words", [["hydra.run.dir=run", "resume=auto"], []])
def test_an_output_dir_is_needed_in_every_form_of_the_command(words: list[str], in_tmp: Path) -> None:
    for typed in ("output_dir=null", "~output_dir"):
        with pytest.raises(UserError, match=r"^output_dir must be a path, not None"):
            compose([typed, *words])


def test_a_section_cannot_be_replaced_at_a_resume(saved: RunConfig) -> None:
    with pytest.raises(UserError, match=r"callbacks\.mine is 5 instead of a section"):
        saved.changed({"callbacks.mine": 5})
    assert saved.changed({"callbacks.early_stopping": None}).tree["callbacks"]["early_stopping"] is None


def test_an_unknown_section_is_named(in_tmp: Path) -> None:
    with pytest.raises(UserError, match="no such section"):
        show(read_command_line(["--cfg", "job", "-p", "nothing"]))


def test_hydra_is_the_version_that_the_session_was_written_for() -> None:
    import hydra

    assert hydra.__version__.startswith("1.3."), "check every private name in opsin/config/hydra_session.py"
    assert compose_raw(["hydra.verbose=true"]).hydra.verbose is True


@pytest.mark.parametrize("override", ["~trainer={}", "~callbacks={a: 1}", "~datamodule=1"])
def test_the_message_of_a_deletion_with_another_value_is_short(override: str) -> None:
    with pytest.raises(UserError) as raised:
        compose([override])
    assert len(str(raised.value)) < 300


def test_several_options_of_a_group_are_recorded_and_their_files_are_named(folder: Path) -> None:
    defaults = "defaults:\n  - override /logger: [csv, tensorboard]\n  - _self_\n"
    (folder / "experiment" / "lists.yaml").write_text(f"# @package _global_\n{defaults}")
    source = ConfigSource.of([str(folder)])
    typed = ["callbacks=[default,ema]", "model=[mlp]", "datamodule=[digits]", "experiment=[mine,lists]"]
    origin = compose(typed, source=source).origin
    assert {group: origin.choices[group] for group in ("callbacks", "model", "datamodule", "experiment", "logger")} == {
        "callbacks": "[default,ema]",
        "model": "[mlp]",
        "datamodule": "[digits]",
        "experiment": "[mine,lists]",
        "logger": "[csv,tensorboard]",
    }
    places = ("optimizer.lr", "callbacks.ema.decay", "callbacks.early_stopping.patience", "model.hidden")
    files = ("mine", "callbacks/ema", "callbacks/default", "model/mlp")
    for place, file in zip(places, files, strict=True):
        assert f"{file}.yaml" in origin.of(place)
    assert "callbacks" not in compose(["~callbacks"]).origin.choices


GLOBAL = "# @package _global_\n"


@pytest.mark.parametrize(
    ("group", "text", "message"),
    [
        ("experiment", "trainer: {max_epochs: 1}", "experiment=mine: a file of configs/experiment that sets keys of"),
        ("debug", "seed: 3", "debug=mine: a file of configs/debug that sets keys of other sections begins with the"),
        ("experiment", "defaults: [override /model: mlp]", "In 'experiment/mine': a file of configs/experiment that"),
        ("debug", "defaults: [override /trainer: cpu]", "In 'debug/mine': a file of configs/debug that sets keys"),
        ("experiment", f"{GLOBAL}defaults: [model: mlp]", "In 'experiment/mine': a file chooses an option with the "),
        ("debug", f"{GLOBAL}defaults: [override trainer: cpu]", "In 'debug/mine': a file chooses an option with the "),
        ("experiment", f"{GLOBAL}defaults: [/optimizer: sgd]", "optimizer is chosen twice: a file chooses an option "),
        ("experiment", f"{GLOBAL}defaults: [override /modle: mlp]", "In 'experiment/mine': there is no config group "),
        (
            "experiment",
            f"{GLOBAL}defaults: [override /trainer: gpus]",
            "In 'experiment/mine': trainer=gpus is not known: ",
        ),
        (
            "debug",
            f"{GLOBAL}defaults: [override /logger: [csv, wandbb]]",
            "In 'debug/mine': logger=wandbb is not known",
        ),
        ("optimizer", "defaults: [adan]", "In 'optimizer/mine': optimizer=adan is not known"),
    ],
)
def test_common_mistakes_in_own_files_get_the_line_to_write(
    group: str, text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / group).mkdir()
    (tmp_path / group / "mine.yaml").write_text(f"{text}\n")
    with pytest.raises(UserError) as caught:
        compose([f"{group}=mine"], source=ConfigSource.of([str(tmp_path)]))
    assert str(caught.value).startswith(message)
    assert any(line in str(caught.value) for line in ("`# @package _global_`", "`- override /", "did you mean "))


@pytest.mark.parametrize(
    ("group", "other", "section", "key", "value"),
    [
        ("experiment", "mnist_fast", "datamodule", "base_batch_size", 128),
        ("optimizer", "sgd", "optimizer", "momentum", 0.9),
    ],
)
def test_a_file_builds_on_another_option_of_its_group(
    group: str, other: str, section: str, key: str, value: float, tmp_path: Path
) -> None:
    (tmp_path / group).mkdir()
    file, source = tmp_path / group / "mine.yaml", ConfigSource.of([str(tmp_path)])
    begin = GLOBAL if group == "experiment" else ""
    file.write_text(f"{begin}defaults: [override /{group}: {other}]\n")
    with pytest.raises(UserError, match=rf"^In '{group}/mine': .* has no effect.* write the line `- {other}`"):
        compose([f"{group}=mine"], source=source)
    (tmp_path / group / "outer.yaml").write_text(f"{begin}defaults: [mine]\n")
    with pytest.raises(UserError, match=rf"^In '{group}/mine': .* has no effect"):
        compose([f"{group}=outer"], source=source)
    file.write_text(f"{begin}defaults: [{other}]\n")
    assert compose([f"{group}=mine"], source=source).tree[section][key] == value


def test_an_unknown_option_is_reported_with_the_file_that_chooses_it(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "base.yaml").write_text(f"{GLOBAL}defaults: [override /scheduler: cosin]\n")
    (tmp_path / "experiment" / "mine.yaml").write_text(f"{GLOBAL}defaults: [base]\n")
    (tmp_path / "own.yaml").write_text("defaults:\n  - train\n  - override augmentation: flipp\n  - _self_\n")
    folders = [str(tmp_path)]
    with pytest.raises(UserError, match=r"^In 'experiment/base': scheduler=cosin is not known: did you mean"):
        compose(["experiment=[mine]"], source=ConfigSource.of(folders))
    with pytest.raises(UserError, match=r"^In 'own': augmentation=flipp is not known: did you mean"):
        compose([], source=ConfigSource.of(folders, "own"))


@pytest.mark.parametrize("key", ["model.phases", "trainer.max_time", "trainer.nothing"])
def test_the_deletion_of_a_key_that_is_null_or_absent_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=rf"^~{key} deletes nothing: the config has no such key, or its value is null"):
        compose([f"~{key}"])


def test_the_last_of_several_overrides_of_a_key_is_its_place() -> None:
    origin = ConfigOrigin(
        choices={"optimizer": "adam"}, overrides=["seed=1", "optimizer=sgd", "optimizer=adam", "seed=x", "seed=1"]
    )
    assert origin.of("seed") == "on the command line (seed=1)"
    assert ConfigOrigin(overrides=["trainer.devices=2", "+trainer.devices=x"]).typed("trainer.devices")[0] == "+"
    assert origin.typed_choice("optimizer") == "optimizer=adam"
